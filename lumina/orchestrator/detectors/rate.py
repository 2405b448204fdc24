"""Finds a learning rate that is not what schedule and decisions make of it. Reads the rate that reached the optimizer,
the scheduled one, and the factor that decisions put on it; it never knows who set any of them.

Strayed means that rate / (scheduled x factor) is beyond 4 or below 1/4: nobody decided that. It is trouble while the
rate itself is above 3 times the scheduled one, or below a third of it; confidence 1 - 3 / that / 2. Too high is an
emergency: one step at such a rate may undo the work of thousands.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lumina.orchestrator.detectors.view import View, beyond, evidence
from lumina.orchestrator.signals import Floats, Signals
from lumina.orchestrator.types import Act, Finding

HIGH, LOW = "learning_rate_too_high", "learning_rate_too_low"
STRAYED, TROUBLE = 4.0, 3.0
LONGEST_FACTOR = 1000.0


def high(signals: Signals) -> bool:
    """Whether the newest rate has strayed upwards."""
    decided, scheduled = _ratios(signals, 1)
    return bool((decided >= STRAYED).any() and (scheduled > TROUBLE).any())


def _ratios(signals: Signals, count: int) -> tuple[Floats, Floats]:
    """The newest rates over what was decided, and over the schedule alone; NaN where either is unknown."""
    rates, scheduled = signals.last("learning_rate", count), signals.last("learning_rate.scheduled", count)
    factors = signals.last("lr_scale", count)
    with np.errstate(all="ignore"):
        by_schedule: Floats = rates / scheduled
        return by_schedule / np.where(np.isfinite(factors) & (factors > 0), factors, 1.0), by_schedule


class RateStrayed:
    """At most one finding, about the newest step."""

    def find(self, view: View) -> Sequence[Finding]:
        """Back to before it went up, and when that did not help, at a rate that makes up for it."""
        signals = view.signals
        decided, scheduled = _ratios(signals, signals.count)
        up = bool(decided[-1] >= STRAYED and scheduled[-1] > TROUBLE)
        down = bool(decided[-1] <= 1 / STRAYED and scheduled[-1] < 1 / TROUBLE)
        if not up and not down:
            return ()
        strayed = decided >= STRAYED if up else decided <= 1 / STRAYED
        steps = signals.steps()  # where all of them strayed it may have begun before: that is not in the windows
        since = steps[0] if strayed.all() else steps[len(decided) - 1 - int(np.argmin(strayed[::-1]))] + 1
        excess = float(scheduled[-1] if up else 1 / scheduled[-1])
        factor, now = min(excess, LONGEST_FACTOR), float(signals.last("learning_rate", 1)[-1])
        summary = (
            f"The learning rate is {now:.3g} since step {since}, {excess:.3g} times {'above' if up else 'below'} its "
            "schedule, and nobody decided that."
        )
        numbers = {"factor": excess, "since_step": since, "learning_rate": now}
        found, sure, watches = evidence(view, summary, TROUBLE, numbers), beyond(excess, TROUBLE), ("lr_scale",)
        if down:
            return (Finding(LOW, sure, "warning", found, "adjust_learning_rate", {"factor": factor}, watches),)
        back = {"num_steps": max(view.step - since + 1, 1)}
        again = view.attempts.get(HIGH, 0) > 0  # going back did not help: whatever raised the rate is still there
        then = (Act("adjust_learning_rate", {"factor": 1 / factor}),) if again else ()
        return (Finding(HIGH, sure, "critical", found, "rollback_steps", back, watches, then, emergency=True),)
