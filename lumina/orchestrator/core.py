"""The orchestrator itself: shown every step, asked for its opinion every check interval.
It only joins signals, detectors, policy, health and progress; each of them has its own module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from lumina.config import Config
from lumina.orchestrator import calibration
from lumina.orchestrator.assessment import assess
from lumina.orchestrator.chinchilla import Chinchilla
from lumina.orchestrator.detectors import all_detectors
from lumina.orchestrator.effect import EffectMeter, Measured
from lumina.orchestrator.health import Health, examine
from lumina.orchestrator.policy import Policy
from lumina.orchestrator.signals import Signals
from lumina.orchestrator.types import Proposal, RunFacts


@dataclass(frozen=True)
class CheckResult:
    """What one check says. `withdrawn` has (id, why) pairs; `chinchilla` is JSON, with None where it is too early."""

    proposals: tuple[Proposal, ...]
    withdrawn: tuple[tuple[str, str], ...]
    expired: tuple[str, ...]
    health: Health
    chinchilla: dict[str, Any]


class Orchestrator:
    """Watches one run. The same steps give the same opinions, also across `state` and `restore`."""

    def __init__(self, config: Config, facts: RunFacts) -> None:
        self.facts = facts
        self._signals = Signals(facts.moe_layers, config.orchestrator.check_interval)
        self._detectors = all_detectors()
        self._policy = Policy(config, facts, self._signals.rows)
        self._chinchilla = Chinchilla(config, facts)
        self._effects = EffectMeter(config.orchestrator.check_interval)

    def observe(self, step: int, series: Mapping[str, float], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Takes the figures of one step in; well under 50 microseconds, so that it can be called at every step."""
        self._signals.observe(step, series, arrays)
        self._chinchilla.observe(step, series)
        self._effects.observe(step, series)

    @property
    def ended(self) -> str | None:
        """Why the run should end now, before its budget, where it asked for early stopping; else None."""
        return self._chinchilla.ended

    def applied(self, step: int, number: int, group: int | None = None) -> int:
        """Intervention `number` of this line was applied after `step`; returns when its effect will be known.

        `group` is the number of the first that was made for the same proposal.
        """
        return self._effects.applied(step, number, group)

    def forget_interventions(self) -> None:
        """Measures none of those so far: they are another run's."""
        self._effects.forget()

    def effects(self, step: int, *, finished: bool = False) -> list[tuple[int, Measured]]:
        """Interventions, by number, whose effect is known after `step`; `finished` ends all measurements."""
        return self._effects.conclude(step, finished=finished)

    def remember_hurt(self, number: int, measured: Measured) -> None:
        """From the next check on, asks for the undo of intervention `number`."""
        self._effects.remember_hurt(number, measured)

    def check(self, step: int, hparams: Mapping[str, float], open_proposals: Sequence[Mapping[str, Any]],
              applied: Sequence[Mapping[str, Any]] = (),
              record: calibration.Record | None = None) -> CheckResult:  # fmt: skip
        """The opinion after `step`, given live values, the proposals (journalled documents) that are still open, and
        the receipts of all interventions on this line, in order, and how earlier proposals ended (`record`)."""
        findings = [f for detector in self._detectors for f in detector.find(self._signals, self.facts, hparams)]
        findings += self._effects.findings(applied, open_proposals)
        trusted = calibration.adjust(findings, record or calibration.Record())
        withdrawn, expired = self._policy.review(step, trusted, hparams, open_proposals)
        proposals = self._policy.propose(step, trusted)
        progress = self._chinchilla.check()
        health = assess(examine(self._signals, findings), trusted, progress)
        self._signals.checked()
        return CheckResult(tuple(proposals), tuple(withdrawn), tuple(expired), health, progress)

    def state(self) -> dict[str, Any]:
        """Everything that later opinions depend on, as plain JSON (floats survive exactly)."""
        return {
            "v": 1,
            "signals": self._signals.state(),
            "policy": self._policy.state(),
            "chinchilla": self._chinchilla.state(),
            "effects": self._effects.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`. Raises ValueError when it belongs to another model or format."""
        if state.get("v") != 1:
            raise ValueError(f"orchestrator state of format {state.get('v')!r}; this version reads format 1")
        self._signals.restore(state["signals"])
        self._policy.restore(state["policy"])
        self._chinchilla.restore(state["chinchilla"])
        self._effects.restore(state["effects"])
