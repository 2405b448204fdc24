"""Turns findings into proposals: one open proposal per cause, confident enough, not too soon after the last answer.
Decides what is put forward, withdrawn and expired; what a person answers, and applying it, is not its business."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from lumina.config import Config
from lumina.orchestrator.types import Finding, Proposal, RunFacts

COOLDOWN_CHECKS = 5
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "lumina:proposal")


class Policy:
    """Remembers which causes are before a person, and when the last one was answered.

    `open_proposals` are journalled documents with id, cause and expires_step. A proposal that it made and that is not
    among them any more was answered (or, in autonomy `observe`, only logged): its cause then rests for five checks and
    at least as long as the signal windows are, so that the answer can show in them.
    """

    def __init__(self, config: Config, facts: RunFacts, window: int) -> None:
        settings = config.orchestrator
        self._enabled = settings.use_adaptive_training
        self._threshold = settings.intervention_threshold
        self._expiry = settings.proposal_expiry_steps
        self._cooldown = max(COOLDOWN_CHECKS * settings.check_interval, window)
        self._run = facts.run
        self._asked: list[str] = []
        self._answered: dict[str, int] = {}
        self._values: dict[str, float] = {}

    def review(self, step: int, findings: Sequence[Finding], hparams: Mapping[str, float],
               open_proposals: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, str]], list[str]]:  # fmt: skip
        """Looks at what is open: (id, why) of proposals to withdraw, and ids of those that have expired."""
        withdrawn: list[tuple[str, str]] = []
        expired: list[str] = []
        by_cause = {finding.cause: finding for finding in findings}
        changed = self._changed_values(findings, hparams)
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

    def propose(self, step: int, findings: Sequence[Finding]) -> list[Proposal]:
        """New proposals, after `review`."""
        if not self._enabled:
            return []
        proposals: list[Proposal] = []
        for finding in findings:
            if finding.method is None or finding.confidence < self._threshold or finding.cause in self._asked:
                continue
            last = self._answered.get(finding.cause)
            if last is not None and step - last < self._cooldown:
                continue
            proposals.append(self._proposal(step, finding, finding.method))
            self._asked.append(finding.cause)
        self._asked.sort()
        return proposals

    def state(self) -> dict[str, Any]:
        return {"asked": list(self._asked), "answered": dict(self._answered), "values": dict(self._values)}

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
            expires_step=step + self._expiry,
        )

    def _changed_values(
        self, findings: Sequence[Finding], hparams: Mapping[str, float]
    ) -> dict[str, tuple[float, float]]:
        """Watched live values that are not what they were at the check before: name → (then, now)."""
        watched = {name for finding in findings for name in finding.watches} | set(self._values)
        now = {name: float(hparams[name]) for name in sorted(watched) if hparams.get(name) is not None}
        changed = {name: (self._values[name], value) for name, value in now.items()
                   if name in self._values and self._values[name] != value}  # fmt: skip
        self._values = now
        return changed


def _reason_to_withdraw(finding: Finding | None, changed: Mapping[str, tuple[float, float]]) -> str | None:
    if finding is None:
        return "its cause is gone"
    for name in finding.watches:
        if name in changed:
            then, now = changed[name]
            return f"{name} was changed from {then:g} to {now:g} meanwhile"
    return None
