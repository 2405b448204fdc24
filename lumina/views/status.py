"""The state of a run in one document: what `lumina status --json` prints."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

from lumina.store.family import parent_of
from lumina.store.journal import read_entries
from lumina.store.layout import RunPaths
from lumina.store.lock import is_locked
from lumina.store.reader import StoreReader

LIVE_STATES = frozenset({"starting", "running", "paused", "stopping"})
NEWEST = (
    "loss", "loss_rolling", "val_loss", "learning_rate", "grad_norm", "throughput", "tokens", "perplexity", "accuracy",
    "val_perplexity", "step_seconds", "memory_rss",
)  # fmt: skip
CHINCHILLA = (
    "tokens_seen",
    "tokens_optimal",
    "progress",
    "basis",
    "convergence_score",
    "phase",
    "predicted_final_loss",
    "predicted_low",
    "predicted_high",
    "recommendation",
)
RECENT_STEPS = 30


def status(paths: RunPaths) -> dict[str, Any]:
    """All documented fields; None where nothing is known yet."""
    reader = StoreReader(paths)
    alive = is_locked(paths)
    meta = reader.meta()
    newest = {name: value for name, (_, value) in reader.latest(NEWEST).items()}
    statistics = _statistics(reader)
    params = meta.get("params") or {}
    recorded = meta.get("state")
    step, total = meta.get("step"), meta.get("total_steps")
    if recorded is None and not alive:
        recorded, step = _from_journal(paths)
    heartbeat = meta.get("heartbeat")
    chinchilla = meta.get("chinchilla") or {}
    health = meta.get("health") or {}
    return {
        "name": paths.name,
        "state": derived_state(recorded, alive),
        "phase": meta.get("phase") if alive else None,
        "step": step,
        "total_steps": total,
        "total_steps_reason": meta.get("total_steps_reason"),
        **{name: newest.get(name) for name in NEWEST},
        "eta_s": _eta(reader, step, total) if alive else None,
        "params_total": params.get("total"),
        "params_active": params.get("active"),
        "chinchilla": {**dict.fromkeys(CHINCHILLA), **chinchilla},
        "health": {
            "status": health.get("status"),
            "issues": health.get("issues", []),
            "areas": health.get("areas", {}),
            "recommendations": health.get("recommendations", []),
        },
        "effects": _effects(reader),
        "pending_proposals": sum(row.state == "open" for row in reader.proposals()),
        "moe": {name.removeprefix("moe."): value for name, value in statistics.items() if name.startswith("moe.")},
        "mod": {name.removeprefix("mod."): value for name, value in statistics.items() if name.startswith("mod.")},
        "device": meta.get("device"),
        "precision": meta.get("precision"),
        "hparams": _hparams(meta.get("hparams") or {}, newest.get("learning_rate")),
        "layers": meta.get("layers"),
        "data": meta.get("data"),
        "segment": meta.get("segment"),
        "run": meta.get("run"),
        "autonomy": (meta.get("run") or {}).get("autonomy"),
        "created": _created(paths),
        "heartbeat_age_s": max(0.0, time.time() - heartbeat) if alive and heartbeat else None,
        "dropped_points": meta.get("dropped_points", 0),
        "error": meta.get("error"),
        "parent": parent_of(paths),
        "path": str(paths.root),
    }


def derived_state(recorded: str | None, alive: bool) -> str:
    """The recorded state, or `crashed` when it is a live one and nobody holds the lock."""
    if recorded is None:
        return "starting" if alive else "created"
    return "crashed" if recorded in LIVE_STATES and not alive else recorded


def _from_journal(paths: RunPaths) -> tuple[str | None, int | None]:
    """State and step of a run whose database is gone; without an end it was cut off, and its last step is unknown."""
    entries = read_entries(paths)
    if not entries:
        return None, None
    last = entries[-1]
    return (str(last.doc["state"]), last.step) if last.type == "end" else ("running", None)


def _hparams(stored: dict[str, Any], learning_rate: float | None) -> dict[str, Any]:
    """The values at the last change; the learning rate changes every step, so the series has the true one."""
    return stored if learning_rate is None else {**stored, "learning_rate": learning_rate}


def _statistics(reader: StoreReader) -> dict[str, float | None]:
    names = [name for name in reader.series_names() if name.startswith(("moe.", "mod.")) and ".layer" not in name]
    return {name: value for name, (_, value) in reader.latest(names).items()}


def _effects(reader: StoreReader) -> dict[str, int]:
    """How many interventions helped, hurt and so on, by the state of their effect."""
    return dict(Counter(row.state for row in reader.effects()))


def _eta(reader: StoreReader, step: int | None, total: int | None) -> float | None:
    seconds = sorted(reader.recent("step_seconds", RECENT_STEPS))
    if not seconds or step is None or total is None:
        return None
    return max(0, total - step) * seconds[len(seconds) // 2]


def _created(paths: RunPaths) -> float | None:
    try:
        created = json.loads(paths.launch.read_bytes()).get("created")
    except (OSError, ValueError):
        return None
    return float(created) if isinstance(created, (int, float)) else None
