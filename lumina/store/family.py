"""Which run is whose child: replays, counterfactuals and rehearsals lie beside the run that they come from.

It reads what was written when a run was created; it must not know what such a child does.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths

STEM_LENGTH = 80  # of a child's name; a run's name has 100 characters at most


def parent_of(paths: RunPaths) -> dict[str, Any] | None:
    """{run, kind, ...} of a child run, with `run` the parent's name in the same folder; None for a run of its own."""
    try:
        status = paths.launch.stat()
        return _parent(paths.launch, status.st_mtime_ns, status.st_ino)
    except (OSError, ValueError, AttributeError):
        return None  # not created by Lumina, or not yet whole


def parent_paths(paths: RunPaths) -> RunPaths:
    """Where the parent of a child run lies. Raises `Refusal` (not_found)."""
    note = parent_of(paths) or {}
    found = RunPaths(paths.root.parent / str(note.get("run")))
    if not note or not found.exists():
        raise Refusal("not_found", f"the run {note.get('run')!r} that {paths.name!r} comes from is gone")
    return found


def children_of(paths: RunPaths) -> list[RunPaths]:
    """The child runs of a run, the newest last."""
    stem = f"{paths.name[:STEM_LENGTH]}."
    beside = (RunPaths(folder) for folder in paths.root.parent.glob(f"{stem}*"))
    own = [child for child in beside if (parent_of(child) or {}).get("run") == paths.name and child.exists()]
    return sorted(own, key=lambda child: (child.launch.stat().st_mtime_ns, child.name))


def child_name(paths: RunPaths, label: str) -> str:
    """`<run>.<label>-<number>`, with the number after the highest that is in use."""
    stem = f"{paths.name[:STEM_LENGTH]}.{label}-"
    taken = [folder.name.removeprefix(stem).split(".")[0] for folder in paths.root.parent.glob(f"{stem}*")]
    return f"{stem}{max((int(number) for number in taken if number.isdecimal()), default=0) + 1}"


@functools.lru_cache(maxsize=4096)
def _parent(launch: Path, _mtime_ns: int, _inode: int) -> dict[str, Any] | None:
    # The note is written once, when the run is created; but a deleted run's name may be given again.
    parent = json.loads(launch.read_bytes()).get("parent")
    return parent if isinstance(parent, dict) else None
