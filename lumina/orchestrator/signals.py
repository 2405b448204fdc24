"""The last steps of a run as ring windows of named channels, and the robust statistics that detectors take of them.
Holds only figures that are equal in two runs of the same steps; it judges nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CORE = ("loss", "grad_norm", "moe.drop_fraction")
FEWEST_ROWS, MOST_ROWS = 30, 128
NORMAL_MAD = 1.4826  # the MAD of a normal distribution times this is its standard deviation


def entropy_name(layer: int) -> str:
    """The series of one layer's routing entropy."""
    return f"moe.routing_entropy.layer{layer}"


def median(values: Floats) -> float:
    """Median of the finite values; NaN without any."""
    kept = values[np.isfinite(values)]
    return float(np.median(kept)) if kept.size else math.nan


def spread(values: Floats) -> float:
    """Robust standard deviation: 1.4826 x median absolute deviation of the finite values; 0 without any."""
    kept = values[np.isfinite(values)]
    return float(NORMAL_MAD * np.median(np.abs(kept - np.median(kept)))) if kept.size else 0.0


class Signals:
    """Ring windows over the last `rows` steps. Non-finite and missing figures are NaN in them.

    `since_check` counts steps and non-finite steps since the last health check; `load` sums the expert loads of those
    steps, `[layers with experts, expert slots]`.
    """

    def __init__(self, moe_layers: Sequence[int], check_interval: int) -> None:
        self.rows = min(max(check_interval, FEWEST_ROWS), MOST_ROWS)
        self.layers = tuple(moe_layers)
        self._read = (*CORE, *(entropy_name(layer) for layer in self.layers))
        self._channels = {name: index for index, name in enumerate(self._read)}
        self._ring: Floats = np.full((self.rows, len(self._read) + len(self.layers)), np.nan)
        self._steps = np.zeros(self.rows, np.int64)
        self._next = 0
        self._filled = 0
        self.since_check = {"steps": 0, "non_finite": 0}
        self._load: Floats | None = None
        self._load_steps = 0
        self.live: list[int] = []

    def observe(self, step: int, series: Mapping[str, float], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Takes one step in. Cheap: a row of the ring and a sum of expert loads."""
        row = [series.get(name, math.nan) for name in self._read]
        self.since_check["steps"] += 1
        if not math.isfinite(row[0]) or ("grad_norm" in series and not math.isfinite(row[1])):
            self.since_check["non_finite"] += 1
        load = arrays.get("expert_load")
        if load is not None and load.shape[0] == len(self.layers) and load.size:
            row.extend(load.max(axis=1).tolist())
            self._sum_load(load)
        else:
            row.extend([math.nan] * len(self.layers))
        live = arrays.get("expert_live")
        if live is not None and live.shape[0] == len(self.layers):
            self.live = [int(count) for count in live.astype(bool).sum(axis=1)]
        self._ring[self._next] = row
        self._steps[self._next] = step
        self._next = (self._next + 1) % self.rows
        self._filled = min(self._filled + 1, self.rows)

    def _sum_load(self, load: NDArray[Any]) -> None:
        if self._load is None or self._load.shape != load.shape:
            self._load = np.zeros(load.shape)
            self._load_steps = 0
        self._load += load
        self._load_steps += 1

    @property
    def full(self) -> bool:
        """True once the windows are as long as they get."""
        return self._filled == self.rows

    def steps(self) -> list[int]:
        """The steps in the windows, oldest first."""
        return [int(step) for step in self._ordered(self._steps)]

    def window(self, name: str) -> Floats:
        """One channel, oldest step first."""
        return self._finite(self._channels[name])

    def max_share(self, layer: int) -> Floats:
        """The busiest expert's share of a layer's assignments, oldest step first."""
        return self._finite(len(self._read) + self.layers.index(layer))

    def mean_load(self, layer: int) -> Floats | None:
        """Mean share of assignments of each expert slot since the last check; None without any."""
        if self._load is None or not self._load_steps:
            return None
        mean: Floats = self._load[self.layers.index(layer)] / self._load_steps
        return mean

    def live_experts(self, layer: int, otherwise: int) -> int:
        """Experts of a layer that take tokens."""
        return self.live[self.layers.index(layer)] if self.live else otherwise

    def checked(self) -> None:
        """Starts counting anew after a health check."""
        self.since_check = {"steps": 0, "non_finite": 0}
        self._load, self._load_steps = None, 0

    def state(self) -> dict[str, Any]:
        """Plain JSON; the rings in the order of time, so that it does not depend on where they began."""
        return {
            "steps": self.steps(),
            "rows": [[_plain(value) for value in row] for row in self._ordered(self._ring).tolist()],
            "since_check": dict(self.since_check),
            "load": None if self._load is None else self._load.tolist(),
            "load_steps": self._load_steps,
            "live": list(self.live),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`. Raises ValueError when it was taken of another model or another window."""
        rows = np.array([[_number(value) for value in row] for row in state["rows"]], np.float64)
        rows = rows.reshape(-1, self._ring.shape[1]) if rows.size == 0 else rows
        if rows.shape[1] != self._ring.shape[1] or rows.shape[0] > self.rows:
            raise ValueError(
                f"the orchestrator's state has {rows.shape[0]} steps of {rows.shape[1]} signals; "
                f"this run keeps {self.rows} steps of {self._ring.shape[1]}"
            )
        count = rows.shape[0]
        self._ring.fill(np.nan)
        self._ring[:count] = rows
        self._steps[:count] = state["steps"]
        self._filled, self._next = count, count % self.rows
        self.since_check = dict(state["since_check"])
        self._load = None if state["load"] is None else np.array(state["load"], np.float64)
        self._load_steps = int(state["load_steps"])
        self.live = [int(count) for count in state["live"]]

    def _finite(self, channel: int) -> Floats:
        values: Floats = self._ordered(self._ring[:, channel]).copy()
        values[~np.isfinite(values)] = np.nan
        return values

    def _ordered(self, ring: NDArray[Any]) -> NDArray[Any]:
        if self._filled < self.rows:
            return ring[: self._filled]
        return np.concatenate([ring[self._next :], ring[: self._next]])


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
