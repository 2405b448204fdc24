"""Checkpoints: folders of safetensors with a manifest of checksums; no pickle is ever written or loaded."""

from lumina.checkpoint.canonical import CanonicalState, state_hash
from lumina.checkpoint.load import Attempt, abandon, list_checkpoints, load_checkpoint
from lumina.checkpoint.manifest import Manifest
from lumina.checkpoint.save import save_checkpoint

__all__ = [
    "Attempt",
    "CanonicalState",
    "Manifest",
    "abandon",
    "list_checkpoints",
    "load_checkpoint",
    "save_checkpoint",
    "state_hash",
]
