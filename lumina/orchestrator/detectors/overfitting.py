"""Finds a validation loss that rises while the training loss falls. Reads validations; it trains nothing.

The best validation loss must lie at least two validations back, and the training loss must have fallen since, by half
of the rise and more than its noise.
Confidence: 1 - 0.5 % / rise / 2 over the best, times 1 - 1 / (2 x validations since); so at least three validations
must pass before it reaches 0.75.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lumina.orchestrator.detectors.view import View, beyond, evidence
from lumina.orchestrator.types import Act, Finding

CAUSE = "overfitting"
SINCE, RISE = 2, 0.005


class Overfitting:
    """One finding, with the step of the best validation."""

    def find(self, view: View) -> Sequence[Finding]:
        """The rise since the best validation of the run."""
        seen = view.signals.validations
        if len(seen) < SINCE + 1:
            return ()
        losses = np.array([loss for _, loss, _ in seen])
        best = int(losses.argmin())
        since = len(seen) - 1 - best
        trained_then, trained_now = seen[best][2], seen[-1][2]
        if since < SINCE or not math.isfinite(trained_now) or not trained_now < trained_then:
            return ()
        rise = float(np.median(losses[-2:]) / losses[best] - 1)
        usual = view.signals.reference
        unsure = 1.5 * usual.loss_noise if usual is not None else 0.0
        if trained_then - trained_now < max(unsure, rise * losses[best] / 2):
            return ()
        sure = beyond(rise, RISE) * (1 - 0.5 / since)
        if rise < RISE / 2:
            return ()
        summary = (
            f"Validation loss rose from {losses[best]:.3f} at step {seen[best][0]} to {losses[-1]:.3f}, while training "
            f"loss fell from {trained_then:.3f} to {trained_now:.3f}."
        )
        numbers = {"best": float(losses[best]), "best_step": seen[best][0], "now": float(losses[-1]), "rise": rise}
        found = evidence(view, summary, RISE, numbers, first_step=seen[best][0])
        back = max(view.step - seen[best][0], 1)
        then = (Act("early_stop", {}),)
        return (Finding(CAUSE, sure, "warning", found, "rollback_steps", {"num_steps": back}, then=then),)
