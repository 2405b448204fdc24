"""Finds a learning rate that jumps away from where it was, without a decision behind it. Reads the rate of every step
and the factor that decisions put on it; it never knows what set either.

A jump is a change of rate / factor by more than 4 times from one step to the next, after the third step: no schedule
does that. It counts while the newest rate is more than 3 times above the highest, or below the median, of the rates
before the jump. Confidence: 1 - 3 / excess / 2. A jump up is an emergency: one step at such a rate may undo the work of
thousands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lumina.orchestrator.detectors.view import View, beyond, evidence
from lumina.orchestrator.signals import Floats, Signals, median
from lumina.orchestrator.types import Act, Finding

HIGH, LOW = "learning_rate_too_high", "learning_rate_too_low"
JUMP, EXCESS = 4.0, 3.0
LONGEST_FACTOR = 1000.0


def jumped(signals: Signals) -> bool:
    """Whether the newest rate is a jump up."""
    bases, steps = signals.last("learning_rate", 2) / _factors(signals.last("lr_scale", 2)), signals.count
    return len(bases) == 2 and steps > 3 and bool(bases[1] >= JUMP * bases[0] > 0)


class RateJump:
    """At most one finding, about the newest jump in the window."""

    def find(self, view: View) -> Sequence[Finding]:
        """Back to before a jump up, and when that did not help, at a rate that makes up for it."""
        signals = view.signals
        rates, steps = signals.window("learning_rate"), signals.steps()
        bases = rates / _factors(signals.window("lr_scale"))
        at = newest_jump(bases, steps)
        if at is None:
            return ()
        before, now = rates[:at][np.isfinite(rates[:at])], float(rates[-1])
        up = bases[at] > bases[at - 1]
        excess = now / float(before.max()) if up else median(before) / now
        if not excess > EXCESS:
            return ()
        factor = min(excess, LONGEST_FACTOR)
        summary = (
            f"The learning rate went {'up' if up else 'down'} by a factor of {excess:.3g} at step {steps[at]}, to "
            f"{now:.3g}, and nobody decided that."
        )
        found = evidence(view, summary, EXCESS, {"factor": excess, "at_step": steps[at], "learning_rate": now})
        sure, watches = beyond(excess, EXCESS), ("lr_scale",)
        if not up:
            return (Finding(LOW, sure, "warning", found, "adjust_learning_rate", {"factor": factor}, watches),)
        back = {"num_steps": view.step - steps[at] + 1}
        again = view.attempts.get(HIGH, 0) > 0  # going back did not help: whatever raised the rate is still there
        then = (Act("adjust_learning_rate", {"factor": 1 / factor}),) if again else ()
        return (Finding(HIGH, sure, "critical", found, "rollback_steps", back, watches, then, emergency=True),)


def newest_jump(bases: Floats, steps: Sequence[int]) -> int | None:
    """Index of the first rate after the newest jump."""
    for index in range(len(bases) - 1, 0, -1):
        before, now = bases[index - 1], bases[index]
        if steps[index] > 3 and before > 0 and now > 0 and abs(math.log(now / before)) >= math.log(JUMP):
            return index
    return None


def _factors(scales: Floats) -> Floats:
    return np.where(np.isfinite(scales) & (scales > 0), scales, 1.0)
