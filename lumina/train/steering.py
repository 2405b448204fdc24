"""Answers commands at step boundaries, each once, and repeats what the journal says after a restart.

It knows who may ask for what and when; how that is applied and journalled is the business of `acts`.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina.interventions import ACTIONS, build
from lumina.store import pins
from lumina.store.errors import Refusal
from lumina.store.inbox import Command
from lumina.store.journal import Entry
from lumina.store.layout import RunPaths, check_run_name
from lumina.store.lock import is_locked
from lumina.train import remedy, splitting
from lumina.train.acts import Acts
from lumina.train.controls import LiveControls
from lumina.train.history import CHANGES_THE_MODEL
from lumina.train.interrupts import Interrupts
from lumina.train.receipts import answer
from lumina.train.saver import Saver
from lumina.train.session import Session

log = logging.getLogger(__name__)

PAUSE_POLL_SECONDS = 0.05
BOUNDARY_SECONDS = 0.1
COMMANDS_AT_ONCE = 8
LOOK_SECONDS = 1.0


class Steering:
    """What people, the orchestrator and the journal may do to a session between two steps."""

    def __init__(self, session: Session, saver: Saver, interrupts: Interrupts) -> None:
        self.session = session
        self.saver = saver
        self.interrupts = interrupts
        self.controls = LiveControls(session, self)
        self.acts = Acts(session, saver, self.controls)
        self.paused = False
        self._awaited: set[str] = set()  # commands that are answered when their checkpoint is durable
        self.paused_for: RunPaths | None = None  # a child run; the pause ends with its process
        self.stopping: str | None = None
        self._looked = -math.inf

    def at_boundary(self) -> None:
        """Repeats what the journal says, then answers the commands that came in; stays here while paused."""
        self._repeat()
        self._take_up()
        while True:
            self.session.lock.ensure()
            self.saver.poll()
            self._heed_signals()
            self._heed_children()
            self._answer_some()
            self._tell_quarantined()
            if self.stopping or not self.paused:
                return
            time.sleep(PAUSE_POLL_SECONDS)

    def refuse_the_rest(self, state: str) -> None:
        """Answers what is left in the inbox when the run ends, so that nobody waits in vain."""
        for command in self.session.inbox.take():
            if command.id not in self.session.answered:
                receipt = self._receipt(command, "refused", reason=f"the run is {state}", code="not_running")
                self._close(command, "refused", receipt)

    # Commands

    def _answer_some(self) -> None:
        """Answers what waits, for a bounded time: a full inbox must not hold a step for long."""
        inbox, deadline = self.session.inbox, time.monotonic() + BOUNDARY_SECONDS
        while True:
            for command in inbox.take(COMMANDS_AT_ONCE):
                self._answer(command)
            if self.stopping or not inbox.more or time.monotonic() >= deadline:
                return

    def _answer(self, command: Command) -> None:
        session = self.session
        if command.id in session.answered:
            session.inbox.done(command.id, session.answered[command.id])
            return
        if command.id in self._awaited:
            return
        if command.kind in CHANGES_THE_MODEL | {"reject"} and session.replay.active(session.state.step):
            return  # stays in the inbox until the journal's decisions have been repeated
        try:
            self._check_it_was_sent_to_a_running_run(command)
            self._check_expectations(command)
            receipt = self._act(command)
        except Refusal as refusal:
            state = {"expired": "expired", "verify_failed": "failed"}.get(refusal.code, "refused")
            receipt = self._receipt(command, state, reason=refusal.message, code=refusal.code)
            self._close(command, "refused", receipt)
            return
        if command.id in session.answered:
            session.inbox.done(command.id, receipt or session.answered[command.id])  # already in the journal
        elif receipt is not None:
            self._close(command, "applied", receipt)

    def _act(self, command: Command) -> dict[str, Any] | None:
        """Carries a command out and returns its receipt; None when that follows later."""
        author = command.author
        if command.kind == "intervene":
            return self.acts.intervene(command.method or "", command.args or {}, author, id=command.id)
        if command.kind == "approve":
            return self._approve(command)
        if command.kind == "reject":
            return self._reject(command)
        if command.kind == "undo":
            return self._undo(command)
        if command.kind == "pause":
            return self._pause(command, True)
        if command.kind == "unpause":
            return self._pause(command, False)
        if command.kind == "checkpoint":
            self._checkpoint(command)
            return None
        if command.kind == "stop":
            self.stop(f"stop, asked for by {author.get('name', '?')}")
            return self._receipt(command, "verified", after={"state": "stopping"})
        raise Refusal("unsupported", f"{command.kind} is not available yet")

    def _checkpoint(self, command: Command) -> None:
        def told(answer: Path | Refusal) -> None:
            self._awaited.discard(command.id)
            if isinstance(answer, Refusal):
                receipt = self._receipt(command, "refused", reason=answer.message, code=answer.code)
                self._close(command, "refused", receipt)
            else:
                self._close(command, "applied", self._receipt(command, "verified", after={"checkpoint": answer.name}))

        self._awaited.add(command.id)
        self.saver.request("manual", told)

    def _approve(self, command: Command) -> dict[str, Any]:
        proposal = self._open_proposal(command)
        self._check_still_meant(proposal)
        args = {**proposal["args"], **(command.args or {})}
        return remedy.carry_out(self.acts, proposal, args, command.author, id=command.id)

    def _reject(self, command: Command) -> dict[str, Any]:
        proposal = self._open_proposal(command)
        why = (command.args or {}).get("why")
        doc = {"proposal": proposal["id"], "decision": "rejected", "author": dict(command.author), "why": why}
        self.session.commit("decision", uuid.uuid5(uuid.UUID(command.id), "decision").hex, doc)
        return self._receipt(command, "verified", after={"proposal": "rejected"})

    def _undo(self, command: Command) -> dict[str, Any]:
        args = command.args or {}
        wanted = str(args.get("receipt"))
        if not args.get("rewind"):
            return self.acts.undo(wanted, command.author, id=command.id)
        return self.acts.rewind_before(wanted, lambda **about: self._receipt(command, "verified", **about))

    def _open_proposal(self, command: Command) -> dict[str, Any]:
        proposal = self.session.ledger.proposals.get(command.proposal or "")
        if proposal is None:
            raise Refusal("not_found", f"this run has no proposal {command.proposal!r}")
        if proposal["state"] != "open":
            code = "expired" if proposal["state"] == "expired" else "superseded"
            raise Refusal(code, f"proposal {command.proposal} is {proposal['state']} already")
        return proposal

    def _check_still_meant(self, proposal: Mapping[str, Any]) -> None:
        """Between two checks of the orchestrator an open proposal may have expired, or lost what it was about."""
        if self.session.state.step >= proposal["expires_step"]:
            raise Refusal("expired", f"proposal {proposal['id']} expired at step {proposal['expires_step']}")
        if proposal["method"] not in ACTIONS:
            return  # an undo looks for itself whether it is still possible
        names = set(build(proposal["method"], proposal["args"]).read_back(self.controls))
        for later in self.session.ledger.applied:
            other_layer = proposal["args"].get("layer_idx") != (later["args"] or {}).get("layer_idx")
            if later["step"] >= proposal["step"] and names & set(later["after"] or {}) and not other_layer:
                why = f"{later['method']} changed it at step {later['step']}"
                raise Refusal("stale", f"proposal {proposal['id']} was made for another state: {why}")

    def pause(self, paused: bool) -> None:
        """Holds the run before its next step, or lets it go on."""
        self.paused, self.paused_for = paused, None  # whatever children do: this is a word of its own
        self.session.writer.meta("state", "paused" if paused else "running")

    def stop(self, reason: str) -> None:
        """Ends the run at the next boundary, with a checkpoint."""
        self.stopping = reason
        self.session.writer.meta("state", "stopping")

    @property
    def saved(self) -> str | None:
        """The checkpoint of exactly this state, if there is one."""
        path = self.saver.saved
        return None if path is None else path.name

    def save(self) -> None:
        """Writes a checkpoint now."""
        self.saver.save("manual")

    def _pause(self, command: Command, paused: bool) -> dict[str, Any]:
        before, child = self.paused, (command.args or {}).get("while")
        if paused and child is not None:
            self._pause_for(RunPaths(self.session.paths.root.parent / check_run_name(str(child))))
        else:
            self.pause(paused)
        words = {True: "paused", False: "running"}
        return self._receipt(command, "verified", before={"state": words[before]}, after={"state": words[paused]})

    def _pause_for(self, child: RunPaths) -> None:
        if not is_locked(child):
            raise Refusal("stale", f"{child.name} has ended; there is nothing to pause for")
        if not self.paused:
            self.pause(True)
            self.paused_for = child

    def _heed_children(self) -> None:
        """Ends a pause whose reason has gone, and notes once a second which rehearsals compete with this run."""
        if self.paused_for is not None and not is_locked(self.paused_for):
            log.info("%s has ended; the run goes on", self.paused_for.name)
            self.session.event("info", "control", f"{self.paused_for.name} has ended; the run goes on")
            self.pause(False)
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        found = tuple(pins.holders(self.session.paths))
        if found != self.session.rehearsing:
            self.session.rehearsing = found
            self.session.writer.meta("rehearsing", list(found))

    def _check_it_was_sent_to_a_running_run(self, command: Command) -> None:
        session = self.session
        if session.was_ended and command.sent_at < session.lock.since:
            raise Refusal("not_running", "sent after the run had ended; it was resumed since: send it again")

    def _check_expectations(self, command: Command) -> None:
        session = self.session
        if command.expires_step is not None and session.state.step > command.expires_step:
            raise Refusal("expired", f"meant for step {command.expires_step} at the latest; it is {session.state.step}")
        expects = command.expects or {}
        if expects.get("segment") not in (None, session.segment):
            raise Refusal("stale", "meant for an earlier segment of this run")
        for name, value in (expects.get("values") or {}).items():
            if self.controls.get(name) != value:
                raise Refusal("stale", f"meant for {name} = {value}; it is {self.controls.get(name)} now")

    def _receipt(self, command: Command, state: str, **rest: Any) -> dict[str, Any]:
        return answer(command, state, self.session.state.step, **rest)

    def _close(self, command: Command, type: str, receipt: dict[str, Any]) -> None:
        self.session.commit(type, command.id, receipt)
        self.session.answered[command.id] = receipt
        self.session.inbox.done(command.id, receipt)
        log.info("%s %s: %s %s", command.kind, command.id, receipt["state"], receipt["reason"] or "")

    def _tell_quarantined(self) -> None:
        for name, reason in self.session.inbox.pop_quarantined():
            log.warning("command file %s put into quarantine: %s", name, reason)
            self.session.event("warning", "inbox", f"Command file {name} was put into quarantine: {reason}")

    # Signals and the journal

    def _heed_signals(self) -> None:
        if self.interrupts.save:
            self.interrupts.save = False
            self.saver.request("emergency")
        if self.interrupts.stop and not self.stopping:
            self.stopping = self.interrupts.stop

    def _repeat(self) -> None:
        """Re-applies journalled decisions at the steps where they were made, under their old ids."""
        due = self.session.replay.due(self.session.state.step)
        for entry in due:
            self.session.ledger.fold(entry)
            self.session.past.fold(entry)
            self._repeat_one(entry)
        if due:
            self.session.tell_live()

    def _take_up(self) -> None:
        """Goes on with what was decided and not made when the journal broke off."""
        remedy.take_up(self.acts)

    def _repeat_one(self, entry: Entry) -> None:
        if entry.type == "applied" and entry.doc["kind"] in CHANGES_THE_MODEL:
            self._reapply(entry)
        elif entry.type == "oom_split":
            splitting.repeat(self.session, entry)
            self.saver.changes += 1

    def _reapply(self, entry: Entry) -> None:
        doc = entry.doc
        if ACTIONS[doc["method"]].once:
            self.acts.measure()
            return
        self.acts.once_more(doc)
        self.saver.changes += 1
        self.acts.measure()
        self.session.event("info", "restart", f"{doc['method']} re-applied as at step {entry.step}")
