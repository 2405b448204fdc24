"""The catalogue's queries, answered from the run's records: the same figures and keys as the methods of `Trainer`.

It knows where a newest figure is found, not whether the run still trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from lumina.interventions import catalogue
from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths
from lumina.store.reader import StoreReader

Value = Callable[[str], float | None]  # a series by name → its newest value
Array = Callable[[str], list[Any] | None]  # an array by name → its newest rows

EXPERTS = ("routing_entropy", "load_balance_loss", "tokens_dropped")
DEPTH = ("tokens_processed", "tokens_skipped", "average_depth", "compute_savings")


def expert_statistics(value: Value, array: Array, layers: Sequence[int]) -> dict[str, Any]:
    """Means over the layers with experts (tokens_dropped: sum) and, in `per_layer`, every layer's own.

    `per_expert_utilization` has a row per layer: each expert's share of the newest step's assignments, summing to 1.
    """
    load = array("expert_load")
    rows = load if load is not None else [None] * len(layers)
    return {
        "per_expert_utilization": load,
        **{name: value(f"moe.{name}") for name in EXPERTS},
        "per_layer": {
            str(layer): {
                "per_expert_utilization": row,
                **{name: value(f"moe.{name}.layer{layer}") for name in EXPERTS},
            }
            for layer, row in zip(layers, rows, strict=False)
        },
    }


def mod_statistics(value: Value, array: Array, capacity: float | None) -> dict[str, Any]:
    """Mixture of Depths in the newest step; `capacity_factor` is the configured share, `per_layer_usage` the real one
    of each layer, `compute_savings` the share of the operations that it saved."""
    return {
        "capacity_factor": capacity,
        **{name: value(f"mod.{name}") for name in DEPTH},
        "per_layer_usage": array("depth"),
    }


def current_metrics(value: Value, *, epoch: int | None, step: int | None) -> dict[str, Any]:
    """The newest step; `memory_usage` in bytes, `throughput` in tokens per second."""
    return {
        "loss": value("loss"),
        "learning_rate": value("learning_rate"),
        "grad_norm": value("grad_norm"),
        "throughput": value("throughput"),
        "memory_usage": value("memory_allocated") or value("memory_rss"),
        "epoch": epoch,
        "step": step,
    }


def query(paths: RunPaths, method: str) -> dict[str, Any]:
    """The answer of a query of the catalogue. Raises `Refusal`: unknown_method, bad_argument (an action)."""
    asked = [name for name, declared in catalogue().items() if declared.kind == "query"]
    if method not in asked:
        code = "bad_argument" if method in catalogue() else "unknown_method"
        raise Refusal(code, f"{method!r} is not a query; queries: {', '.join(asked)}")
    reader = StoreReader(paths)
    meta, names = reader.meta(), reader.series_names()
    newest = {name: number for name, (_, number) in reader.latest(names).items()}

    def array(name: str) -> list[Any] | None:
        found = reader.array(name)
        return None if found is None else found[1].tolist()

    layers = meta.get("layers") or {}
    if method == "get_expert_statistics":
        return expert_statistics(newest.get, array, layers.get("moe") or [])
    if method == "get_mod_statistics":
        return mod_statistics(newest.get, array, (meta.get("hparams") or {}).get("mod_capacity_factor"))
    return current_metrics(newest.get, epoch=_epoch(meta, newest.get("data.position")), step=meta.get("step"))


def _epoch(meta: dict[str, Any], position: float | None) -> int | None:
    """Passes over the training data that lay behind the newest step."""
    total = (meta.get("data") or {}).get("train_sequences")
    return math.floor(position / total) if position is not None and total else None
