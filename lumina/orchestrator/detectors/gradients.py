"""Finds gradients that explode: a norm far above what is usual in this run. Reads gradient norms and losses; what
clips them is not its business.

A step counts as a peak when its norm is above 10 times the usual norm and 20 robust deviations above it, and above 1.
One peak is noted (clipping took care of it). Confidence of an explosion: 1 - 1 / (2 x peaks among the newest five),
times 1 - limit / (2 x highest); so one peak stays below 0.5, and three or more high ones come near 0.8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lumina.orchestrator.detectors.view import View, beyond, evidence
from lumina.orchestrator.signals import Reference, Signals
from lumina.orchestrator.types import Act, Finding

CAUSE, SPIKE = "gradient_explosion", "gradient_spike"
FACTOR, DEVIATIONS, LEAST = 10.0, 20.0, 1.0
RECENT, PEAKS = 5, 3
CLIP_SHARE = 2.0  # the proposed clip, in multiples of the usual norm


def limit_of(usual: Reference) -> float:
    """Above this norm a step is a peak."""
    return max(FACTOR * usual.grad_norm, usual.grad_norm + DEVIATIONS * usual.grad_noise, LEAST)


def peaked(signals: Signals) -> bool:
    """Whether the newest step is a peak."""
    usual = signals.reference
    return usual is not None and usual.grad_norm > 0 and bool(signals.last("grad_norm", 1)[-1] > limit_of(usual))


class GradientExplosion:
    """Three peaks among the newest five steps are an emergency: back, at a tenth of the rate. In the first steps after
    an intervention they are its own, and none."""

    def find(self, view: View) -> Sequence[Finding]:
        """An explosion, or a single peak since the last check."""
        signals = view.signals
        usual = signals.reference
        if usual is None or not usual.grad_norm > 0:
            return ()
        limit = limit_of(usual)
        since = signals.last("grad_norm", max(signals.since_check["steps"], RECENT))
        if not (since > limit).any():
            return ()
        highest = float(np.nanmax(since))
        peaks = int((since[-RECENT:] > limit).sum())
        steps = signals.steps()
        at = steps[len(steps) - len(since) + int(np.nanargmax(since))]
        times = highest / usual.grad_norm
        summary = (
            f"Gradient norm reached {highest:.3g} at step {at}, {times:.0f} times its usual {usual.grad_norm:.3g}."
        )
        numbers = {"highest": highest, "usual": usual.grad_norm, "peaks_in_last_steps": peaks, "at_step": at}
        found = evidence(view, summary, limit, numbers)
        if peaks < PEAKS:
            return (Finding(SPIKE, beyond(highest, limit), "warning", found),)
        sure = beyond(highest, limit) * (1 - 0.5 / peaks)
        back = RECENT + signals.check_interval // 2
        then = (Act("emergency_lr_reduction", {"reduction_factor": 10.0}),)
        args = {"num_steps": back}
        began = steps[-RECENT:][int(np.argmax(since[-RECENT:] > limit))]
        own = view.intervention_before(began)
        return (Finding(CAUSE, sure, "critical", found, "rollback_steps", args, then=then, emergency=own is None),)
