"""Writes checkpoints of a session: state, then manifest, then the journal's line. It decides nothing about when."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

from lumina.checkpoint import CanonicalState, save_checkpoint
from lumina.checkpoint.manifest import read_manifest
from lumina.checkpoint.retention import prune
from lumina.store.errors import Refusal
from lumina.store.pins import pinned
from lumina.train.session import Session

FLUSH_SECONDS = 120.0
PATIENCE_SECONDS = 0.5


class Saver:
    """Saves the session's canonical state, and remembers where the newest save of the same state lies."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._saved: tuple[int, int, Path] | None = None  # (step, changes so far, path)
        self._owed: tuple[str, threading.Event] | None = None  # (reason, set when the database takes points again)
        self.changes = 0  # applied interventions since the start; a save is stale once it moved

    def canonical(self) -> CanonicalState:
        """The engine's state with the loop's and the orchestrator's in its meta."""
        session = self.session
        state = session.engine.export_state()
        meta = {**state.meta, "trainer": session.state.to_json(), "orchestrator": session.orchestrator.state()}
        return dataclasses.replace(state, meta=meta, sidecar=session.sidecar())

    def save(self, reason: str) -> Path:
        """A checkpoint of the state after the current step; an unchanged state is not written twice.

        Raises `Refusal` (busy) when the metrics up to this step cannot be made durable.
        """
        session, step = self.session, self.session.state.step
        if self._saved is not None and self._saved[:2] == (step, self.changes):
            return self._saved[2]
        started = time.monotonic()
        if not session.writer.flush(FLUSH_SECONDS):
            raise Refusal("busy", f"the metrics database did not take the points up to step {step}; no checkpoint")
        path = save_checkpoint(session.paths.checkpoints, step, self.canonical(), **self._manifest(reason))
        stall = time.monotonic() - started
        self._saved = (step, self.changes, path)
        session.commit("checkpoint", path.name, checkpoint_doc(path))
        session.writer.points(session.segment, step, {"checkpoint.stall_seconds": stall})
        prune(session.paths.checkpoints, session.config.checkpoint.save_total_limit, pinned(session.paths))
        return path

    def forget(self) -> None:
        """The state is another one now: nothing of it is saved, and nothing is owed."""
        self._saved, self._owed = None, None

    def save_soon(self, reason: str) -> None:
        """A checkpoint now; or, while the metrics database is locked, at the first step when it is not any more."""
        reached = self.session.writer.barrier()
        if reached.wait(PATIENCE_SECONDS):
            self.save(reason)
        else:
            self._owed = (reason, reached)
            self.session.event("warning", "checkpoint", "The metrics database is locked; the checkpoint follows later")

    def save_owed(self) -> None:
        """Makes up for a checkpoint that was put off, once it costs no waiting."""
        if self._owed is not None and self._owed[1].is_set():
            reason, self._owed = self._owed[0], None
            self.save_soon(reason)

    def _manifest(self, reason: str) -> dict[str, Any]:
        session = self.session
        return {
            "reason": reason,
            "segment": session.segment,
            "val_loss": session.state.val_loss,
            "journal_seq": session.journal.entries[-1].seq,
            "fingerprint": session.fingerprint,
        }


def checkpoint_doc(path: Path) -> dict[str, Any]:
    """What the journal keeps of a checkpoint; a replay compares with it when the checkpoint itself is long gone."""
    manifest = read_manifest(path)
    assert manifest is not None
    return {
        "name": path.name,
        "reason": manifest.reason,
        "val_loss": manifest.val_loss,
        "step": manifest.step,
        "state_hash": manifest.state_hash,
        "journal_seq": manifest.journal_seq,
    }
