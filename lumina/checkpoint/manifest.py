"""The manifest of a checkpoint: what it is of, and the size and checksum of each of its files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Manifest:
    """Version 1. `files` maps a file's name to {sha256, bytes}; `journal_seq` is the last entry that the state had."""

    step: int
    segment: str
    reason: str
    val_loss: float | None
    journal_seq: int
    created: float
    state_hash: str
    fingerprint: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    shards: int = 1
    v: int = 1

    def to_bytes(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), indent=1).encode()


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest, or None when it has none that can be read."""
    try:
        doc = json.loads((folder / MANIFEST).read_bytes())
        return Manifest(**doc) if isinstance(doc, dict) and doc.get("v") == 1 else None
    except (OSError, ValueError, TypeError):
        return None
