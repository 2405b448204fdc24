"""Which checkpoints are kept: the latest, the best by validation loss, and those that somebody has pinned."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from lumina.checkpoint.load import best_first, list_checkpoints
from lumina.store import atomic


def prune(root: Path, limit: int, pinned: Collection[str] = ()) -> list[Path]:
    """Deletes all but the latest, the `limit` best by validation loss (newer ones where there is none), and those
    whose names are `pinned`."""
    found = list_checkpoints(root)
    ranked = best_first(found)
    ranked += [item for item in reversed(found) if item not in ranked]
    keep = {path for path, _ in [*found[-1:], *ranked[:limit]]}
    removed = [path for path, _ in found if path not in keep and path.name not in pinned]
    for path in removed:
        atomic.remove_tree(path)
    return removed
