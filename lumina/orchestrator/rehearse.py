"""What a rehearsal says: two runs of the same steps on the same batches, compared pair by pair; and whether the run
that it comes from has to pause meanwhile. Plain arithmetic; it must not know processes, files or models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumina.orchestrator.signals import spread

CONFIDENCE = 0.95
MOST_CORRELATED = 0.95
FEWEST_PAIRS = 5
FREE_CORES = 2  # what a second trainer wants for itself, so that neither crawls
MEMORY_ROOM = 1.25  # of what the run holds now: a fork holds as much, and a step more


@dataclass(frozen=True)
class PairedDifference:
    """How much higher (above 0) or lower the loss is with the change, over the same steps on the same batches.

    With `d_t = with_t - without_t` of the n steps where both are finite:

    - `mean` = sum(d_t) / n
    - `spread` = 1.4826 x median(|d_t - median(d)|), the standard deviation of one step's difference, robustly
    - `low`, `high` = mean -+ t(0.975, m - 1) x s / sqrt(m), with s the sample standard deviation of d and
      m = n (1 - r) / (1 + r) the number of independent steps that n correlated ones are worth; r is the lag-1
      autocorrelation of d, held between 0 and 0.95, and m is at least 2.
    - `late` = the mean of the last quarter: where the effect grows, it is here.

    The interval is about these batches and this seed: what other data would have done, it does not say. It is None
    below five steps.
    """

    steps: int
    mean: float
    spread: float
    low: float | None
    high: float | None
    independent_steps: float
    late: float
    confidence: float = CONFIDENCE

    @property
    def verdict(self) -> str:
        """lower, higher, or no difference: what the interval allows to say."""
        if self.low is None or self.high is None:
            return "too few steps"
        if self.high < 0:
            return "lower"
        return "higher" if self.low > 0 else "no difference"

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "verdict": self.verdict}


def paired_difference(
    changed: Mapping[str, Sequence[Any]], unchanged: Mapping[str, Sequence[Any]], after: int = 0
) -> PairedDifference | None:
    """Compares two series {step, value} on the steps beyond `after` that both have; None where there is none."""
    reference = dict(zip(unchanged.get("step", ()), unchanged.get("value", ()), strict=True))
    pairs = [
        (value, reference[step])
        for step, value in zip(changed.get("step", ()), changed.get("value", ()), strict=True)
        if step > after and value is not None and reference.get(step) is not None
    ]
    if not pairs:
        return None
    d = np.array([here - there for here, there in pairs], dtype=np.float64)
    n, mean = len(d), float(d.mean())
    independent = max(2.0, n * (1 - _correlation(d)) / (1 + _correlation(d)))
    half = _half_width(d, independent) if n >= FEWEST_PAIRS else None
    return PairedDifference(
        steps=n,
        mean=mean,
        spread=spread(d),
        low=None if half is None else mean - half,
        high=None if half is None else mean + half,
        independent_steps=min(float(n), independent),
        late=float(d[-max(1, n // 4) :].mean()),
    )


def _correlation(d: np.ndarray[Any, Any]) -> float:
    centred = d - d.mean()
    power = float((centred**2).sum())
    lagged = float((centred[1:] * centred[:-1]).sum()) / power if power > 0 else 0.0
    return min(max(lagged, 0.0), MOST_CORRELATED)


def _half_width(d: np.ndarray[Any, Any], independent: float) -> float:
    from scipy.special import stdtrit

    quantile = float(stdtrit(independent - 1, 0.5 + CONFIDENCE / 2))
    return quantile * float(d.std(ddof=1)) / math.sqrt(independent)


@dataclass(frozen=True)
class Machine:
    """What there is to share, and what the run uses of it; None where it is not known."""

    cores: int
    memory_available: float
    threads: int | None
    memory_used: float | None
    device: str = "cpu"


def must_pause(machine: Machine) -> tuple[bool, str]:
    """Whether the run has to pause while it is rehearsed, and why, in a sentence."""
    if machine.device != "cpu":
        return True, f"the run and its rehearsal would share one {machine.device} device"
    threads = machine.threads or machine.cores
    if machine.cores - threads < FREE_CORES:
        return True, f"{machine.cores} cores, and the run computes on {threads} of them"
    if machine.memory_used and machine.memory_available < MEMORY_ROOM * machine.memory_used:
        return True, (
            f"{machine.memory_available / 2**30:.1f} GiB of memory are free, and the run holds "
            f"{machine.memory_used / 2**30:.1f} GiB"
        )
    return False, f"{machine.cores - threads} of {machine.cores} cores are free, and memory for a second run"
