"""Re-executes a run's journal from its first step as a child run, and compares the state's hash at every checkpoint.

With `without` it leaves one intervention out, and with it those that make no sense any more. It decides nothing: what
the orchestrator and people decided then is done again, in the steps in which it was done.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from lumina.checkpoint import state_hash
from lumina.interventions import ACTIONS, build
from lumina.store.errors import Refusal
from lumina.store.family import parent_of, parent_paths
from lumina.store.journal import Entry
from lumina.store.layout import RunPaths
from lumina.store.lock import RunLock
from lumina.store.writer import StoreWriter
from lumina.train.child import FOR_EVER, ChildLoop, ChildSteering, NothingSaved
from lumina.train.ending import end_session
from lumina.train.experts import ExpertNumbers
from lumina.train.history import Ledger, Replay
from lumina.train.interrupts import Interrupts
from lumina.train.loop import Loop
from lumina.train.script import Mark, Script
from lumina.train.session import Session
from lumina.train.setup import open_session

log = logging.getLogger(__name__)

EQUAL, DIFFERS, NOT_COMPARABLE = "equal", "differs", "not comparable"


class Comparison:
    """What the checkpoints of the parent say about the state that the child has reached."""

    def __init__(self, script: Script, until_seq: int | None) -> None:
        """`until_seq`: from this journal entry on the child goes another way, and nothing is compared any more."""
        self._script = script
        self._marks = [mark for mark in script.marks if until_seq is None or mark.seq < until_seq]
        self.told: list[dict[str, Any]] = []

    def due(self, step: int, before_seq: int | None = None) -> list[Mark]:
        """Takes out the checkpoints at `step` that were made before the journal's entry `before_seq`."""
        taken = []
        while self._marks and self._marks[0].step <= step:
            if before_seq is not None and (self._marks[0].step == step and self._marks[0].seq >= before_seq):
                break
            taken.append(self._marks.pop(0))
        return taken

    def tell(self, mark: Mark, found: str, fingerprint: Mapping[str, Any]) -> None:
        """Compares one hash. Bits of another machine are not expected to agree, so that this is no mismatch."""
        elsewhere = self._script.differences(mark.step, fingerprint)
        device = fingerprint.get("device", "cpu")
        if found == mark.state_hash:
            verdict, why = EQUAL, None
        elif elsewhere:
            verdict, why = NOT_COMPARABLE, "; ".join(elsewhere)
        elif device != "cpu":
            verdict, why = NOT_COMPARABLE, f"{device} does not compute the same bits twice"
        else:
            verdict, why = DIFFERS, f"state {found[:12]}, recorded {mark.state_hash[:12]}"
        told = {"name": mark.name, "step": mark.step, "reason": mark.reason, "verdict": verdict, "why": why}
        self.told.append({**told, "hash": found})
        log.info("checkpoint %s: %s%s", mark.name, verdict, f" ({why})" if why else "")


class ReplaySteering(ChildSteering):
    """Does what the parent's journal says, less what was left out; compares on the way."""

    loop: Loop
    comparison: Comparison

    def set_out(self, loop: Loop, script: Script, without: str | None) -> None:
        """Prepares the way: `without` is the receipt's id of the intervention to leave out."""
        left_out = next((entry for entry in script.entries if entry.id == without), None) if without else None
        if without and left_out is None:
            raise Refusal("not_found", f"no intervention {without} is in force up to step {script.last_step}")
        self.loop, self.script, self.without = loop, script, without
        self.comparison = Comparison(script, left_out.seq if left_out else None)
        self.fallen: dict[str, dict[str, Any]] = {}
        config = self.session.config
        self.experts = ExpertNumbers(config.moe_layers, config.moe.num_experts)
        self.session.replay = Replay(list(script.entries), FOR_EVER)
        self.session.ledger = Ledger()

    def _repeat(self) -> None:
        super()._repeat()
        self._compare(None)
        self._show()

    def _repeat_one(self, entry: Entry) -> None:
        self._compare(entry.seq)
        super()._repeat_one(entry)

    def _reapply(self, entry: Entry) -> None:
        if ACTIONS[entry.doc["method"]].once:
            return  # it held, saved or ended that run
        if self.without is None:
            before, after = self.acts.once_more(entry.doc)
            self._keep({**entry.doc, "before": before, "after": after})
            return
        doc = dict(entry.doc)
        try:
            if entry.id == self.without:
                raise Refusal("superseded", "left out as asked for")
            before, after = self._go_another_way(doc)
        except Refusal as refusal:
            self.experts.missed(doc)
            self.fallen[str(entry.id)] = {
                "id": entry.id, "step": entry.step, "kind": doc["kind"], "method": doc["method"], "args": doc["args"],
                "why": refusal.message,
            }  # fmt: skip
            self.session.event("warning", "replay", f"{doc['method']} of step {entry.step} not done: {refusal.message}")
            return
        self.experts.done(doc)
        self._keep({**doc, "before": before, "after": after})

    def _go_another_way(self, doc: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Applies a decision in a run that is not the one that it was made in.

        Raises `Refusal` when it makes no sense any more.
        """
        if doc["kind"] == "undo":
            if doc["undoes"] in self.fallen:
                raise Refusal("superseded", f"it undoes {doc['method']}, which was not done")
            own = next(past for past in self.session.journal.entries if past.id == doc["undoes"])
            return self.acts.once_more({**doc, "after": own.doc["before"]})
        doc["args"] = self.experts.renumbered(doc)
        action = build(doc["method"], doc["args"])
        action.check(self.controls)
        resolved = self.experts.resolved(doc)
        doc["resolved"] = action.resolve(self.controls) if resolved is None else resolved
        return self.acts.apply(action, doc["resolved"])

    def _keep(self, doc: Mapping[str, Any]) -> None:
        self.session.commit("applied", str(doc["id"]), doc)
        self.session.tell_live()

    def _compare(self, before_seq: int | None) -> None:
        session = self.session
        for mark in self.comparison.due(session.state.step, before_seq):
            if mark.ended and session.state.val_step != mark.step:
                self.loop.validate()
            self.comparison.tell(mark, state_hash(self.saver.canonical()), session.fingerprint)

    def _show(self) -> None:
        self.session.writer.meta("replay", self.told())

    def told(self) -> dict[str, Any]:
        """What was found so far, as JSON."""
        return {
            "checkpoints": self.comparison.told,
            "without": self.without,
            "fallen": list(self.fallen.values()),
            "last_step": self.script.last_step,
        }


class ReplayLoop(ChildLoop):
    """The loop on the plan of whichever segment took the step: a resume may have made the run longer."""

    steering: ReplaySteering

    def run(self, until: int | None = None) -> str:
        session, script = self.session, self.steering.script
        while session.state.step < script.last_step:
            self._follow_plan(session, script)
            self.steering.at_boundary()
            if self.steering.stopping:
                return "stopped"
            self.step()
        self.steering.at_boundary()
        if session.state.val_step != session.state.step:
            self.validate()  # to be compared; it comes after the last hash
        return "finished"

    @staticmethod
    def _follow_plan(session: Session, script: Script) -> None:
        part = script.stretch(session.state.step + 1)
        if (part.total_steps, part.asked) != (session.plan.total_steps, session.plan.asked):
            session.follow(dataclasses.replace(session.plan, total_steps=part.total_steps, asked=part.asked))


def run(paths: RunPaths, lock: RunLock, writer: StoreWriter, interrupts: Interrupts) -> str:
    """Replays the parent of the child run `paths` and ends the child. Returns `finished` or `stopped`.

    Raises `Refusal` (not_found, unsupported, corrupt, verify_failed) or `DataError`.
    """
    note = parent_of(paths) or {}
    without = note.get("without")
    script = Script.of(parent_paths(paths), to=note.get("to"), whole=without is not None)
    steps = script.stretch(1).total_steps
    session = open_session(paths, lock, writer, resume=None, steps=steps, interrupts=interrupts)
    saver = NothingSaved(session)
    steering = ReplaySteering(session, saver, interrupts)
    loop = ReplayLoop(session, steering, saver)
    steering.set_out(loop, script, without)
    session.goal = script.last_step
    session.tell_live()
    writer.meta("state", "running")
    outcome = loop.run()
    reason = steering.stopping or f"replayed to step {script.last_step}"
    end_session(session, steering, outcome, reason, replay=steering.told())
    return outcome
