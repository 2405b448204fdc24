"""Finds a loss that leaves its level for good: by itself, or because of the data. Reads losses and positions in the
data; it never knows who changed them.

Usual level and noise come from the blocks of ten steps before the newest one. The loss has left when the median of the
newest four steps is above level + max(4 x noise, 4 % of the level), and the newest three all are above half of that;
confidence is 1 - limit / rise / 2, so 0.75 at twice that limit. It began with the first of the steps above half the
limit, single dips aside. Where that step makes most of the rise, the data from there on is the likely reason: weights
do not change so fast at an unchanged rate. A rise that began in the first steps after an intervention is that one's
own, and no emergency: what becomes of it is for its effect, or for a person.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lumina.orchestrator.detectors.view import View, beyond, evidence
from lumina.orchestrator.signals import Floats, Reference, Signals, median
from lumina.orchestrator.types import Act, Finding

DIVERGENCE, DATA = "divergence", "data_anomaly"
DEVIATIONS, SHARE = 4.0, 0.04
NEWEST, FEWEST = 4, 3
ABRUPT = 0.6  # share of the rise that its first step makes, if other data is the reason
SKIPPED_CHECKS = 2  # check intervals of data that are left out at first; doubled each time that it was too little


def left(signals: Signals) -> bool:
    """Whether the newest loss has left its level."""
    usual, newest = signals.reference, signals.last("loss", 1)
    return usual is not None and bool(newest[-1] > usual.loss + limit_of(usual))


def limit_of(usual: Reference) -> float:
    """How far above its level the loss must be to have left it."""
    return max(DEVIATIONS * usual.loss_noise, SHARE * abs(usual.loss))


def onset(losses: Floats, above: float) -> int:
    """Index of the first loss of the last stretch above a level; single dips do not end it."""
    high = np.where(np.isfinite(losses), losses, math.inf) > above
    at = len(losses)
    while at > 0 and (high[at - 1] or (at > 1 and high[at - 2] and at < len(losses))):
        at -= 1
    return min(at, len(losses) - 1)


class Divergence:
    """At most one finding: back to before it began, then around the data or at half the rate."""

    def find(self, view: View) -> Sequence[Finding]:
        """What the newest steps say against the blocks before them."""
        signals = view.signals
        usual = signals.reference
        if usual is None:
            return ()
        limit = limit_of(usual)
        rise = median(signals.last("loss", NEWEST)) - usual.loss
        if not math.isfinite(rise) or rise < 0.6 * limit:
            return ()
        losses = signals.window("loss")
        if (losses[-FEWEST:] <= usual.loss + limit / 2).any():
            return ()
        began = onset(losses, usual.loss + limit / 2)
        if losses[began] - usual.loss > ABRUPT * rise and len(losses) - began < NEWEST - 1:
            return ()  # another step tells whether it was one batch, or the data from here on
        return (_risen(view, usual, limit, rise, losses, began),)


def _risen(view: View, usual: Reference, limit: float, rise: float, losses: Floats, began: int) -> Finding:
    signals, steps = view.signals, view.signals.steps()
    sure, first, long = beyond(rise, limit), losses[began] - usual.loss, len(losses) - began
    positions = signals.window("data.position")
    level = usual.loss + rise
    text = f"Loss left its level of {usual.loss:.3f} at step {steps[began]} and is at {level:.3f}"
    numbers = {"level": usual.loss, "noise": usual.loss_noise, "loss": level, "since_step": steps[began]}
    back = long + max(2, signals.check_interval // 10)
    cause = view.intervention_before(steps[began])
    if cause is None and first > ABRUPT * rise and math.isfinite(positions[began]):
        extent = max(2 * long, SKIPPED_CHECKS * signals.check_interval) * 2 ** view.attempts.get(DATA, 0)
        at = int(positions[began])
        start = min(at, view.positions.get(DATA, at))  # going back has forgotten what was left out before
        summary = f"{text}: {first / rise:.0%} of the rise came with that step's data."
        found = evidence(view, summary, usual.loss + limit, {**numbers, "position": at})
        beyond_at = extent * view.facts.sequences_per_step
        skipped = {"first_sequence": start, "sequences": at - start + beyond_at}
        then = (Act("skip_data_range", skipped),)
        return Finding(DATA, sure, "critical", found, "rollback_steps", {"num_steps": back}, then=then, emergency=True)
    why = "at an unchanged rate" if cause is None else f"right after the intervention at step {cause}"
    found = evidence(view, f"{text}, {why}.", usual.loss + limit, numbers)
    then = (Act("emergency_lr_reduction", {"reduction_factor": 2.0}),)
    args = {"num_steps": back + signals.check_interval // 2}
    return Finding(
        DIVERGENCE, sure, "critical", found, "rollback_steps", args, then=then, emergency=cause is None
    )  # fmt: skip
