"""Writes one checkpoint so that it is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from lumina.checkpoint.canonical import CanonicalState, state_hash
from lumina.checkpoint.manifest import MANIFEST, MODEL, OPTIMIZER, STATE, Manifest
from lumina.store import atomic


def save_checkpoint(root: Path, step: int, state: CanonicalState, *, reason: str, segment: str,
                    val_loss: float | None, journal_seq: int, fingerprint: Mapping[str, Any]) -> Path:  # fmt: skip
    """Writes `root/checkpoint_step_<step>` (with a number behind it where that name is taken) and returns its path.

    Temporary folder, each file fsynced, manifest last, folder renamed, parent fsynced. Raises `OSError`.
    """
    atomic.make_folder(root)
    folder = root / f".writing_step_{step}"
    if folder.exists():  # what a killed save left behind
        atomic.remove_tree(folder)
    atomic.make_folder(folder)
    moments = {f"exp_avg.{name}": tensor for name, tensor in state.exp_avg.items()}
    moments.update({f"exp_avg_sq.{name}": tensor for name, tensor in state.exp_avg_sq.items()})
    moments.update({f"sidecar.{name}": tensor for name, tensor in state.sidecar.items()})
    tensors = {f"params.{name}": tensor for name, tensor in state.params.items()}
    tensors.update({f"buffers.{name}": tensor for name, tensor in state.buffers.items()})
    contents = {
        MODEL: save({name: tensor.contiguous() for name, tensor in tensors.items()}),
        OPTIMIZER: save({name: tensor.contiguous() for name, tensor in moments.items()}),
        STATE: json.dumps({"adam_step": state.adam_step, "meta": state.meta}).encode(),
    }
    files = {}
    for name, data in contents.items():
        atomic.write_file(folder / name, data)
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest = Manifest(
        step, segment, reason, val_loss, journal_seq, time.time(), state_hash(state), dict(fingerprint), files
    )
    atomic.write_file(folder / MANIFEST, manifest.to_bytes())
    atomic.fsync_dir(folder)
    target = free_name(root, step)
    atomic.rename_new(folder, target)
    return target


def free_name(root: Path, step: int) -> Path:
    """`checkpoint_step_<step>`, or the same with _2, _3 ... behind it."""
    target, number = root / f"checkpoint_step_{step}", 1
    while target.exists():
        number += 1
        target = root / f"checkpoint_step_{step}_{number}"
    return target
