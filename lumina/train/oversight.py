"""Lets the orchestrator see every step, and turns what it says into journalled proposals and health.

It applies nothing unless the run's autonomy is `auto`; people's answers come through `steering`.
"""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lumina.interventions import catalogue
from lumina.orchestrator import Attempt, Proposal
from lumina.orchestrator.effect import AIMS, CAUSE, Measured
from lumina.store.projection import call
from lumina.train.recorder import json_numbers
from lumina.train.remedy import carry_out_alone, decide
from lumina.train.session import Session
from lumina.train.steering import Steering

log = logging.getLogger(__name__)

CHECKS_PER_REMINDER = 10  # an unchanged health is told again after so many checks


class Oversight:
    """The orchestrator's seat in the loop."""

    def __init__(self, session: Session, steering: Steering) -> None:
        self.session = session
        self.steering = steering
        self.enabled = session.config.orchestrator.use_adaptive_training
        self._told: tuple[str, str] | None = None
        self._told_priority: str | None = None
        self._checks = 0

    def after_step(self, step: int, series: Mapping[str, float], arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Shows one step to the orchestrator, and lets it check when a check is due."""
        session = self.session
        session.orchestrator.observe(step, series, arrays)
        # What is done in an emergency changes what a check would see: the next one is soon enough.
        acted = self.enabled and session.orchestrator.urgent() and self._emergency(step)
        if session.state.step == step and not acted and step % session.config.orchestrator.check_interval == 0:
            self._check(step)
        self._conclude(step)

    def worth_saving(self) -> bool:
        """Whether a validation that is better than all before gets a checkpoint of its own; news of that are told."""
        told = self.session.orchestrator.checkpoint_priority()
        if told.priority != self._told_priority:
            self._told_priority = told.priority
            course = "saved at once" if told.extra else "only the periodic ones are saved"
            self.session.event("info", "priority", f"Checkpoints have {told.priority} priority, {told.why}: {course}")
        return told.extra

    def finish(self) -> None:
        """Ends every measurement with the steps that there are: the run has come to its end."""
        self._conclude(self.session.state.step, finished=True)

    # After the check, so that a verdict of this step is known to the next check, as it is on a restart.
    def _conclude(self, step: int, *, finished: bool = False) -> None:
        for number, measured in self.session.orchestrator.effects(step, finished=finished):
            self._tell_effect(step, number, measured)

    def _tell_effect(self, step: int, number: int, measured: Measured) -> None:
        session = self.session
        receipt = session.ledger.applied[number]
        declaration = catalogue()[receipt["method"]]
        if measured.state == "hurt" and declaration.structural and receipt["kind"] != "undo":
            session.orchestrator.remember_hurt(number, measured)
        if session.replay.holds("effect", receipt["id"]):
            return  # as it was told then: figures that depend on the clock do not repeat
        others = [session.ledger.applied[other]["id"] for other in measured.confounded_by]
        doc = {"method": receipt["method"], **measured.to_json(AIMS.get(declaration.affects, ())),
               "confounded_by": others, "measured_step": step}  # fmt: skip
        session.commit("effect", receipt["id"], doc)

    def _emergency(self, step: int) -> bool:
        """What cannot wait for the next check; whether it was acted on. While the journal is repeated, it decides."""
        session = self.session
        past, record = session.past.attempts, session.ledger.record
        found = session.orchestrator.emergencies(step, self._live(), past, record)
        acted = session.replay.acts_at_once(step)
        if self._decides(step):
            acted = self._propose_all(step, found) or acted
        return acted

    def _decides(self, step: int) -> bool:
        """Not while the journal is repeated, but for the check in the middle of which it breaks off: that is ended."""
        replay = self.session.replay
        return not replay.active(step) or replay.breaks_off == step

    def _live(self) -> dict[str, float]:
        return {name: value for name, value in self.session.hparams().items() if value is not None}

    def _check(self, step: int) -> None:
        session = self.session
        ledger, past = session.ledger, session.past.attempts
        result = session.orchestrator.check(
            step, self._live(), ledger.open(), ledger.applied, ledger.record, past, ledger.values
        )
        session.tell_health({**result.health.to_json(), "checked_step": step})
        session.writer.meta("signals", json_numbers(result.figures))
        session.writer.meta("chinchilla", json_numbers(result.chinchilla))
        figures = {f"chinchilla.{name}": value for name, value in result.chinchilla.items() if name in CHARTED}
        session.writer.points(session.segment, step, figures)
        self._say_health(result.health.to_json(), result.chinchilla)
        if not self.enabled or not self._decides(step):
            return
        for proposal_id in result.expired:
            decide(session, proposal_id, "expired", "nobody answered in time")
        for proposal_id, why in result.withdrawn:
            decide(session, proposal_id, "withdrawn", why)
        self._propose_all(step, result.proposals)

    def _propose_all(self, step: int, proposals: Iterable[Proposal]) -> bool:
        """Journals all of them, with what is to become of each, before the first one changes anything; whether any of
        them is acted on."""
        begun: list[dict[str, Any]] = []
        planned: list[Attempt] = []
        held = {str(doc["cause"]): doc for doc in self.session.replay.proposals(step)}
        for proposal in proposals:
            ahead = proposal.cause in held  # a trainer that died had got as far as this one
            doc = held[proposal.cause] if ahead else self._propose(step, proposal, planned)
            if doc is not None and doc.get("course") == "act":
                begun += [] if ahead else [dict(doc)]
                planned.append(Attempt(proposal.cause, step, proposal.method, alone=True, rewound=False))
        if not self.session.replay.active(step):  # else they follow what the journal has of this check
            for doc in begun:
                if self.session.state.step == step:  # whatever else was found is another matter after a rewind
                    carry_out_alone(self.steering.acts, doc)
        return bool(planned)

    def _propose(self, step: int, proposal: Proposal, planned: Sequence[Attempt]) -> dict[str, Any] | None:
        """Journals a proposal; None where there is nothing new to journal."""
        session = self.session
        if proposal.id in session.ledger.proposals:
            return None
        if proposal.id in session.past.causes:  # made before on a branch that was left; here it is another one
            proposal = dataclasses.replace(proposal, id=uuid.uuid5(uuid.UUID(proposal.id), session.segment).hex)
        course = session.orchestrator.course(step, proposal, session.autonomy, [*session.past.attempts, *planned])
        doc = {**proposal.to_json(), "state": "open", "course": course}
        log.info(
            "proposal %s: %s %s (confidence %.2f)", proposal.id, proposal.method, proposal.args, proposal.confidence
        )
        if course == "log":
            session.event("info", "observe", f"would propose {call(doc)}: {summary(doc)}")
            return None
        session.commit("proposal", proposal.id, doc)
        return doc

    def _say_health(self, health: Mapping[str, Any], chinchilla: Mapping[str, Any]) -> None:
        levels = {"healthy": "info", "warning": "warning", "critical": "critical"}
        # Only what is wrong: the whole sentences are in the status, beside the proposal.
        said = ", ".join(_in_words(str(issue["code"])) for issue in health["issues"])
        score = chinchilla.get("convergence_score")
        tail = said or (f"convergence score {score:.0f} %" if score is not None else "too early to say more")
        news = (health["status"], said)
        if news != self._told or self._checks % CHECKS_PER_REMINDER == 0:
            self.session.event(levels[health["status"]], "health", f"Health check: {health['status']}, {tail}")
        self._told = news
        self._checks += 1


def _in_words(code: str) -> str:
    """An issue's code as an event says it; `hurt/3` is the third intervention, which a person knows by its proposal."""
    kind, _, number = code.partition("/")
    return "an intervention hurt" if kind == CAUSE and number else code.replace("_", " ")


CHARTED = frozenset(
    {
        *("progress", "convergence_score", "compute_efficiency", "efficiency_trend"),
        *("predicted_final_loss", "predicted_low", "predicted_high"),
    }
)


def summary(doc: Mapping[str, Any]) -> str:
    """The evidence of a proposal in one sentence."""
    return str(doc.get("evidence", {}).get("summary", ""))
