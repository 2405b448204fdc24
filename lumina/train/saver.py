"""Takes snapshots of a session, has them written in the background, and journals what is durable.

It runs in the training thread and decides nothing about when. One checkpoint is in flight at a time: a request for the
same state joins it, another one waits for it, and where that would take too long it is put off and joins the next.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lumina.checkpoint import CanonicalState, Snapshot
from lumina.checkpoint.background import Writing
from lumina.checkpoint.manifest import read_manifest
from lumina.checkpoint.retention import Keep
from lumina.hardware import is_out_of_memory
from lumina.interventions import catalogue
from lumina.store.errors import Refusal
from lumina.store.journal import entries_on_line
from lumina.store.pins import pinned
from lumina.train.history import CHANGES_THE_MODEL
from lumina.train.session import Session

log = logging.getLogger(__name__)

FLUSH_SECONDS = 120.0  # that a save which must be there waits for the metrics database
PATIENCE_SECONDS = 0.5  # ... and one that may come later
DISK_SECONDS = 10.0  # that a request waits for the files of the one before it
UNDOABLE = 3  # structural interventions whose checkpoint is kept for a rewind

Told = Callable[[Path | Refusal], None]


@dataclass
class InFlight:
    """A checkpoint that is being written: of which state, and who waits for the answer."""

    writing: Writing
    state: tuple[int, int]  # (step, changes so far)
    told: list[Told]


@dataclass
class Owed:
    """Requests that were put off: the next checkpoint is theirs."""

    reasons: list[str] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)

    def reason(self) -> str:
        return "+".join(dict.fromkeys(self.reasons))


class Saver:
    """Saves the session's canonical state; a state is never written twice."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.changes = 0  # applied interventions since the start; a save is stale once it moved
        self._snapshot = Snapshot()
        self._flying: InFlight | None = None
        self._saved: tuple[tuple[int, int], Path] | None = None
        self._owed = Owed()
        self._stalled = 0.0  # seconds since they were last asked for

    def canonical(self) -> CanonicalState:
        """A copy of the engine's state with the loop's and the orchestrator's in its meta."""
        return self._whole(self.session.engine.export_state())

    @property
    def saved(self) -> Path | None:
        """The durable checkpoint of exactly this state, if there is one."""
        return self._saved[1] if self._saved is not None and self._saved[0] == self._now else None

    def request(self, reason: str, told: Told | None = None) -> None:
        """A checkpoint of the state after the current step, in the background; `told` hears when it is durable."""
        started, listeners = time.monotonic(), [told] if told else []
        self.poll()
        if self._joins_one_that_exists(listeners):
            return
        if self._flying is not None and not self._wait_patiently(self._flying.writing):
            self._put_off(reason, listeners)
            return
        self.poll()
        self._begin(reason, listeners, started)

    def save(self, reason: str) -> Path:
        """A checkpoint of the current state that is durable when this returns. Raises `Refusal` (busy)."""
        started = time.monotonic()
        self._land(FLUSH_SECONDS)
        if self._saved is None or self._saved[0] != self._now:
            result: list[Path | Refusal] = []
            self._begin(reason, [result.append], None)
            self._land(FLUSH_SECONDS)
            self._note_stall(started)
            if isinstance(result[0], Refusal):
                raise result[0]
        assert self._saved is not None
        self._answer_owed(self._saved[1])
        return self._saved[1]

    def poll(self) -> None:
        """Journals what became durable, and begins what was put off, once either costs no waiting."""
        if self._flying is not None and self._flying.writing.done.is_set():
            self._conclude()
        if self._flying is None and self._owed.reasons:
            owed, self._owed = self._owed, Owed()
            if not self._joins_one_that_exists(owed.told):
                self._begin(owed.reason(), owed.told, time.monotonic())

    def take_stall(self) -> float:
        """Seconds for which checkpoints held the training since this was last asked."""
        seconds, self._stalled = self._stalled, 0.0
        return seconds

    def settle(self) -> None:
        """Waits for what is in flight, unless only a locked metrics database keeps it there: then it is given up."""
        self._land(PATIENCE_SECONDS)

    def forget(self) -> None:
        """The state is another one now: nothing of it is saved, and nothing is owed."""
        self._saved = None
        self._answer_owed(Refusal("superseded", "the run went back before the checkpoint was written"))

    # One checkpoint

    @property
    def _now(self) -> tuple[int, int]:
        return self.session.state.step, self.changes

    def _begin(self, reason: str, told: list[Told], started: float | None) -> None:
        """Takes the snapshot and lets it be written; `started` is when the training stood still for it."""
        session = self.session
        assert not session.mid_step, "a checkpoint would be of two steps at once"
        try:
            self._snapshot.take(self._whole(session.engine.live_state()))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._snapshot = Snapshot()
            self._failed(told, f"its copy does not fit into memory: {error}")
            return
        keep, about = self._keep(), self._about(reason)
        if started is not None:
            self._note_stall(started)
        writing = Writing(
            session.paths.checkpoints, session.state.step, self._snapshot, session.writer.barrier(), keep,
            lambda: pinned(session.paths), about,
        )  # fmt: skip
        self._flying = InFlight(writing, self._now, told)

    def _joins_one_that_exists(self, told: list[Told]) -> bool:
        if self._flying is not None and self._flying.state == self._now:
            self._flying.told += told
            return True
        if self._saved is not None and self._saved[0] == self._now:
            for listener in told:
                listener(self._saved[1])
            return True
        return False

    def _wait_patiently(self, writing: Writing) -> bool:
        """Whether the one in flight lands in reasonable time; a step does not wait for a locked database."""
        deadline = time.monotonic() + DISK_SECONDS
        while not writing.wait(PATIENCE_SECONDS):
            if writing.only_waits_for_points or time.monotonic() >= deadline:
                return False
        return True

    def _land(self, patience: float) -> None:
        """Ends the flight: waits for the disk, and for the metrics database no longer than `patience`."""
        if self._flying is None:
            return
        writing, deadline = self._flying.writing, None
        while not writing.wait(PATIENCE_SECONDS / 5):
            if writing.only_waits_for_points:
                deadline = deadline or time.monotonic() + patience
                if time.monotonic() >= deadline:
                    writing.cancel()
        self._conclude()

    def _conclude(self) -> None:
        assert self._flying is not None
        flight, self._flying = self._flying, None
        error, path = flight.writing.error, flight.writing.path
        if error is not None and not isinstance(error, OSError):
            raise error
        if path is None:
            self._failed(flight.told, str(error), flight.state[0])
            return
        self.session.commit("checkpoint", path.name, checkpoint_doc(path))
        if flight.writing.untidied:
            log.warning("%s", flight.writing.untidied)
            self.session.event("warning", "checkpoint", f"Checkpoint {path.name} is whole; {flight.writing.untidied}")
        self._saved = (flight.state, path)
        self.session.solved("checkpoint")
        for listener in flight.told:
            listener(path)

    def _failed(self, told: list[Told], why: str, step: int | None = None) -> None:
        step = self.session.state.step if step is None else step
        message = f"The checkpoint of step {step} could not be written: {why}"
        log.error("%s", message)
        self.session.event("critical", "checkpoint", f"{message}; training goes on, the next one is tried again")
        self.session.problem("checkpoint", message)
        for listener in told:
            listener(Refusal("busy", message))

    def _put_off(self, reason: str, told: list[Told]) -> None:
        if not self._owed.reasons:
            self.session.event("warning", "checkpoint", "The checkpoint before it is not there yet: this one follows")
        self._owed.reasons.append(reason)
        self._owed.told += told

    def _answer_owed(self, answer: Path | Refusal) -> None:
        owed, self._owed = self._owed, Owed()
        for listener in owed.told:
            listener(answer)

    # What it is of

    def _whole(self, state: CanonicalState) -> CanonicalState:
        session = self.session
        meta = {**state.meta, "trainer": session.state.to_json(), "orchestrator": session.orchestrator.state()}
        return dataclasses.replace(state, meta=meta, sidecar=session.sidecar())

    def _about(self, reason: str) -> dict[str, Any]:
        session, state = self.session, self.session.state
        return {
            "reason": reason,
            "segment": session.segment,
            "val_loss": state.val_loss if state.val_step == state.step else None,
            "journal_seq": session.journal.entries[-1].seq,
            "fingerprint": session.fingerprint,
            "epoch": session.epoch_ended(),
            "pending": [entry.seq for entry in session.replay.entries],
            "priority": session.orchestrator.checkpoint_priority().priority,
        }

    def _keep(self) -> Keep:
        config = self.session.config.checkpoint
        held = entries_on_line(self.session.journal.entries)
        undone = {entry.doc.get("undoes") for entry in held if entry.type == "applied"}
        actions = catalogue()
        structural = [
            entry.seq
            for entry in held
            if entry.type == "applied" and entry.doc["kind"] in CHANGES_THE_MODEL - {"undo"} and entry.id not in undone
            and actions[entry.doc["method"]].structural
        ]  # fmt: skip
        return Keep(config.save_total_limit, config.keep_epoch_checkpoints, undoable=tuple(structural[-UNDOABLE:]))

    def _note_stall(self, started: float) -> None:
        session = self.session
        seconds = time.monotonic() - started
        self._stalled += seconds
        session.writer.points(session.segment, session.state.step, {"checkpoint.stall_seconds": seconds})


def checkpoint_doc(path: Path) -> dict[str, Any]:
    """What the journal keeps of a checkpoint; a replay compares with it when the checkpoint itself is long gone."""
    manifest = read_manifest(path)
    assert manifest is not None
    return {
        "name": path.name,
        "reason": manifest.reason,
        "priority": manifest.priority,
        "val_loss": manifest.val_loss,
        "step": manifest.step,
        "state_hash": manifest.state_hash,
        "journal_seq": manifest.journal_seq,
        "pending": list(manifest.pending),
    }
