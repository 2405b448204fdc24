"""Turns findings into proposals: one open proposal per cause, confident enough, not too soon after the last answer, and
none that conflicts with another. Decides what is put forward, withdrawn, expired, and what may be done alone; what a
person answers, and applying it, is not its business."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lumina.config import Config
from lumina.orchestrator.conflicts import STRUCTURAL, conflict, rank
from lumina.orchestrator.detectors.machine import CAUSES as CLOCK_CAUSES
from lumina.orchestrator.types import Attempt, Finding, Proposal, RunFacts

MOST_ATTEMPTS = 4
REST_STEPS = 10  # after an emergency that the run did not go back for
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "lumina:proposal")

Course = Literal["log", "ask", "act"]


class Policy:
    """Remembers which causes are before a person, and when the last one was answered.

    `open_proposals` are journalled documents with id, cause and expires_step. A proposal that it made and that is not
    among them any more was answered (or, in autonomy `observe`, only logged): its cause then rests for
    `intervention_cooldown` checks and at least as long as the signal windows are, so that the answer can show in them.
    An emergency rests for ten steps, not at all after a rewind, and is tried four times within that cooldown.
    """

    def __init__(self, config: Config, facts: RunFacts, window: int) -> None:
        settings = config.orchestrator
        self._settings = settings
        self._by_method = dict(pair.split("=", 1) for pair in settings.autonomy_per_method)
        self._cooldown = max(settings.intervention_cooldown * settings.check_interval, window)
        self._run = facts.run
        self._asked: list[str] = []
        self._answered: dict[str, int] = {}
        self._values: dict[str, float] = {}

    def attempts(self, step: int, past: Sequence[Attempt]) -> dict[str, int]:
        """By cause, how often something was done for it within the cooldown; what was left behind counts, too."""
        return dict(Counter(attempt.cause for attempt in past if attempt.step > step - self._cooldown))

    def positions(self, step: int, past: Sequence[Attempt]) -> dict[str, int]:
        """By cause, the earliest place in the data that something was done about within the cooldown."""
        seen: dict[str, int] = {}
        for attempt in past:
            if attempt.position is not None and attempt.step > step - self._cooldown:
                seen[attempt.cause] = min(attempt.position, seen.get(attempt.cause, attempt.position))
        return seen

    def review(self, step: int, findings: Sequence[Finding], hparams: Mapping[str, float],
               open_proposals: Sequence[Mapping[str, Any]],
               decided: Mapping[str, Any] | None = None) -> tuple[list[tuple[str, str]], list[str]]:  # fmt: skip
        """Looks at what is open: (id, why) of proposals to withdraw, and ids of those that have expired.

        A cause rests when somebody changed what it is about; `decided` has the live values as receipts left them, and
        a value that changed without one was changed by nobody.
        """
        withdrawn: list[tuple[str, str]] = []
        expired: list[str] = []
        by_cause = {finding.cause: finding for finding in findings}
        changed = self._changed_values(hparams, decided)
        still_open: set[str] = set()
        for proposal in open_proposals:
            cause = proposal["cause"]
            why = _reason_to_withdraw(by_cause.get(cause), changed)
            if step >= proposal["expires_step"]:
                expired.append(proposal["id"])
            elif why:
                withdrawn.append((proposal["id"], why))
            else:
                still_open.add(cause)
        for cause in [*self._asked, *(proposal["cause"] for proposal in open_proposals)]:
            if cause not in still_open:
                self._answered[cause] = step
        for finding in findings:
            if any(name in changed for name in finding.watches):
                self._answered[finding.cause] = step
        self._asked = sorted(still_open)
        return withdrawn, expired

    def propose(self, step: int, findings: Sequence[Finding], open_proposals: Sequence[Mapping[str, Any]] = (),
                past: Sequence[Attempt] = ()) -> list[Proposal]:  # fmt: skip
        """New proposals, the most urgent first; of those that conflict only the first, and none with an open one."""
        if not self._settings.use_adaptive_training:
            return []
        taken = [_methods_of(proposal) for proposal in open_proposals if proposal["cause"] in self._asked]
        attempts = self.attempts(step, past)
        proposals: list[Proposal] = []
        for finding in sorted(findings, key=rank):
            if finding.method is None or not self._timely(step, finding, attempts, past):
                continue
            methods = (finding.method, *(act.method for act in finding.then))
            if not finding.emergency and any(conflict(methods, other) for other in taken):
                continue
            if any(conflict(methods, _methods_of(other.to_json())) for other in proposals):
                continue
            if not self._settings.enable_architecture_adaptation and STRUCTURAL.intersection(methods):
                continue
            proposals.append(self._proposal(step, finding, finding.method))
            self._asked.append(finding.cause)
        self._asked.sort()
        return proposals

    def _timely(self, step: int, finding: Finding, attempts: Mapping[str, int], past: Sequence[Attempt]) -> bool:
        """Sure enough, not before anybody already, and not answered too lately."""
        if finding.confidence < self._settings.intervention_threshold or finding.cause in self._asked:
            return False
        if not finding.emergency:
            last = self._answered.get(finding.cause)
            return last is None or step - last >= self._cooldown
        if attempts.get(finding.cause, 0) >= MOST_ATTEMPTS:
            return False
        return not any(
            attempt.cause == finding.cause and not attempt.rewound and 0 <= step - attempt.step < REST_STEPS
            for attempt in past
        )

    def course(self, step: int, proposal: Proposal, autonomy: str, past: Sequence[Attempt]) -> Course:
        """What becomes of a new proposal: only logged, put to a person, or done at once.

        `autonomy_per_method` beats the run's `autonomy`. `observe` does nothing; `auto` acts; an emergency is acted on
        also where a person would be asked, when `enable_emergency_recovery`. Whatever is not an emergency is put to a
        person once `intervention_budget` interventions were made alone within the last `budget_window` steps.
        """
        settings = self._settings
        level = self._by_method.get(proposal.method, autonomy)
        if level == "observe":
            return "log"
        if proposal.emergency and settings.enable_emergency_recovery:
            return "act"
        if level != "auto":
            return "ask"
        alone = sum(attempt.alone and attempt.step > step - settings.budget_window for attempt in past)
        return "act" if alone < settings.intervention_budget else "ask"

    def state(self) -> dict[str, Any]:
        """Without what came from the clock: two runs of the same steps have the same state."""
        return {
            "asked": [cause for cause in self._asked if cause not in CLOCK_CAUSES],
            "answered": {cause: step for cause, step in self._answered.items() if cause not in CLOCK_CAUSES},
            "values": dict(self._values),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._asked = list(state["asked"])
        self._answered = {cause: int(step) for cause, step in state["answered"].items()}
        self._values = dict(state["values"])

    def _proposal(self, step: int, finding: Finding, method: str) -> Proposal:
        # Derived, not random: a run that is repeated after a crash must make the very same proposal.
        name = f"{self._run}/{step}/{method}/{finding.cause}"
        return Proposal(
            id=uuid.uuid5(NAMESPACE, name).hex,
            step=step,
            method=method,
            args=dict(finding.args),
            cause=finding.cause,
            evidence=finding.evidence,
            confidence=round(finding.confidence, 4),
            expires_step=step + self._settings.proposal_expiry_steps,
            then=finding.then,
            emergency=finding.emergency,
        )

    def _changed_values(self, hparams: Mapping[str, float],
                        decided: Mapping[str, Any] | None) -> dict[str, tuple[float, float]]:  # fmt: skip
        """Live values that somebody has changed since the check before: name → (then, now)."""
        now = {name: float(value) for name, value in sorted(hparams.items())
               if value is not None and name != "learning_rate"}  # fmt: skip
        changed = {name: (self._values[name], value) for name, value in now.items()
                   if name in self._values and self._values[name] != value
                   and (decided is None or decided.get(name) == value)}  # fmt: skip
        self._values = now
        return changed


def _methods_of(proposal: Mapping[str, Any]) -> tuple[str, ...]:
    return (proposal["method"], *(act["method"] for act in proposal.get("then") or ()))


def _reason_to_withdraw(finding: Finding | None, changed: Mapping[str, tuple[float, float]]) -> str | None:
    if finding is None:
        return "its cause is gone"
    for name in finding.watches:
        if name in changed:
            then, now = changed[name]
            return f"{name} was changed from {then:g} to {now:g} meanwhile"
    return None
