"""The orchestrator itself: shown every step, asked for its opinion every check interval.
It only joins signals, detectors, policy, health and progress; each of them has its own module."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from lumina.config import Config
from lumina.orchestrator import calibration
from lumina.orchestrator.advice import Priority
from lumina.orchestrator.assessment import assess
from lumina.orchestrator.chinchilla import Chinchilla
from lumina.orchestrator.detectors import View, all_detectors, emergency_detectors, looks_wrong
from lumina.orchestrator.effect import EffectMeter, Measured
from lumina.orchestrator.figures import figures_of
from lumina.orchestrator.health import Health, examine
from lumina.orchestrator.policy import Course, Policy
from lumina.orchestrator.signals import Signals
from lumina.orchestrator.types import Attempt, Finding, Proposal, RunFacts


@dataclass(frozen=True)
class CheckResult:
    """What one check says. `withdrawn` has (id, why) pairs; `chinchilla` and `figures` are JSON, with None where it is
    too early; `findings` are everything that any detector saw, whatever becomes of it."""

    proposals: tuple[Proposal, ...]
    withdrawn: tuple[tuple[str, str], ...]
    expired: tuple[str, ...]
    health: Health
    chinchilla: dict[str, Any]
    findings: tuple[Finding, ...] = ()
    figures: Mapping[str, float | None] = field(default_factory=dict)


class Orchestrator:
    """Watches one run. The same steps give the same opinions, also across `state` and `restore`."""

    def __init__(self, config: Config, facts: RunFacts) -> None:
        self.facts = facts
        self._signals = Signals(facts.moe_layers, config.orchestrator.check_interval)
        self._detectors = all_detectors(config)
        self._emergencies = emergency_detectors()
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

    def checkpoint_priority(self) -> Priority:
        """How much a checkpoint is worth after the newest step; a function of the steps alone."""
        return self._chinchilla.priority()

    def planned(self, total_steps: int) -> None:
        """From now on the run is to have so many steps."""
        self.facts = dataclasses.replace(self.facts, total_steps=total_steps)
        self._chinchilla.planned(total_steps)

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
              applied: Sequence[Mapping[str, Any]] = (), record: calibration.Record | None = None,
              past: Sequence[Attempt] = (), decided: Mapping[str, Any] | None = None) -> CheckResult:  # fmt: skip
        """The opinion after `step`, given live values, the proposals (journalled documents) that are still open, the
        receipts of all interventions on this line in order, how earlier proposals ended (`record`), what was done for
        proposals on any line, and the live values as receipts left them (None: every change was decided)."""
        progress = self._chinchilla.check()
        view = self._view(step, hparams, past, progress)
        findings = [found for detector in self._detectors for found in detector.find(view)]
        findings += self._effects.findings(applied, open_proposals)
        trusted = calibration.adjust(findings, record or calibration.Record())
        withdrawn, expired = self._policy.review(step, trusted, hparams, open_proposals, decided)
        proposals = self._policy.propose(step, trusted, open_proposals, past)
        health = assess(examine(self._signals, findings), trusted, progress)
        figures = figures_of(view)
        self._signals.checked()
        return CheckResult(
            tuple(proposals),
            tuple(withdrawn),
            tuple(expired),
            health,
            progress,
            tuple(findings),
            figures,
        )

    def urgent(self) -> bool:
        """Whether the newest step looks so wrong that an emergency must be asked for now; cheap enough for any step."""
        return looks_wrong(self._signals)

    def emergencies(self, step: int, hparams: Mapping[str, float], past: Sequence[Attempt] = (),
                    record: calibration.Record | None = None) -> tuple[Proposal, ...]:  # fmt: skip
        """Proposals that cannot wait for the next check."""
        view = self._view(step, hparams, past)
        found = [finding for detector in self._emergencies for finding in detector.find(view) if finding.emergency]
        trusted = calibration.adjust(found, record or calibration.Record())
        return tuple(self._policy.propose(step, trusted, (), past))

    def course(self, step: int, proposal: Proposal, autonomy: str, past: Sequence[Attempt] = ()) -> Course:
        """What becomes of a new proposal: `log`, `ask` or `act`."""
        return self._policy.course(step, proposal, autonomy, past)

    def _view(self, step: int, hparams: Mapping[str, float], past: Sequence[Attempt],
              outlook: Mapping[str, Any] | None = None) -> View:  # fmt: skip
        attempts, positions = self._policy.attempts(step, past), self._policy.positions(step, past)
        intervened = self._effects.intervened()
        return View(self._signals, self.facts, hparams, attempts, positions, intervened, outlook or {})

    def state(self) -> dict[str, Any]:
        """Everything that later opinions depend on, as plain JSON (floats survive exactly)."""
        return {
            "v": 2,
            "signals": self._signals.state(),
            "policy": self._policy.state(),
            "chinchilla": self._chinchilla.state(),
            "effects": self._effects.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`. Raises ValueError when it belongs to another model or format."""
        if state.get("v") != 2:
            raise ValueError(f"orchestrator state of format {state.get('v')!r}; this version reads format 2")
        self._signals.restore(state["signals"])
        self._policy.restore(state["policy"])
        self._chinchilla.restore(state["chinchilla"])
        self._effects.restore(state["effects"])
