"""The sparse transformer: dense, Mixture of Experts, Mixture of Depths, or both in one layer.

It computes losses and figures about itself; it must not know optimizers, files or what a run is.
"""

from lumina.model.transformer import ModelOutput, Transformer

__all__ = ["ModelOutput", "Transformer"]
