"""Everything that a live screen shows, as what is new since its cursor: one request a second carries it."""

from __future__ import annotations

from typing import Any

import orjson

from lumina.store.layout import RunPaths
from lumina.store.reader import StoreReader
from lumina.views import family, panels
from lumina.views.status import status

SERIES = (
    "loss", "loss_rolling", "val_loss", "val_perplexity", "learning_rate", "grad_norm", "throughput",
    "moe.routing_entropy", "moe.load_entropy", "moe.drop_fraction", "mod.average_depth",
)  # fmt: skip
REHEARSED_POINTS = 200  # of a curve


def live(paths: RunPaths, cursor: str | None = None) -> dict[str, Any]:
    """Status and every panel; series and events only beyond `cursor`, all of them when `full`, and then the branches,
    which change only with the line."""
    with StoreReader(paths).connected():
        return _document(paths, _decode(cursor))


def _document(paths: RunPaths, seen: dict[str, Any]) -> dict[str, Any]:
    delta = panels.series(paths, SERIES, seen.get("series"))
    after = 0 if delta["full"] else int(seen.get("event", 0))
    news = panels.events(paths, after)
    last = news[-1]["id"] if news else after
    now = status(paths)
    return {
        "run": paths.name,
        "state": now["state"],
        "full": delta["full"],
        "series": delta["series"],
        "status": now,
        "experts": panels.experts(paths),
        "depth": panels.depth(paths),
        "budget": panels.budget(paths),
        "queue": panels.queue(paths),
        "marks": panels.marks(paths),
        "receipts": panels.receipts(paths),
        **({"branches": panels.branches(paths)} if delta["full"] else {}),
        "children": family.children(paths),
        "rehearsals": family.rehearsals(paths, max_points=REHEARSED_POINTS),
        "events": news,
        "cursor": orjson.dumps({"series": delta["cursor"], "event": last}).decode(),
    }


def _decode(cursor: str | None) -> dict[str, Any]:
    try:
        document = orjson.loads(cursor or "{}")
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(document, dict):
        return {}
    genuine = isinstance(document.get("series"), str) and isinstance(document.get("event"), int)
    return document if genuine else {}
