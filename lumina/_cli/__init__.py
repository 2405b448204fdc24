"""The commands of `lumina`, one module per family; `lumina.cli` joins them.

They know the client, the views and the configuration, and nothing of models or of how a run is stored.
"""
