"""Which checkpoints are kept, and the overview of them for people and scripts.

It decides by manifests alone; what the overview says is made from them each time, and never read back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lumina.checkpoint.load import Found, best_first, list_checkpoints
from lumina.store import atomic

log = logging.getLogger(__name__)

OVERVIEW = "metadata.json"
SET_ASIDE = 3  # checkpoints that stay of all branches that were left, and as many damaged ones


@dataclass(frozen=True)
class Keep:
    """What is kept beside the latest: the `best` by validation loss (newer ones where there is none), those at the end
    of an epoch where `epochs` is set, the ones named in `pinned`, and for each journal position in `undoable` the
    newest checkpoint before it."""

    best: int
    epochs: bool = False
    pinned: frozenset[str] = frozenset()
    undoable: tuple[int, ...] = ()


def kept(found: Found, keep: Keep) -> set[Path]:
    """The folders of `found` (oldest first) that stay."""
    ranked = best_first(found)
    ranked += [item for item in reversed(found) if item not in ranked]
    staying = [*found[-1:], *ranked[: keep.best]]
    for seq in keep.undoable:
        staying += [item for item in found if item[1].journal_seq < seq][-1:]
    if keep.epochs:
        staying += [item for item in found if item[1].epoch is not None]
    staying += [item for item in found if item[0].name in keep.pinned]
    return {path for path, _ in staying}


def prune(root: Path, keep: Keep, newest: Path | None = None) -> list[Path]:
    """Deletes what is not kept; `newest` is the one that was just written."""
    found = list_checkpoints(root)
    staying = {*kept(found, keep), newest}
    removed = [path for path, _ in found if path not in staying]
    for path in removed:
        atomic.remove_tree(path)
    return removed


def prune_set_aside(root: Path, pinned: Iterable[str] = ()) -> None:
    """Deletes what lies in `abandoned/` and `damaged/`, but for the newest few of each and those that are pinned.

    Nothing goes back there: it is for people who want to look at it. A replay has its hashes from the journal.
    """
    held = set(pinned)
    for pattern in ("abandoned/*/checkpoint_*", "damaged/checkpoint_*"):
        found = sorted(root.glob(pattern), key=lambda folder: (folder.stat().st_mtime_ns, folder.name))
        for folder in found[:-SET_ASIDE]:
            if folder.name not in held:
                atomic.remove_tree(folder)
    for branch in root.glob("abandoned/*"):
        if branch.is_dir() and not any(branch.iterdir()):
            atomic.remove_tree(branch)


def refresh_overview(root: Path, pinned: Iterable[str] = ()) -> None:
    """As `write_overview`; a full disk is only worth a word in the log, since nothing depends on it."""
    try:
        write_overview(root, pinned)
    except OSError as error:
        log.warning("%s is out of date: %s", root / OVERVIEW, error)


def write_overview(root: Path, pinned: Iterable[str] = ()) -> None:
    """Makes `metadata.json` anew: the names of the latest and the best, and a list with the figures of each."""
    found, held = list_checkpoints(root), set(pinned)
    best = best_first(found)
    document = {
        "v": 1,
        "latest": found[-1][0].name if found else None,
        "best_val": best[0][0].name if best else None,
        "list": [
            {
                "name": folder.name,
                "step": manifest.step,
                "reason": manifest.reason,
                "priority": manifest.priority,
                "val_loss": manifest.val_loss,
                "epoch": manifest.epoch,
                "created": manifest.created,
                "bytes": sum(int(file["bytes"]) for file in manifest.files.values()),
                "state_hash": manifest.state_hash,
                "pinned": folder.name in held,
            }
            for folder, manifest in found
        ],
    }
    atomic.write_file(root / OVERVIEW, json.dumps(document, indent=1).encode())
