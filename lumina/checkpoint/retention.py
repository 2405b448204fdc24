"""Which checkpoints are kept: the latest, and the best by validation loss."""

from __future__ import annotations

from pathlib import Path

from lumina.checkpoint.load import best_first, list_checkpoints
from lumina.store import atomic


def prune(root: Path, limit: int) -> list[Path]:
    """Deletes all but the latest and the `limit` best by validation loss (newer ones where there is none)."""
    found = list_checkpoints(root)
    ranked = best_first(found)
    ranked += [item for item in reversed(found) if item not in ranked]
    keep = {path for path, _ in [*found[-1:], *ranked[:limit]]}
    removed = [path for path, _ in found if path not in keep]
    for path in removed:
        atomic.remove_tree(path)
    return removed
