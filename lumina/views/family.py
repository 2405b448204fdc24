"""What the child runs of a run say: replays, counterfactuals and rehearsals, as documents for screens and programs."""

from __future__ import annotations

import functools
from typing import Any

from lumina.orchestrator.rehearse import paired_difference
from lumina.store.family import children_of, parent_of, parent_paths
from lumina.store.layout import RunPaths
from lumina.store.lock import is_locked
from lumina.store.reader import StoreReader
from lumina.views.status import derived_state

LOSSES = ("loss", "val_loss")


def replay(paths: RunPaths) -> dict[str, Any]:
    """A replay or counterfactual: each checkpoint's verdict, what fell with the one left out, and the final losses.

    `verdict` is equal, differs, not comparable or nothing compared; while there is none: running, stopped, failed.
    """
    note = parent_of(paths) or {}
    meta = StoreReader(paths).meta()
    told = meta.get("replay") or {}
    state = derived_state(meta.get("state"), is_locked(paths))
    checkpoints = told.get("checkpoints") or []
    return {
        "run": note.get("run"),
        "child": paths.name,
        "kind": note.get("kind"),
        "state": state,
        "step": meta.get("step"),
        "last_step": told.get("last_step"),
        "verdict": _verdict(state, [str(one["verdict"]) for one in checkpoints]),
        "checkpoints": checkpoints,
        "without": _left_out(note),
        "fallen": [one for one in told.get("fallen") or [] if one["id"] != note.get("without")],
        "losses": losses(paths, after=int(note.get("step") or 0)) if note.get("without") else {},
        "error": meta.get("error"),
    }


def children(paths: RunPaths) -> list[dict[str, Any]]:
    """Replays and counterfactuals of a run, the newest first, for a list to choose a curve from."""
    notes = [(child.name, parent_of(child) or {}) for child in children_of(paths)[::-1]]
    return [
        {"name": name, "kind": note["kind"], "without": _left_out(note)}
        for name, note in notes
        if note["kind"] in ("replay", "counterfactual")
    ]


def rehearsals(paths: RunPaths, limit: int = 2, max_points: int | None = None) -> list[dict[str, Any]]:
    """The newest rehearsals of a run, the newest first: how far they are, both curves, and the difference so far."""
    parts: dict[str, dict[str, RunPaths]] = {}
    for child in children_of(paths):
        note = parent_of(child) or {}
        if note["kind"] == "rehearsal":
            parts.setdefault(note["id"], {})[note["part"]] = child
    whole = [found for found in parts.values() if len(found) == 2]
    told = [rehearsal(found["without"]) for found in whole[::-1][:limit]]
    if max_points is None:
        return told
    return [{**one, "loss": {part: _thinned(curve, max_points) for part, curve in one["loss"].items()}} for one in told]


def _thinned(series: dict[str, list[Any]], max_points: int) -> dict[str, list[Any]]:
    stride = -(-len(series["step"]) // max_points) or 1
    return {name: series[name][::-1][::stride][::-1] for name in ("step", "value")}


def rehearsal(paths: RunPaths) -> dict[str, Any]:
    """One rehearsal by its child without the change; `difference` is the loss with the change less that without it."""
    note = parent_of(paths) or {}
    changed = RunPaths(paths.root.parent / str(note["peer"]))
    if is_locked(paths) or is_locked(changed):
        return _rehearsal(paths, changed)
    # Over: it does not change any more, and every tab asks for it once a second.
    stamps = tuple(_stamp(each) for each in (paths, changed))
    return _ended_rehearsal(paths, changed, stamps)


def _stamp(paths: RunPaths) -> tuple[int, int]:
    try:
        status = paths.database.stat()
    except FileNotFoundError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=64)
def _ended_rehearsal(paths: RunPaths, changed: RunPaths, _stamps: object) -> dict[str, Any]:
    return _rehearsal(paths, changed)


def _rehearsal(paths: RunPaths, changed: RunPaths) -> dict[str, Any]:
    note = parent_of(paths) or {}
    alive = is_locked(paths)
    meta = StoreReader(paths).meta()
    told = meta.get("rehearsal") or {}
    parts = {"with": changed, "without": paths}
    curves = {part: StoreReader(each).series(LOSSES, max_points=None) for part, each in parts.items()}
    loss = {part: found.get("loss", {"step": [], "value": []}) for part, found in curves.items()}
    difference = paired_difference(loss["with"], loss["without"])
    applied = [row.doc for row in StoreReader(changed).receipts() if row.doc.get("method") == note["method"]]
    error = meta.get("error")
    return {
        **{key: note.get(key) for key in ("run", "id", "method", "args", "steps", "proposal")},
        "children": [changed.name, paths.name],
        "state": "running" if alive else derived_state(meta.get("state"), alive),
        "done": len(loss["with"]["step"]) + len(loss["without"]["step"]),
        "of": 2 * int(note["steps"]),
        "from_step": told.get("from_step"),
        "paused": told.get("paused"),
        "why": told.get("why"),
        "error": error,
        "before": applied[0].get("before") if applied else None,
        "after": applied[0].get("after") if applied else None,
        "loss": loss,
        "val_loss": {part: _last(found.get("val_loss")) for part, found in curves.items()},
        "difference": difference and difference.to_json(),
    }


def _last(series: dict[str, list[Any]] | None) -> float | None:
    return series["value"][-1] if series and series["value"] else None


def losses(paths: RunPaths, after: int) -> dict[str, Any]:
    """The last loss that a child and its parent both have, and how they differ on all steps beyond `after`."""
    mine = StoreReader(paths).series(LOSSES, max_points=None)
    theirs = StoreReader(parent_paths(paths)).series(LOSSES, max_points=None)
    found: dict[str, Any] = {}
    for name in LOSSES:
        here = _points(mine.get(name))
        there = _points(theirs.get(name))
        common = [step for step in here if step in there]
        if common:
            step = max(common)
            found[name] = {
                "step": step, "parent": there[step], "child": here[step], "difference": here[step] - there[step],
            }  # fmt: skip
    if "loss" in found:
        difference = paired_difference(mine["loss"], theirs["loss"], after)
        found["loss"]["paired"] = difference and difference.to_json()
    return found


def _points(series: dict[str, list[Any]] | None) -> dict[int, float]:
    if series is None:
        return {}
    pairs = zip(series["step"], series["value"], strict=True)
    return {step: value for step, value in pairs if value is not None}


def _left_out(note: dict[str, Any]) -> dict[str, Any] | None:
    if not note.get("without"):
        return None
    return {"id": note["without"], **{key: note.get(key) for key in ("method", "args", "step")}}


def _verdict(state: str, verdicts: list[str]) -> str:
    if state != "finished":
        return "running" if state in ("created", "starting", "running", "paused", "stopping") else state
    for verdict in ("differs", "not comparable", "equal"):
        if verdict in verdicts:
            return verdict
    return "nothing compared"
