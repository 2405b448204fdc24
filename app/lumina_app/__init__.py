"""Lumina's watching and steering surfaces: the dashboard (`lumina-ui`) and the notebook widget.

They read through `lumina.views`, command through `lumina.client`, and must not know the trainer or torch.
"""
