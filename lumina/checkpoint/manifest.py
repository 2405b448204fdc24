"""The manifest of a checkpoint: what it is of, and the size and checksum of each of its files and of itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST, STATE = "manifest.json", "state.json"
MAX_BYTES = 1 << 20
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")  # it becomes a folder's name when the checkpoint is abandoned
_OWN = b',\n "sha256": "'


@dataclass(frozen=True)
class Manifest:
    """Version 1. `files` maps a file's name to {sha256, bytes}; `journal_seq` is the last entry that the state had,
    except for those in `pending`, which a resumed run had not come to yet.

    `val_loss` is that of this very state, None where it was not measured; `priority` is what the orchestrator thought
    the state worth: high, normal or low.
    """

    step: int
    segment: str
    reason: str
    val_loss: float | None
    journal_seq: int
    created: float
    state_hash: str
    fingerprint: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    epoch: int | None = None
    pending: Sequence[int] = ()
    shards: int = 1
    v: int = 1
    priority: str | None = None

    def to_bytes(self) -> bytes:
        """JSON whose last member is the sha256 of everything before that member."""
        body = json.dumps(dataclasses.asdict(self), indent=1).encode().removesuffix(b"\n}")
        return body + _OWN + hashlib.sha256(body).hexdigest().encode() + b'"\n}'


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest, or None when it has none that is whole."""
    try:
        with open(folder / MANIFEST, "rb") as file:
            data = file.read(MAX_BYTES)
        body, _, rest = data.rpartition(_OWN)
        if rest != hashlib.sha256(body).hexdigest().encode() + b'"\n}':
            return None
        manifest = Manifest(**json.loads(body + b"}"))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return manifest if _plausible(manifest) else None


def _plausible(manifest: Manifest) -> bool:
    """A checksum finds damage, not someone who writes nonsense with the right checksum."""
    counts = (manifest.v, manifest.step, manifest.journal_seq)
    return (
        all(isinstance(count, int) and count >= 0 for count in counts)
        and manifest.v == 1
        and isinstance(manifest.val_loss, int | float | None)
        and isinstance(manifest.segment, str)
        and _SEGMENT.fullmatch(manifest.segment) is not None
        and isinstance(manifest.epoch, int | None)
        and isinstance(manifest.priority, str | None)
        and isinstance(manifest.pending, list)
        and all(isinstance(seq, int) for seq in manifest.pending)
        and isinstance(manifest.files, dict)
        and all(isinstance(file, dict) and isinstance(file.get("bytes"), int) for file in manifest.files.values())
    )
