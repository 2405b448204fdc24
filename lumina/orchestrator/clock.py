"""Windows of what depends on the machine and the hour: seconds, bytes, throughput. They are no part of any state, since
two runs of the same steps differ in them; a run that starts again starts them anew. It judges nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

READ = (
    "step_seconds",
    "data.wait_seconds",
    "checkpoint.stall_seconds",
    "throughput",
    "memory_rss",
    "memory_available",
    "memory_allocated",
    "memory_reserved",
)
STALL = "checkpoint.stall_seconds"
FEWEST_STALLS = 3  # in a window; a single one may be chance
MOST_CHECKS = 64


class Clock:
    """Ring windows over the last `rows` steps, and the median of every channel at each check before."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._ring = np.full((rows, len(READ)), np.nan)
        self._next = 0
        self._filled = 0
        self._checks: list[list[float]] = []

    def observe(self, step: int, series: Mapping[str, float]) -> None:
        """Takes one step in."""
        self._ring[self._next] = [series.get(name, math.nan) for name in READ]
        self._next = (self._next + 1) % self.rows
        self._filled = min(self._filled + 1, self.rows)

    @property
    def full(self) -> bool:
        return self._filled == self.rows

    def window(self, name: str) -> NDArray[np.float64]:
        """One channel, oldest step first."""
        column = self._ring[: self._filled, READ.index(name)]
        return np.roll(column, -self._next) if self.full else column.copy()

    def stall_per_step(self) -> float:
        """Seconds that checkpoints held the run, shared out among the steps of the window; 0 for fewer than three."""
        stalls = np.nan_to_num(self._ring[: self._filled, READ.index(STALL)])
        return float(stalls.mean()) if (stalls > 0).sum() >= FEWEST_STALLS else 0.0

    def medians(self, name: str) -> NDArray[np.float64]:
        """The median of a channel (stalls: what `stall_per_step` was) at each of the checks before, oldest first."""
        return np.array([row[READ.index(name)] for row in self._checks])

    def checked(self) -> None:
        """Keeps the medians of a window that is full."""
        if self.full:
            with np.errstate(all="ignore"):
                kept = [float(np.median(c[np.isfinite(c)])) if np.isfinite(c).any() else math.nan for c in self._ring.T]
            kept[READ.index(STALL)] = self.stall_per_step()
            self._checks.append(kept)
            del self._checks[:-MOST_CHECKS]
