"""Progress toward the compute-optimal number of tokens: budget, phase, convergence, efficiency, expected final loss.
Keeps the whole run's loss in at most 128 averaged points; what follows from its figures is `advice`.

Formulas, over the points of the run so far, by tokens D (means over the last fifth of the run, and the fifth before):
gain                 g = (loss of the fifth before - loss of the last fifth) / loss of the last fifth
convergence_score    100 x exp(-|g| / 0.02) / (1 + noise / 0.1); noise = robust deviation of the last fifth / its mean
compute_efficiency   loss reduction per floating-point operation between the centres of these two fifths, nats/FLOP
efficiency_trend     the same figure over that of the two fifths before: below 1, an operation gives less than it did
diminishing_returns  the efficiency is below a tenth of that from the first fifth to the last
phase                warming: before the end of the warm-up, or too few points; plateau: g within twice its standard
                     error and below 0.5 %; convergence: g below 2 %; learning: the rest
landscape            rising or falling where |g| is beyond twice its standard error and 0.2 %, else flat; diverging
                     where the loss rose by more than 2 %
predicted_final_loss with predicted_low and predicted_high: `scaling`, fitted anew when the run is 5 % longer
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lumina.config import Config
from lumina.orchestrator import advice
from lumina.orchestrator.scaling import Forecast, forecast
from lumina.orchestrator.signals import Floats, spread
from lumina.orchestrator.types import RunFacts

MOST_POINTS = 128
FEWEST_POINTS = 15
GAIN_SCALE, NOISE_SCALE = 0.02, 0.1
PLATEAU_GAIN, CONVERGENCE_GAIN, DIVERGED_GAIN, FLAT_GAIN = 0.005, 0.02, -0.02, 0.002
DIMINISHED = 0.1
REFIT_GROWTH = 1.05


class Chinchilla:
    """The token budget and how the run moves toward it."""

    def __init__(self, config: Config, facts: RunFacts) -> None:
        warmup = config.training.warmup_steps
        self._warmup = warmup if warmup >= 1 else warmup * facts.total_steps
        self._settings = config.chinchilla
        self._rules = advice.Rules.of(config, facts)
        self._peak_rate = config.training.learning_rate
        self._last_rate = 1.0 if config.training.lr_schedule == "constant" else config.training.min_lr_ratio
        self._facts = facts
        self._tokens = 0.0
        self._step = 0
        self._points: list[tuple[float, float, float]] = []  # tokens at the end, mean loss, mean rate (1: the highest)
        self._stride = 1  # steps averaged in a point
        self._sums = (0.0, 0.0)
        self._count = 0
        self._fitted_at = 0  # the step of the newest fit
        self._fitted_for = facts.total_steps  # the length that it was made for
        self._forecast: Forecast | None = None
        self._best = advice.Best()
        self.ended: str | None = None  # why the run ends before its budget

    def observe(self, step: int, series: Mapping[str, float]) -> None:
        """Takes one step in: `loss`, cumulative `tokens`, `learning_rate`, and `val_loss` where it was measured."""
        self._step = step
        self._tokens = float(series.get("tokens", self._tokens))
        if "val_loss" in series:
            self._best = self._best.seen(float(series["val_loss"]), step, self._tokens)
        loss = float(series.get("loss", math.nan))
        if not math.isfinite(loss):
            return
        rate = float(series.get("learning_rate", self._peak_rate)) / self._peak_rate
        self._sums = (self._sums[0] + loss, self._sums[1] + rate)
        self._count += 1
        if self._count < self._stride:
            return
        self._points.append((self._tokens, self._sums[0] / self._count, self._sums[1] / self._count))
        self._sums, self._count = (0.0, 0.0), 0
        if len(self._points) == MOST_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [(b[0], (a[1] + b[1]) / 2, (a[2] + b[2]) / 2) for a, b in pairs]
            self._stride *= 2

    def planned(self, total_steps: int) -> None:
        """From now on the run is to have so many steps."""
        self._facts = dataclasses.replace(self._facts, total_steps=total_steps)
        self._rules = dataclasses.replace(self._rules, total_steps=total_steps)

    def check(self) -> dict[str, Any]:
        """What `status` and the dashboard show, None where it is too early to tell; sets `ended` where it is time."""
        budget, facts = self._facts.tokens_optimal, self._facts
        trend = self._trend()
        self._refit()
        predicted = self._forecast
        figures = advice.Figures(self._step, self._tokens, trend["phase"], trend["convergence_score"],
                                 trend["diminishing_returns"], trend["landscape"], predicted)  # fmt: skip
        told = advice.advise(self._rules, figures, self._best)
        if self._settings.enable_early_stopping:
            self.ended = told.stop
        return {
            "tokens_seen": int(self._tokens),
            "tokens_optimal": budget.tokens_optimal,
            "progress": self._tokens / budget.tokens_optimal,
            "basis": budget.basis,
            "tokens_optimal_other": budget.tokens_optimal_other,
            "other_basis": budget.other_basis,
            "multiplier": self._settings.chinchilla_multiplier,
            "epochs": None if facts.epochs is None else dataclasses.asdict(facts.epochs),
            **trend,
            "predicted_final_loss": predicted and predicted.loss,
            "predicted_low": predicted and predicted.low,
            "predicted_high": predicted and predicted.high,
            "fit": predicted and {"E": predicted.floor, "A": predicted.excess, "alpha": predicted.alpha},
            **told.to_json(),
        }

    def priority(self) -> advice.Priority:
        """How much a checkpoint is worth after the newest step; `check` tells the same."""
        return advice.priority(self._rules, self._trend()["phase"], self._best)

    def _trend(self) -> dict[str, Any]:
        tokens, losses, _ = self._arrays()
        fifth = len(losses) // 5
        nothing = dict.fromkeys(("convergence_score", "landscape", "compute_efficiency", "efficiency_trend",
                                 "diminishing_returns"))  # fmt: skip
        if len(losses) < FEWEST_POINTS:
            return {"phase": "warming", **nothing}
        before, last = losses[-2 * fifth : -fifth], losses[-fifth:]
        level = float(last.mean())
        gain = float(before.mean() - last.mean()) / level if level > 0 else 0.0
        # neighbours differ by noise and hardly by trend; a difference of two has twice the variance
        noise = spread(np.diff(losses[-2 * fifth :])) / math.sqrt(2)
        error = noise * math.sqrt(2 / fifth) / level if level > 0 else 0.0
        relative = spread(last) / level if level > 0 else 0.0
        score = 100 * math.exp(-abs(gain) / GAIN_SCALE) / (1 + relative / NOISE_SCALE)
        found = {**nothing, "phase": self._phase(gain, error), "convergence_score": score}
        if self._settings.enable_loss_landscape:
            found["landscape"] = _landscape(gain, error, relative)
        if self._settings.enable_compute_efficiency:
            found |= self._efficiency(tokens, losses, fifth)
        return found

    def _phase(self, gain: float, error: float) -> str:
        if self._step <= self._warmup:
            return "warming"
        if self._settings.enable_loss_landscape and gain < PLATEAU_GAIN and gain < 2 * error + 1e-12:
            return "plateau"
        return "convergence" if gain < CONVERGENCE_GAIN else "learning"

    def _efficiency(self, tokens: Floats, losses: Floats, fifth: int) -> dict[str, Any]:
        """Nats per operation from fifth to fifth; the warm-up's points are those of any other time."""
        steps = [slice(len(losses) - (k + 1) * fifth, len(losses) - k * fifth) for k in range(4, -1, -1)]
        centres = np.array([[tokens[part].mean(), losses[part].mean()] for part in steps])
        operations = np.diff(centres[:, 0]) * self._facts.flops_per_token
        if not (operations > 0).all():
            return {}
        gains = -np.diff(centres[:, 1]) / operations
        whole = float((centres[0, 1] - centres[-1, 1]) / operations.sum())
        before = float(gains[-3:-1].mean())
        return {
            "compute_efficiency": float(gains[-1]),
            "efficiency_trend": float(gains[-1]) / before if before > 0 else None,
            "diminishing_returns": bool(whole > 0 and gains[-1] < DIMINISHED * whole),
        }

    def _refit(self) -> None:
        if self._step <= self._warmup or len(self._points) < FEWEST_POINTS:
            return
        if self._step < REFIT_GROWTH * self._fitted_at and self._fitted_for == self._facts.total_steps:
            return
        tokens, losses, rates = self._arrays()
        after = tokens > self._tokens * self._warmup / self._step  # the warm-up bends the curve
        final = self._tokens * max(self._facts.total_steps / self._step, 1.0)
        last_rate = min(self._last_rate, float(rates[-1]))
        self._fitted_at, self._fitted_for = self._step, self._facts.total_steps
        self._forecast = forecast(tokens[after], losses[after], rates[after], final, last_rate)

    def _arrays(self) -> tuple[Floats, Floats, Floats]:
        points: Floats = np.array(self._points, np.float64).reshape(-1, 3)
        return points[:, 0], points[:, 1], points[:, 2]

    def state(self) -> dict[str, Any]:
        """Everything that later checks depend on, as plain JSON."""
        return {
            "tokens": self._tokens,
            "step": self._step,
            "points": [list(point) for point in self._points],
            "stride": self._stride,
            "sums": list(self._sums),
            "count": self._count,
            "fitted_at": self._fitted_at,
            "fitted_for": self._fitted_for,
            "forecast": None if self._forecast is None else dataclasses.asdict(self._forecast),
            "best": dataclasses.asdict(self._best),
            "ended": self.ended,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`; an extended run has its patience anew."""
        self._tokens = float(state["tokens"])
        self._step = int(state["step"])
        self._points = [(float(tokens), float(loss), float(rate)) for tokens, loss, rate in state["points"]]
        self._stride = int(state["stride"])
        self._sums = (float(state["sums"][0]), float(state["sums"][1]))
        self._count = int(state["count"])
        self._fitted_at = int(state["fitted_at"])
        self._fitted_for = int(state.get("fitted_for", self._facts.total_steps))
        self._forecast = None if state["forecast"] is None else Forecast(**state["forecast"])
        self._best = advice.Best(**state["best"])
        self.ended = state["ended"]
        if self.ended and self._facts.extended:  # a person wants more of it: patience begins anew
            self.ended = None
            self._best = dataclasses.replace(self._best, tokens=self._tokens)


def _landscape(gain: float, error: float, relative_noise: float) -> dict[str, Any]:
    moved = abs(gain) > max(2 * error, FLAT_GAIN)
    return {
        "trend": ("falling" if gain > 0 else "rising") if moved else "flat",
        "relative_change": -gain,
        "variation": relative_noise,
        "diverging": moved and gain < DIVERGED_GAIN,
    }
