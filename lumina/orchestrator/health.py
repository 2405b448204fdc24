"""The health of a run in one word, with the issues behind it: gradients, skipped steps, loss, dropped tokens, findings.
Reads the signals of the last steps; it proposes nothing and changes nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lumina.orchestrator.signals import Signals, median, spread
from lumina.orchestrator.types import Finding

SPIKE_FACTOR, SPIKE_CRITICAL = 5.0, 50.0  # multiples of the median gradient norm
SKIPPED_CRITICAL = 0.1  # share of the steps since the last check
RISE_WARNING, RISE_CRITICAL = 0.02, 0.2  # of the loss, from the first to the last third of the window
RISE_SIGMAS = 4.0
DROPPED_WARNING, DROPPED_CRITICAL = 0.25, 0.5  # share of the assignments that found no room
FINDING_SHOWN = 0.5
SAME = {  # what a detector calls the issues of this module
    "non_finite": "non_finite",
    "gradient_spike": "gradient_spike",
    "gradient_explosion": "gradient_spike",
    "divergence": "loss_rising",
    "data_anomaly": "loss_rising",
    "tokens_dropped": "tokens_dropped",
}


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong: `severity` warning or critical, `confidence` 0 to 1."""

    code: str
    severity: str
    message: str
    confidence: float


@dataclass(frozen=True)
class Health:
    """`status` healthy, warning or critical: that of the worst issue. The rest is filled in by `assessment`."""

    status: str
    issues: tuple[Issue, ...]
    areas: dict[str, dict[str, str]] = field(default_factory=dict)
    recommendations: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "issues": [dataclasses.asdict(issue) for issue in self.issues],
            "areas": self.areas,
            "recommendations": list(self.recommendations),
        }


def examine(signals: Signals, findings: Sequence[Finding]) -> Health:
    """All issues of the window, the worst first."""
    found = [_skipped(signals), _gradient(signals), _loss(signals), _dropped(signals)]
    issues = [issue for issue in found if issue is not None]
    said = {issue.code for issue in issues}
    issues += [
        Issue(finding.cause, finding.severity, str(finding.evidence["summary"]), round(finding.confidence, 2))
        for finding in findings
        if finding.confidence >= FINDING_SHOWN and finding.severity != "info" and SAME.get(finding.cause) not in said
    ]
    issues.sort(key=lambda issue: issue.severity != "critical")
    status = issues[0].severity if issues else "healthy"
    return Health(status, tuple(issues))


def _skipped(signals: Signals) -> Issue | None:
    steps, bad = signals.since_check["steps"], signals.since_check["non_finite"]
    if not bad:
        return None
    severity = "critical" if bad >= max(3, SKIPPED_CRITICAL * steps) else "warning"
    message = f"{bad} of the last {steps} steps had a non-finite loss or gradient and made no update"
    return Issue("non_finite", severity, message, 1.0)


def _gradient(signals: Signals) -> Issue | None:
    norms = signals.window("grad_norm")
    usual = median(norms)
    if not signals.full or not usual > 0:
        return None
    recent = norms[-min(signals.since_check["steps"] or len(norms), len(norms)) :]
    if not np.isfinite(recent).any():
        return None
    index = int(np.nanargmax(recent))
    highest = float(recent[index])
    limit = max(SPIKE_FACTOR * usual, usual + 10 * spread(norms))
    if highest <= limit:
        return None
    step = signals.steps()[len(norms) - len(recent) + index]
    severity = "critical" if highest > SPIKE_CRITICAL * usual else "warning"
    message = f"Gradient norm reached {highest:.3g} at step {step}, {highest / usual:.0f} times its median {usual:.3g}"
    return Issue("gradient_spike", severity, message, _beyond(highest, limit))


def _loss(signals: Signals) -> Issue | None:
    losses = signals.window("loss")
    third = len(losses) // 3
    early, late = losses[:third], losses[-third:]
    before, now = median(early), median(late)
    if not signals.full or not before > 0 or not math.isfinite(now):
        return None
    rise = now / before - 1
    # standard error of the difference of two medians (1.25 sigma / sqrt(n) each), in units of the loss itself
    error = 1.25 * math.hypot(spread(early), spread(late)) / math.sqrt(third) / before
    if rise < RISE_WARNING or rise < RISE_SIGMAS * error:
        return None
    severity = "critical" if rise >= RISE_CRITICAL else "warning"
    steps = signals.steps()
    message = f"Loss rose by {rise:.0%} within steps {steps[0]} to {steps[-1]}, from {before:.3f} to {now:.3f}"
    return Issue("loss_rising", severity, message, _beyond(rise, max(RISE_WARNING, RISE_SIGMAS * error)))


def _dropped(signals: Signals) -> Issue | None:
    share = median(signals.window("moe.drop_fraction"))
    if not signals.full or not share > DROPPED_WARNING:
        return None
    severity = "critical" if share > DROPPED_CRITICAL else "warning"
    message = f"{share:.0%} of the expert assignments found no room and were dropped"
    return Issue("tokens_dropped", severity, message, _beyond(share, DROPPED_WARNING))


def _beyond(value: float, limit: float) -> float:
    """Confidence from how far a value is beyond its limit: 0.5 at the limit, towards 1 at several times of it."""
    return round(1 - 0.5 * limit / value, 2)
