"""Finds, verifies and loads checkpoints; falls back to an older one when the wanted one is damaged, and says so."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lumina.checkpoint.canonical import CanonicalState
from lumina.checkpoint.manifest import MODEL, OPTIMIZER, STATE, Manifest, read_manifest
from lumina.store import atomic
from lumina.store.errors import Refusal


@dataclass(frozen=True)
class Attempt:
    """One checkpoint that was tried."""

    name: str
    ok: bool
    message: str


class Damaged(Exception):
    """A checkpoint whose files are not what its manifest says."""


def list_checkpoints(root: Path) -> list[tuple[Path, Manifest]]:
    """Folders with a readable manifest, oldest first (by step, then by the journal)."""
    found = []
    for folder in root.glob("checkpoint_step_*"):
        manifest = read_manifest(folder)
        if manifest is not None:
            found.append((folder, manifest))
    return sorted(found, key=lambda item: (item[1].step, item[1].journal_seq))


def best_first(found: list[tuple[Path, Manifest]]) -> list[tuple[Path, Manifest]]:
    """Those with a validation loss, lowest first."""
    rated = [item for item in found if item[1].val_loss is not None and math.isfinite(item[1].val_loss)]
    return sorted(rated, key=lambda item: (item[1].val_loss or 0.0, -item[1].step))


def load_checkpoint(root: Path, which: str | int) -> tuple[CanonicalState, Manifest, list[Attempt]]:
    """State and manifest of `latest`, `best_val` or of a step; latest and best_val fall back to what is intact.

    Raises `Refusal`: not_found for a step without a checkpoint, corrupt when nothing could be loaded.
    """
    found = list_checkpoints(root)
    if isinstance(which, int):
        wanted = [item for item in found if item[1].step == which][-1:]
        if not wanted:
            steps = ", ".join(str(item[1].step) for item in found) or "none"
            raise Refusal("not_found", f"there is no checkpoint of step {which}; there are: {steps}")
    elif which == "best_val":
        wanted = best_first(found) + found[::-1]
    elif which == "latest":
        wanted = found[::-1]
    else:
        raise Refusal("bad_argument", f"{which!r} is neither latest, best_val nor a step")
    attempts: list[Attempt] = []
    for folder, manifest in wanted:
        try:
            state = read_state(folder, manifest)
        except (Damaged, OSError, SafetensorError) as error:
            attempts.append(Attempt(folder.name, False, str(error)))
            continue
        attempts.append(Attempt(folder.name, True, f"loaded ({manifest.reason}, step {manifest.step})"))
        return state, manifest, attempts
    tried = "; ".join(f"{attempt.name}: {attempt.message}" for attempt in attempts) or "none has a readable manifest"
    raise Refusal("corrupt", f"no checkpoint in {root} can be loaded ({tried})")


def read_state(folder: Path, manifest: Manifest) -> CanonicalState:
    """The state in a folder. Raises `Damaged` naming the file when size or checksum differ."""
    data = {name: _verified(folder / name, manifest) for name in (MODEL, OPTIMIZER, STATE)}
    tensors, moments = load(data[MODEL]), load(data[OPTIMIZER])
    document = json.loads(data[STATE])
    return CanonicalState(
        params=_under("params.", tensors),
        exp_avg=_under("exp_avg.", moments),
        exp_avg_sq=_under("exp_avg_sq.", moments),
        adam_step=document["adam_step"],
        buffers=_under("buffers.", tensors),
        meta=document["meta"],
        sidecar=_under("sidecar.", moments),
    )


def _verified(path: Path, manifest: Manifest) -> bytes:
    expected = manifest.files.get(path.name)
    if expected is None:
        raise Damaged(f"{path.name} is not in the manifest")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise Damaged(f"{path.name} has {size} bytes, {expected['bytes']} expected")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise Damaged(f"{path.name} does not match its checksum")
    return data


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def abandon(root: Path, is_abandoned: Callable[[Manifest], bool]) -> None:
    """Moves such checkpoints to `abandoned/<their segment>/`, where no resume looks for them."""
    for folder, manifest in list_checkpoints(root):
        if is_abandoned(manifest):
            target = root / "abandoned" / manifest.segment / folder.name
            atomic.make_folder(target.parent)
            atomic.rename_new(folder, target)
