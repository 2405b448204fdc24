"""Finds steps whose loss or gradient was not finite. Such a step makes no update whatever is decided; this says when
they are too many to be chance. Confidence is 1: they were counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lumina.orchestrator.detectors.view import View, evidence
from lumina.orchestrator.signals import Floats, Signals
from lumina.orchestrator.types import Act, Finding

CAUSE = "non_finite"
CRITICAL_SHARE = 0.1  # of the steps since the last check
MANY = 3
IN_A_ROW = 10  # newest steps without an update: the state itself, or the data from here on, is bad


def failed(signals: Signals) -> bool:
    """Whether the newest step had no finite loss."""
    return not bool(np.isfinite(signals.last("loss", 1)).all())


class NonFinite:
    """A warning for single steps; an emergency when the newest ten in a row made no update."""

    def find(self, view: View) -> Sequence[Finding]:
        """The count since the last check, and what to do when it goes on."""
        signals = view.signals
        steps, bad = signals.since_check["steps"], signals.since_check["non_finite"]
        stuck = signals.count > IN_A_ROW and not np.isfinite(signals.last("loss", IN_A_ROW)).any()
        if not bad:
            return ()
        severity = "critical" if stuck or bad >= max(MANY, CRITICAL_SHARE * steps) else "warning"
        summary = f"{bad} of the last {steps} steps had a non-finite loss or gradient and made no update."
        found = evidence(view, summary, IN_A_ROW, {"non_finite": bad, "steps": steps})
        if not stuck:
            return (Finding(CAUSE, 1.0, severity, found),)
        long = _stretch(signals.window("loss"))
        back = {"num_steps": min(long + 2, view.step)}
        then = (Act("emergency_lr_reduction", {"reduction_factor": 2.0}),)
        return (Finding(CAUSE, 1.0, severity, found, "rollback_steps", back, then=then, emergency=True),)


def _stretch(losses: Floats) -> int:
    """Newest losses that are not finite."""
    good = np.flatnonzero(np.isfinite(losses))
    return len(losses) - 1 - int(good[-1]) if len(good) else len(losses)
