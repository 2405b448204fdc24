"""Finds a loss that does not move: because the rate is far too small, because it has come to rest, or for no reason
that is known. Reads the blocks of ten steps; what a schedule intends is not its business.

Over the newest blocks (three check intervals, at least six blocks) the gain is the fall of the median from the first to
the last third, with a standard error from the noise between blocks. Flat means a gain below 0.5 % of the loss and below
two standard errors; it is a plateau, and it has converged when more than half of the run lies behind. Confidence: 1 -
|gain| / 0.5 % / 2, at most 0.7. A loss within 10 % of the run's first one after the warm-up has not begun to learn:
confidence 0.95 where the rate is below a tenth of what is usual for a model of this size (Kaplan et al., 2020, eq. D.1:
0.003239 - 0.0001395 ln N).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lumina.orchestrator.detectors.view import View, evidence
from lumina.orchestrator.signals import BLOCK, median, noise
from lumina.orchestrator.types import Finding

STALLED, PLATEAU, CONVERGED = "stalled", "plateau", "convergence"
FLAT, ERRORS, UNLEARNED = 0.005, 2.0, 0.9
SLOW = 0.1  # of the usual rate
FEWEST_BLOCKS, CHECKS = 6, 3
MOST_FACTOR = 1000.0


class Progress:
    """At most one finding."""

    def find(self, view: View) -> Sequence[Finding]:
        """Whether the loss moves, and what the rate has to do with it."""
        signals = view.signals
        count = max(FEWEST_BLOCKS, CHECKS * signals.check_interval // BLOCK)
        slow = self._stalled(view)
        if slow is not None:
            return (slow,)
        if len(signals.blocks) < count + view.facts.warmup_steps // BLOCK:
            return ()
        losses = np.array([block.loss for block in signals.blocks[-count:]])
        third = count // 3
        level = median(losses[-third:])
        if not level > 0:
            return ()
        gain = (median(losses[:third]) - level) / level
        error = 1.25 * noise(losses) * math.sqrt(2 / third) / level
        if abs(gain) > FLAT or abs(gain) > max(ERRORS * error, FLAT / 4):
            return ()
        first = signals.blocks[-count].step - BLOCK + 1
        done = view.step / max(view.facts.total_steps, 1)
        cause = CONVERGED if done > 0.5 else PLATEAU
        sure = min(0.7, 1 - abs(gain) / FLAT / 2)
        words = "has come to rest" if cause == CONVERGED else "does not fall"
        summary = (
            f"The loss {words} at {level:.3f}: {gain:+.2%} from step {first} to {view.step} ({done:.0%} of the run)."
        )
        found = evidence(view, summary, FLAT, {"gain": gain, "error": error, "loss": level}, first_step=first)
        return (Finding(cause, sure, "info", found),)

    def _stalled(self, view: View) -> Finding | None:
        signals, facts = view.signals, view.facts
        rate = float(signals.last("learning_rate", 1)[-1]) if signals.steps() else math.nan
        past_warmup = view.step - facts.warmup_steps
        blocks = signals.blocks
        if len(blocks) < 3 or past_warmup < max(2 * BLOCK, signals.check_interval // 2) or not rate > 0:
            return None
        usual = usual_rate(facts.params_active)
        level = median(np.array([block.loss for block in blocks[-2:]]))
        if rate >= SLOW * usual or level < UNLEARNED * signals.first_loss:
            return None
        factor = min(usual / rate, MOST_FACTOR)
        summary = (
            f"The loss is {level:.3f} after {view.step} steps, {level / signals.first_loss:.0%} of the first one, at a "
            f"rate of {rate:.2g}; models of this size learn at about {usual:.2g}."
        )
        numbers = {"loss": level, "first_loss": signals.first_loss, "rate": rate, "usual": usual}
        found = evidence(view, summary, SLOW * usual, numbers)
        return Finding(STALLED, 0.95, "warning", found, "adjust_learning_rate", {"factor": factor}, ("lr_scale",))


def usual_rate(params: int) -> float:
    """The learning rate that suits a transformer with this number of parameters."""
    return max(0.003239 - 0.0001395 * math.log(max(params, 1)), 1e-4)
