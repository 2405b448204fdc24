"""One view-model for each thing a screen shows: series, experts, depth, budget, proposals, marks, events."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from lumina.interventions.undoing import changes_in, why_not
from lumina.store.journal import Entry, entries_on_line, read_entries
from lumina.store.layout import RunPaths
from lumina.store.reader import Row, StoreReader

RECENT_PROPOSALS = 20


def series(
    paths: RunPaths, names: Sequence[str] | None, cursor: str | None = None, max_points: int = 2000
) -> dict[str, Any]:
    """What is new since `cursor`; `full` means that it is everything and older figures are void."""
    delta = StoreReader(paths).delta(names, cursor, max_points)
    return {"cursor": delta.cursor, "full": delta.full, "series": delta.series}


def experts(paths: RunPaths) -> dict[str, Any] | None:
    """Load of every expert in multiples of its fair share (1.0 is balanced); None before the first step."""
    reader = StoreReader(paths)
    found, live = reader.array("expert_load"), reader.array("expert_live")
    if found is None:
        return None
    step, load = found
    alive = live[1] if live is not None else np.ones_like(load)
    fair = np.maximum(1.0, alive.sum(axis=1, keepdims=True))
    layers = (reader.meta().get("layers") or {}).get("moe") or list(range(len(load)))
    return {
        "step": step,
        "layers": layers,
        "load": np.round(load * fair, 4).tolist(),
        "live": (alive > 0).tolist(),
    }


def depth(paths: RunPaths) -> dict[str, Any] | None:
    """Share of tokens that take each layer; None before the first step or without Mixture of Depths."""
    reader = StoreReader(paths)
    found = reader.array("depth")
    if found is None:
        return None
    mod = (reader.meta().get("layers") or {}).get("mod") or []
    return {
        "step": found[0],
        "usage": np.round(found[1].astype(float), 4).tolist(),
        "mean": float(found[1].mean()),
        "mod_layers": mod,
    }


def budget(paths: RunPaths) -> dict[str, Any]:
    """Progress toward the compute-optimal number of tokens, and when it is reached at this speed."""
    reader = StoreReader(paths)
    facts = dict(reader.meta().get("chinchilla") or {})
    newest = reader.latest(["tokens", "throughput"])
    seen = newest.get("tokens", (0, None))[1]
    speed = newest.get("throughput", (0, None))[1]
    optimal = facts.get("tokens_optimal")
    if seen is not None and optimal:
        facts.update(tokens_seen=seen, progress=seen / optimal)
        facts["eta_s"] = max(0.0, optimal - seen) / speed if speed else None
    return facts


def queue(paths: RunPaths) -> dict[str, Any]:
    """Open proposals and the most recent decided ones, newest first."""
    rows = [_proposal(row) for row in StoreReader(paths).proposals()]
    waiting = [row for row in rows if row["state"] == "open"]
    return {"open": waiting, "recent": [row for row in rows if row["state"] != "open"][:RECENT_PROPOSALS]}


def _proposal(row: Row) -> dict[str, Any]:
    return {**row.doc, "id": row.id, "step": row.doc.get("step", row.step), "state": row.state}


def marks(paths: RunPaths) -> list[dict[str, Any]]:
    """Interventions that were applied on the current line, oldest first; `undo` says why one cannot be undone."""
    effects = {row.id: row.doc for row in StoreReader(paths).effects()}
    found = []
    held, refusals = _in_force(paths)
    for entry in held:
        if entry.seq in refusals:
            keys = ("kind", "method", "args", "before", "after", "state", "author", "proposal")
            fields = {key: entry.doc.get(key) for key in keys}
            effect = effects.get(entry.id or "")
            found.append({"id": entry.id, "step": entry.step, **fields, "effect": effect, "undo": refusals[entry.seq]})
    return found


def branches(paths: RunPaths, limit: int = 6, max_points: int = 300) -> list[dict[str, Any]]:
    """The loss of what the newest rewinds left behind, oldest first: from step `back_to` to step `left_at`."""
    reader = StoreReader(paths)
    found = []
    for segment in reader.segments():
        if segment.cause != "rewind" or segment.parent is None:
            continue
        left = reader.series(["loss"], head=segment.parent, after=segment.fork_step, max_points=max_points)
        loss = left.get("loss") or {"step": []}
        if loss["step"]:
            points = {"step": loss["step"], "value": loss["value"]}
            ends = {"back_to": segment.fork_step, "left_at": loss["step"][-1]}
            found.append({"id": segment.id, **ends, **points})
    return found[-limit:]


def _in_force(paths: RunPaths) -> tuple[list[Entry], dict[int, str | None]]:
    """The journal's entries on the current line, and for each change why it cannot be undone in place (None: it can);
    parsed again only when the journal has grown."""
    try:
        status = paths.journal.stat()
    except FileNotFoundError:
        return [], {}
    return _parsed(paths, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _parsed(paths: RunPaths, _size: int, _mtime_ns: int) -> tuple[list[Entry], dict[int, str | None]]:
    held = entries_on_line(read_entries(paths))
    return held, {entry.seq: why_not(held, str(entry.id)) for entry in changes_in(held)}


def receipts(paths: RunPaths, limit: int = 20) -> list[dict[str, Any]]:
    """The newest receipts, newest first; `effect` is what the steps after an intervention told, None without one."""
    reader = StoreReader(paths)
    in_force = {entry.id for entry in _in_force(paths)[0] if entry.type == "applied"}
    # What a rewind left behind is never measured to its end.
    effects = {row.id: row.doc for row in reader.effects() if row.state != "pending" or row.id in in_force}
    return [
        {**row.doc, "id": row.id, "state": row.state, "effect": effects.get(row.id)} for row in reader.receipts(limit)
    ]


def events(paths: RunPaths, after: int = 0, limit: int = 60) -> list[dict[str, Any]]:
    """The newest `limit` events after id `after`, oldest first."""
    rows = StoreReader(paths).events(after, limit)
    keys = ("at", "kind", "message")
    return [{"id": r.id, "step": r.step, "level": r.state, **{k: r.doc.get(k) for k in keys}} for r in rows]
