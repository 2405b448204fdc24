"""Progress toward the compute-optimal number of tokens: budget, phase, convergence, efficiency, expected final loss.
Keeps the whole run's loss in at most 128 averaged points; it decides nothing.

Formulas, over the points of the run so far, by tokens D (means over the last fifth of the run, and the fifth before):
gain                 g = (loss of the fifth before - loss of the last fifth) / loss of the last fifth
convergence_score    100 x exp(-|g| / 0.02) / (1 + noise / 0.1); noise = robust deviation of the last fifth / its mean
compute_efficiency   loss reduction per floating-point operation between the centres of these two fifths, nats/FLOP
predicted_final_loss E + A * D^-alpha (Hoffmann et al., 2022, for one model), fitted by least squares, at the last step
phase                warming: before the end of the warm-up, or too few points; plateau: g within twice its standard
                     error and below 0.5 %; convergence: g below 2 %; learning: the rest
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lumina.config import Config
from lumina.orchestrator.signals import Floats, spread
from lumina.orchestrator.types import RunFacts

MOST_POINTS = 128
FEWEST_POINTS = 15
GAIN_SCALE, NOISE_SCALE = 0.02, 0.1
PLATEAU_GAIN, CONVERGENCE_GAIN = 0.005, 0.02
ALPHAS: Floats = np.linspace(0.05, 1.5, 59)


class Chinchilla:
    """The token budget and how the run moves toward it."""

    def __init__(self, config: Config, facts: RunFacts) -> None:
        warmup = config.training.warmup_steps
        self._warmup = warmup if warmup >= 1 else warmup * facts.total_steps
        self._facts = facts
        self._tokens = 0.0
        self._step = 0
        self._points: list[tuple[float, float]] = []  # tokens at the end, mean loss
        self._stride = 1  # steps averaged in a point
        self._sum = 0.0
        self._count = 0

    def observe(self, step: int, series: Mapping[str, float]) -> None:
        """Takes one step in: `loss` and cumulative `tokens`."""
        self._step = step
        self._tokens = float(series.get("tokens", self._tokens))
        loss = float(series.get("loss", math.nan))
        if not math.isfinite(loss):
            return
        self._sum += loss
        self._count += 1
        if self._count < self._stride:
            return
        self._points.append((self._tokens, self._sum / self._count))
        self._sum, self._count = 0.0, 0
        if len(self._points) == MOST_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [(second[0], (first[1] + second[1]) / 2) for first, second in pairs]
            self._stride *= 2

    def report(self) -> dict[str, Any]:
        """What `status` and the dashboard show; None where it is too early to tell."""
        budget = self._facts.tokens_optimal
        return {
            "tokens_seen": int(self._tokens),
            "tokens_optimal": budget.tokens_optimal,
            "progress": self._tokens / budget.tokens_optimal,
            "basis": budget.basis,
            "tokens_optimal_other": budget.tokens_optimal_other,
            "other_basis": budget.other_basis,
            **self._trend(),
            "predicted_final_loss": self._predicted(),
        }

    def _trend(self) -> dict[str, Any]:
        tokens, losses = self._arrays()
        fifth = len(losses) // 5
        if len(losses) < FEWEST_POINTS:
            return {"phase": "warming", "convergence_score": None, "compute_efficiency": None}
        before, last = losses[-2 * fifth : -fifth], losses[-fifth:]
        reduction = float(before.mean() - last.mean())
        between = float(tokens[-fifth:].mean() - tokens[-2 * fifth : -fifth].mean())
        level = float(last.mean())
        gain = reduction / level if level > 0 else 0.0
        # neighbours differ by noise and hardly by trend; a difference of two has twice the variance
        noise = spread(np.diff(losses[-2 * fifth :])) / math.sqrt(2)
        error = noise * math.sqrt(2 / fifth) / level if level > 0 else 0.0
        relative = spread(last) / level if level > 0 else 0.0
        flops = between * self._facts.flops_per_token
        return {
            "phase": self._phase(gain, error),
            "convergence_score": 100 * math.exp(-abs(gain) / GAIN_SCALE) / (1 + relative / NOISE_SCALE),
            "compute_efficiency": reduction / flops if flops > 0 else None,
        }

    def _phase(self, gain: float, error: float) -> str:
        if self._step <= self._warmup:
            return "warming"
        if gain < PLATEAU_GAIN and gain < 2 * error + 1e-12:
            return "plateau"
        return "convergence" if gain < CONVERGENCE_GAIN else "learning"

    def _predicted(self) -> float | None:
        tokens, losses = self._arrays()
        if len(losses) < FEWEST_POINTS or self._step <= self._warmup:
            return None
        final = self._tokens * max(self._facts.total_steps / self._step, 1.0)
        start = max(len(losses) // 5, 1)  # the warm-up bends the curve
        return fit_and_predict(tokens[start:], losses[start:], final)

    def _arrays(self) -> tuple[Floats, Floats]:
        points: Floats = np.array(self._points, np.float64).reshape(-1, 2)
        return points[:, 0], points[:, 1]

    def state(self) -> dict[str, Any]:
        return {
            "tokens": self._tokens,
            "step": self._step,
            "points": [list(point) for point in self._points],
            "stride": self._stride,
            "sum": self._sum,
            "count": self._count,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._tokens = float(state["tokens"])
        self._step = int(state["step"])
        self._points = [(float(tokens), float(loss)) for tokens, loss in state["points"]]
        self._stride = int(state["stride"])
        self._sum = float(state["sum"])
        self._count = int(state["count"])


def fit_and_predict(tokens: Floats, losses: Floats, final: float) -> float | None:
    """L(final) of the best L(D) = E + A * D^-alpha with E, A >= 0; None when the loss does not fall.

    For each alpha of a grid, E and A follow from linear least squares in closed form; the least squared error wins.
    """
    if len(tokens) < 3 or not tokens[-1] > tokens[0] > 0:
        return None
    scale = float(tokens[-1])
    x = (tokens / scale)[None, :] ** -ALPHAS[:, None]  # [alphas, points]
    x_centred = x - x.mean(axis=1, keepdims=True)
    slope = (x_centred * (losses - losses.mean())).sum(axis=1) / (x_centred**2).sum(axis=1)
    floor = losses.mean() - slope * x.mean(axis=1)
    through_zero = (x * losses).sum(axis=1) / (x**2).sum(axis=1)  # least squares with E fixed at 0
    slope = np.where(floor < 0, through_zero, slope)
    floor = np.maximum(floor, 0.0)
    error = ((floor[:, None] + slope[:, None] * x - losses) ** 2).sum(axis=1)
    error[slope <= 0] = np.inf
    best = int(error.argmin())
    if not math.isfinite(error[best]):
        return None
    return float(floor[best] + slope[best] * (final / scale) ** -ALPHAS[best])
