"""Predicts the final loss of a run from its loss so far, with a band; it sees tokens, losses and learning rates only.

Model: Hoffmann et al., 2022 ("Training Compute-Optimal Large Language Models"), for one run; the last term is what a
decaying learning rate still gives (Tissue et al., 2024, "Scaling law with learning rate annealing"):

L(D, h) = E + A (D / D_now)^-alpha + C h,   h = learning rate / highest learning rate

For each alpha of a grid the model is linear, so the posterior of (E, A, C) under normal priors is known in closed form.
alpha has a log-normal prior, and the grid is weighted by how well each alpha explains the points. Priors, in units of
the loss now: E 0.3 +- 0.4, A 0.7 +- 0.4, C 0.03 +- 0.03; log alpha: log 0.5 +- 0.8. Residuals beyond twice their robust
deviation weigh less (Huber, 1964). Neighbouring points share noise: the variance grows by (1 + q) / (1 - q), where q is
the correlation of neighbouring residuals. On top of the prediction's variance come a quarter of a point's, since the
end is measured, too; m^2, where m is the median of what the fit misses the newest tenth of the points by, for a curve
that has left its form already; and (0.0075 x loss now + 0.19 x s)^2 log(D_final / D_now), s = -dL / d log D now: a
loss that falls steeply may go on so, or not. The prediction is the median of the mixture over alpha, the band its 5th
to 95th percentile. Nothing is random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lumina.orchestrator.signals import Floats, spread

ALPHAS: Floats = np.geomspace(0.03, 2.5, 48)
ALPHA_CENTRE, ALPHA_SPREAD = 0.5, 0.8
PRIOR_MEAN = np.array([0.3, 0.7, 0.03])
PRIOR_DEVIATION = np.array([0.4, 0.4, 0.03])
EARLIEST = 0.3  # share of the tokens so far; what is older says little of the end
DISCREPANCY = 0.0075
STEEPNESS = 0.19
END_NOISE = 0.5
HUBER = 2.0
FEWEST = 10
ROUNDS = 4
LOW, HIGH = 0.05, 0.95


@dataclass(frozen=True)
class Forecast:
    """The loss at the end: median and the band that should hold it in nine cases of ten; E, A and alpha of the fit."""

    loss: float
    low: float
    high: float
    floor: float
    excess: float
    alpha: float

    def at(self, ratio: float) -> float:
        """E + A ratio^-alpha: the fitted curve at `ratio` times the tokens so far, without the learning rate's part."""
        return float(self.floor + self.excess * ratio**-self.alpha)


def forecast(tokens: Floats, losses: Floats, rates: Floats, final_tokens: float, final_rate: float) -> Forecast | None:
    """The loss at `final_tokens` and at `final_rate` (of the highest); None when there are too few points."""
    kept = np.isfinite(losses) & (losses > 0) & (tokens >= EARLIEST * tokens[-1]) if len(tokens) else np.zeros(0, bool)
    if kept.sum() < FEWEST:
        return None
    u, y, h = tokens[kept] / tokens[-1], losses[kept], rates[kept]
    newest = slice(-max(len(y) // 10, 3), None)
    level = float(np.median(y[newest]))
    design = np.stack(
        [np.ones((len(ALPHAS), len(u))), u ** -ALPHAS[:, None], np.broadcast_to(h, (len(ALPHAS), len(u)))], 2
    )
    fit = _posterior(design, y / level)
    ratio = max(final_tokens / float(tokens[-1]), 1.0)
    ahead = np.stack([np.ones(len(ALPHAS)), ratio**-ALPHAS, np.full(len(ALPHAS), final_rate)], 1)
    means = (ahead * fit.mean).sum(1)
    best = int(fit.weight.argmax())
    steepness = max(float(fit.mean[best, 1] * ALPHAS[best]), 0.0)  # -dL / d log D now, in units of the loss now
    missed = float(np.median(y[newest] / level - design[best, newest] @ fit.mean[best]))
    ahead_of_it = (DISCREPANCY + STEEPNESS * steepness) * math.sqrt(math.log(ratio))
    doubt = math.hypot(ahead_of_it, missed, END_NOISE * fit.noise)
    deviations = np.sqrt(np.einsum("ai,aij,aj->a", ahead, fit.covariance, ahead) + doubt**2)
    # A line through few points may end below zero, where no loss is.
    low, middle, high = (max(level * _quantile(fit.weight, means, deviations, q), 0.0) for q in (LOW, 0.5, HIGH))
    floor, excess = float(fit.mean[best, 0]) * level, float(fit.mean[best, 1]) * level
    return Forecast(middle, low, high, floor, excess, float(ALPHAS[best]))


@dataclass(frozen=True)
class _Posterior:
    weight: Floats  # [alphas]
    mean: Floats  # [alphas, 3]
    covariance: Floats  # [alphas, 3, 3]
    noise: float  # of one point


def _posterior(design: Floats, y: Floats) -> _Posterior:
    """Normal posteriors of the three coefficients for every alpha, and the weight of each alpha."""
    from scipy.special import ndtr

    precision = np.diag(PRIOR_DEVIATION**-2.0)
    weights = np.ones(len(y))
    variance = max(spread(np.diff(y)) / math.sqrt(2), 1e-4) ** 2
    for _ in range(ROUNDS):
        scaled = design * (weights / variance)[None, :, None]
        covariance = np.linalg.inv(precision + np.einsum("api,apj->aij", scaled, design))
        mean = np.einsum("aij,aj->ai", covariance, precision @ PRIOR_MEAN + np.einsum("api,p->ai", scaled, y))
        residuals = y - np.einsum("api,ai->ap", design, mean)
        squares = (weights * residuals**2).sum(1)
        best = residuals[int(squares.argmin())]
        noise = max(spread(best), 1e-4)
        weights = np.minimum(1.0, HUBER * noise / np.maximum(np.abs(best), 1e-12))
        variance = noise**2 * _inflation(best, noise)
    away = mean - PRIOR_MEAN
    fit = squares / variance + np.einsum("ai,ij,aj->a", away, precision, away)
    prior = (np.log(ALPHAS / ALPHA_CENTRE) / ALPHA_SPREAD) ** 2
    logs = -0.5 * (fit + prior) + 0.5 * np.linalg.slogdet(covariance)[1]
    possible = ndtr(mean[:, 0] / np.sqrt(covariance[:, 0, 0])) * ndtr(mean[:, 1] / np.sqrt(covariance[:, 1, 1]))
    weight = np.exp(logs - logs.max()) * possible
    return _Posterior(weight / weight.sum(), mean, covariance, math.sqrt(variance))


def _inflation(residuals: Floats, noise: float) -> float:
    kept = np.clip(residuals, -3 * noise, 3 * noise)
    total = float((kept**2).sum())
    q = min(max(float((kept[1:] * kept[:-1]).sum()) / total, 0.0), 0.9) if total > 0 else 0.0
    return (1 + q) / (1 - q)


def _quantile(weight: Floats, mean: Floats, deviation: Floats, share: float) -> float:
    """Where the mixture of normals has `share` of its mass below."""
    from scipy.optimize import brentq
    from scipy.special import ndtr

    kept = weight > 1e-9
    w, m, s = weight[kept], mean[kept], deviation[kept]
    w = w / w.sum()
    low, high = float((m - 9 * s).min()), float((m + 9 * s).max())
    return float(brentq(lambda x: float((w * ndtr((x - m) / s)).sum()) - share, low, high, xtol=1e-7))
