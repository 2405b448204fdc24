"""What every detector is shown, and the form in which it says what it found. Nothing here looks for trouble."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lumina.orchestrator.signals import Signals
from lumina.orchestrator.types import RunFacts

FELT_STEPS = 3  # an intervention that makes the loss jump does so in the first steps that feel it


@dataclass(frozen=True)
class View:
    """The signals, the facts of the run and its live values after a step.

    `attempts` counts, by cause, the interventions that were made lately for it: a remedy may grow with them.
    `positions` has, by cause, the earliest place in the data that one of them was about. `intervened` has the steps
    after which anything was lately applied, by whomever. `outlook` is what `Chinchilla` says now; emergencies have
    none.
    """

    signals: Signals
    facts: RunFacts
    hparams: Mapping[str, float]
    attempts: Mapping[str, int] = field(default_factory=dict)
    positions: Mapping[str, int] = field(default_factory=dict)
    intervened: tuple[int, ...] = ()
    outlook: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        return self.signals.steps()[-1]

    def intervention_before(self, step: int) -> int | None:
        """The step after which an intervention was applied whose own jump something that began in `step` may be."""
        return max((at for at in self.intervened if at < step <= at + FELT_STEPS), default=None)


def evidence(
    view: View, summary: str, threshold: Any, numbers: Mapping[str, Any], first_step: int | None = None
) -> dict[str, Any]:
    """Evidence in its documented form: a sentence, the numbers behind it, the window, the threshold."""
    steps = view.signals.steps()
    window = {"first_step": steps[0] if first_step is None else first_step, "last_step": steps[-1]}
    rounded = {name: _short(value) for name, value in numbers.items()}
    return {"summary": summary, "numbers": rounded, "window": window, "threshold": _short(threshold)}


def beyond(value: float, limit: float) -> float:
    """Confidence from how far a value is beyond its limit: 1 - limit / value / 2, so 0.5 at the limit and 0.75 at twice
    the limit; below the limit it falls to 0 in proportion."""
    if not limit > 0 or not math.isfinite(value):
        return 1.0 if value > limit else 0.0
    if value < limit:
        return max(0.0, 0.5 * value / limit)
    return 1.0 - 0.5 * limit / value


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
