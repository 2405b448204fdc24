"""Writes one checkpoint so that it is there whole or not at all, in two moves: the files, then the name.

It knows files and their order on the disk; it must not know when a state is saved, nor who waits for it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lumina.checkpoint.canonical import CanonicalState
from lumina.checkpoint.manifest import MANIFEST, STATE, Manifest
from lumina.checkpoint.snapshot import Snapshot
from lumina.store import atomic

WRITING = ".writing_step_"


def save_checkpoint(root: Path, step: int, state: CanonicalState, **about: Any) -> Path:
    """Writes `state` as `root/checkpoint_step_<step>` at once and returns that path. `about` as in `write_files`."""
    return publish(root, write_files(root, step, Snapshot.of(state), **about), step)


def write_files(root: Path, step: int, snapshot: Snapshot, *, reason: str, segment: str, val_loss: float | None,
                journal_seq: int, fingerprint: Mapping[str, Any], epoch: int | None = None,
                pending: Sequence[int] = (), priority: str | None = None) -> Path:  # fmt: skip
    """The whole checkpoint under a name that no reader looks at: each file fsynced, the manifest last.

    Nothing is left behind when it raises `OSError`.
    """
    atomic.make_folder(root, parents=False)
    folder = root / f"{WRITING}{step}"
    if folder.exists():  # what a killed save left behind
        atomic.remove_tree(folder)
    atomic.make_folder(folder)
    try:
        files = _write_contents(folder, snapshot)
        digests = {name: files[name]["sha256"] for name in snapshot.files}
        manifest = Manifest(
            step, segment, reason, val_loss, journal_seq, time.time(), snapshot.hash(digests), dict(fingerprint), files,
            epoch, list(pending), priority=priority,
        )  # fmt: skip
        atomic.write_into_new(folder / MANIFEST, manifest.to_bytes())
        atomic.fsync_dir(folder)
    except OSError:
        discard(folder)
        raise
    return folder


def _write_contents(folder: Path, snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Writes every file; their checksums are computed meanwhile, on another core."""
    contents = {name: file.content for name, file in snapshot.files.items()}
    contents[STATE] = memoryview(snapshot.document)
    with ThreadPoolExecutor(1, "lumina-sha256") as pool:
        sums = {
            name: pool.submit(lambda data: hashlib.sha256(data).hexdigest(), data) for name, data in contents.items()
        }
        for name, data in contents.items():
            atomic.write_into_new(folder / name, data)
        return {name: {"sha256": sums[name].result(), "bytes": len(data)} for name, data in contents.items()}


def publish(root: Path, folder: Path, step: int) -> Path:
    """Gives the written folder its name (with a number behind it where that is taken), and returns it."""
    target = free_name(root, step)
    try:
        atomic.rename_new(folder, target)
    except OSError:
        discard(folder)
        raise
    return target


def discard(folder: Path) -> None:
    """Takes away what was written and is not wanted, as far as the disk lets us; the next start sweeps the rest."""
    try:
        if folder.exists():
            atomic.remove_tree(folder)
    except OSError:
        return


def free_name(root: Path, step: int) -> Path:
    """`checkpoint_step_<step>`, or the same with _2, _3 ... behind it."""
    target, number = root / f"checkpoint_step_{step}", 1
    while target.exists():
        number += 1
        target = root / f"checkpoint_step_{step}_{number}"
    return target


def sweep(root: Path) -> None:
    """Clears away what killed saves and removals left; only for the holder of the run's lock, before the first save."""
    for folder in (root, root / "damaged", root / "abandoned", *root.glob("abandoned/*")):
        atomic.sweep(folder)
    for folder in root.glob(f"{WRITING}*"):
        atomic.remove_tree(folder)
