"""What follows from the figures of a run: go on, adjust or stop; how many epochs; how hard the data; which checkpoints.
It recommends. Where a run asked for it, early stopping acts on the reason to stop, and detectors make proposals of the
advice on epochs and curriculum; the priority of checkpoints is acted on by whoever saves.

stop        the convergence score is above 85 and the validation loss (the training loss where there is none) has not
            fallen by 0.1 % for `early_stopping_patience` epochs
adjust      the loss diverges; or it has come to a plateau below that score; or returns diminish with a fifth of the
            steps still to come
epochs      where the fitted curve comes within 0.5 % of its value at the planned end, whole and between the limits;
            twice the plan where another doubling would still give 2 %
curriculum  share of the difficulty of the data: 0.3 while warming up, rising to 1 with the plan while learning, then 1
checkpoint  high: the newest validation is the best so far, by 0.1 %; low: on a plateau; normal: else. A validation that
            is better, if only by a little, gets a checkpoint of its own, but for low ones: these wait for the next
            periodic checkpoint, unless the orchestrator is off
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lumina.config import Config
from lumina.orchestrator.scaling import Forecast
from lumina.orchestrator.types import RunFacts

CONVERGED_SCORE = 85.0
IMPROVEMENT = 1e-3
ENOUGH, WORTHWHILE = 0.005, 0.02
LEFT_TO_SAVE = 0.2
EASIEST = 0.3
DECAY = {
    "warming": "let the learning rate rise as planned",
    "learning": "keep the learning rate high while the loss falls",
    "convergence": "let the learning rate decay",
    "plateau": "lower the learning rate, or stop",
}


@dataclass(frozen=True)
class Rules:
    """What the configuration and the plan of a run say of its length."""

    total_steps: int
    patience: int
    fewest_epochs: int
    most_epochs: int
    tokens_per_epoch: float
    adaptive: bool

    @classmethod
    def of(cls, config: Config, facts: RunFacts) -> Rules:
        limits = config.chinchilla
        patience = config.checkpoint.early_stopping_patience
        return cls(facts.total_steps, patience, limits.min_auto_epochs, limits.max_auto_epochs, facts.tokens_per_epoch,
                   config.orchestrator.use_adaptive_training)  # fmt: skip


@dataclass(frozen=True)
class Best:
    """The lowest validation loss so far, and when it was; `newest` is the step of the last validation."""

    loss: float | None = None
    step: int = 0
    tokens: float = 0.0
    newest: int = 0

    def seen(self, loss: float, step: int, tokens: float) -> Best:
        if not math.isfinite(loss) or (self.loss is not None and loss > self.loss * (1 - IMPROVEMENT)):
            return dataclasses.replace(self, newest=step)
        return Best(loss, step, tokens, step)


@dataclass(frozen=True)
class Priority:
    """How much a checkpoint is worth now; `extra`: whether a better validation gets one of its own at once."""

    priority: str
    best_step: int | None
    why: str
    extra: bool


@dataclass(frozen=True)
class Figures:
    """A run now, as `Chinchilla` measures it."""

    step: int
    tokens: float
    phase: str
    score: float | None
    diminishing: bool | None
    landscape: Mapping[str, Any] | None
    forecast: Forecast | None


@dataclass(frozen=True)
class Advice:
    """`action` is continue, adjust or stop; `stop` is the reason to stop, or None."""

    action: str
    why: str
    stop: str | None
    stale_epochs: float | None
    epochs: dict[str, Any] | None
    curriculum: dict[str, Any]
    checkpoint: Priority

    def to_json(self) -> dict[str, Any]:
        return {
            "recommendation": {"action": self.action, "why": self.why},
            "epochs_without_improvement": self.stale_epochs,
            "epochs_advice": self.epochs,
            "curriculum": self.curriculum,
            "checkpoint": dataclasses.asdict(self.checkpoint),
        }


def advise(rules: Rules, now: Figures, best: Best) -> Advice:
    """Everything that the figures speak for."""
    stale = None
    if best.loss is not None and rules.tokens_per_epoch > 0:
        stale = max(0.0, now.tokens - best.tokens) / rules.tokens_per_epoch
    stop = _reason_to_stop(rules, now, stale)
    action, why = ("stop", stop) if stop else _course(rules, now)
    return Advice(action, why, stop, stale, _epochs(rules, now), _curriculum(rules, now),
                  priority(rules, now.phase, best))  # fmt: skip


def _reason_to_stop(rules: Rules, now: Figures, stale: float | None) -> str | None:
    if now.phase == "warming" or now.score is None or now.score <= CONVERGED_SCORE:
        return None
    if stale is None or stale < rules.patience:
        return None
    return (
        f"converged: score {now.score:.0f} % (threshold {CONVERGED_SCORE:.0f} %), and no better validation loss for "
        f"{stale:.1f} epochs (early_stopping_patience {rules.patience})"
    )


def _course(rules: Rules, now: Figures) -> tuple[str, str]:
    left = 1 - now.step / rules.total_steps
    if now.phase == "warming":
        return "continue", "too early to tell"
    if now.landscape and now.landscape["diverging"]:
        return "adjust", f"the loss rose by {now.landscape['relative_change']:.0%}: lower the learning rate or go back"
    if now.phase == "plateau" and (now.score or 0.0) <= CONVERGED_SCORE:
        return "adjust", "the loss has stopped falling without settling: lower the learning rate"
    if now.diminishing and left > LEFT_TO_SAVE:
        return "adjust", f"an operation gives less than a tenth of what it did, and {left:.0%} of the steps are to come"
    if now.forecast is None:
        return "continue", "the loss has not fallen enough yet to say where it ends"
    return "continue", f"the loss should end between {now.forecast.low:.3g} and {now.forecast.high:.3g}"


def _epochs(rules: Rules, now: Figures) -> dict[str, Any] | None:
    curve = now.forecast
    if curve is None or rules.tokens_per_epoch <= 0 or not now.step:
        return None
    ratio = max(rules.total_steps / now.step, 1.0)
    planned, end = now.tokens * ratio, curve.at(ratio)
    tokens, why = planned, "as planned"
    if curve.excess > 0 and end > 0:
        room = (1 + ENOUGH) * end - curve.floor
        enough = (curve.excess / room) ** (1 / curve.alpha) if room > 0 else ratio
        if 1 - curve.at(2 * ratio) / end > WORTHWHILE:
            tokens, why = (
                2 * planned,
                f"twice the plan would still lower the loss by {1 - curve.at(2 * ratio) / end:.1%}",
            )
        elif enough < 0.9 * ratio:
            tokens = max(enough, 1.0) * now.tokens
            why = f"the loss comes within {ENOUGH:.1%} of its end by {tokens:,.0f} tokens"
    exact, plan = tokens / rules.tokens_per_epoch, planned / rules.tokens_per_epoch
    epochs = min(max(math.ceil(exact - 1e-9), rules.fewest_epochs), rules.most_epochs)
    held = min(max(exact, min(rules.fewest_epochs, plan)), max(rules.most_epochs, plan))
    steps = rules.total_steps if why == "as planned" else round(held / plan * rules.total_steps)
    return {"epochs": epochs, "exact": exact, "planned": plan, "steps": steps, "why": why}


def _curriculum(rules: Rules, now: Figures) -> dict[str, Any]:
    share = min(1.0, now.step / rules.total_steps)
    difficulty = {"warming": EASIEST, "learning": EASIEST + (1 - EASIEST) * share}.get(now.phase, 1.0)
    return {"difficulty": round(difficulty, 3), "learning_rate": DECAY[now.phase]}


def priority(rules: Rules, phase: str, best: Best) -> Priority:
    """Whether a checkpoint of this moment is worth more or less than any other."""
    if best.loss is not None and best.step == best.newest:
        return Priority("high", best.step, "the newest validation is the best so far", True)
    if phase == "plateau":
        return Priority(
            "low", best.step or None, f"nothing better by {IMPROVEMENT:.1%} came on this plateau", not rules.adaptive
        )
    return Priority("normal", best.step or None, f"the run is in its phase of {phase}", True)
