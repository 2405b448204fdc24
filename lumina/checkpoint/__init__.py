"""Checkpoints: folders of safetensors with a manifest of checksums; no pickle is ever written or loaded."""

from lumina.checkpoint.canonical import CanonicalState, state_hash
from lumina.checkpoint.load import Attempt, abandon, list_checkpoints, load_checkpoint, read_state, verify
from lumina.checkpoint.manifest import Manifest
from lumina.checkpoint.save import save_checkpoint
from lumina.checkpoint.snapshot import Snapshot
from lumina.checkpoint.tensors import Damaged

__all__ = [
    "Attempt",
    "CanonicalState",
    "Damaged",
    "Manifest",
    "Snapshot",
    "abandon",
    "list_checkpoints",
    "load_checkpoint",
    "read_state",
    "save_checkpoint",
    "state_hash",
    "verify",
]
