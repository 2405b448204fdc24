"""Who still needs a checkpoint: one small file in `checkpoints/pins/` for each run that forks from it.

A pin is good while the run that it names is locked by its process; it knows names only, and must not know checkpoints.
"""

from __future__ import annotations

import json
from pathlib import Path

from lumina.store import atomic
from lumina.store.layout import RunPaths
from lumina.store.lock import is_locked


def pin(paths: RunPaths, child: RunPaths, checkpoint: str) -> None:
    """Keeps `checkpoint` of the run `paths` from being deleted while the process of `child` lives."""
    folder = _folder(paths)
    atomic.make_folder(folder)
    atomic.write_file(folder / f"{child.name}.json", json.dumps({"checkpoint": checkpoint}).encode())


def unpin(paths: RunPaths, child: RunPaths) -> None:
    """Ends the pin; none is fine."""
    atomic.unlink(_folder(paths) / f"{child.name}.json")


def holders(paths: RunPaths) -> dict[str, str]:
    """Child run → checkpoint that it needs, for the children that live. Pins of dead ones are cleared away."""
    found: dict[str, str] = {}
    for file in sorted(_folder(paths).glob("*.json")):
        if not is_locked(RunPaths(paths.root.parent / file.stem)):
            atomic.unlink(file)
            continue
        try:
            found[file.stem] = str(json.loads(file.read_bytes())["checkpoint"])
        except (OSError, ValueError, KeyError):
            continue
    return found


def pinned(paths: RunPaths) -> frozenset[str]:
    """Names of the checkpoints that somebody needs."""
    return frozenset(holders(paths).values())


def _folder(paths: RunPaths) -> Path:
    return paths.checkpoints / "pins"
