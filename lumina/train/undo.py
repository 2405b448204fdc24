"""Takes back what was done to a run: an intervention's value going forward, or the steps since a checkpoint.

Both are decisions like any other: journalled once, with a receipt. It must not know who asks.
"""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lumina.checkpoint import CanonicalState, Damaged, Manifest, abandon, list_checkpoints, read_state
from lumina.checkpoint.retention import refresh_overview
from lumina.interventions import build
from lumina.interventions.undoing import refuse_beneath, to_undo
from lumina.store.errors import Refusal
from lumina.store.journal import Entry, current_line, entries_on_line
from lumina.store.line import index_line
from lumina.train.controls import LiveControls
from lumina.train.history import CHANGES_THE_MODEL, Ledger, Replay, extended
from lumina.train.session import Session
from lumina.train.state import TrainState

log = logging.getLogger(__name__)


def find_applied(session: Session, receipt_id: str) -> Entry:
    """The intervention with that receipt on the current line. Raises `Refusal`: not_found, superseded, unsupported."""
    return to_undo(entries_on_line(session.journal.entries), receipt_id, session.journal.entries)


def find_topmost(session: Session, receipt_id: str) -> Entry:
    """As `find_applied`; refused as superseded, too, where a later change of the same value lies on top."""
    entry = find_applied(session, receipt_id)
    refuse_beneath(entries_on_line(session.journal.entries), entry)
    return entry


def revert(controls: LiveControls, applied: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sets the old values again, from the next step on; returns what was read back before and after.

    Raises `Refusal`: superseded when the live values are not what the receipt says, unsupported where only a rewind
    can, verify_failed.
    """
    action, resolved = build(applied["method"], applied["args"]), applied.get("resolved") or {}
    before = action.read_back(controls)
    if action.outdated(controls, resolved):  # only where a journalled undo is repeated
        action.undo(controls, {**applied["before"], **resolved})
        return before, action.read_back(controls)
    if not action.same(before, applied["after"]):
        raise Refusal(
            "superseded",
            f"{applied['method']} left {applied['after']}, and it is {before} now: a later change lies on top of it; "
            "undo that one first",
        )
    action.undo(controls, {**applied["before"], **resolved})
    after = action.read_back(controls)
    if not action.same(after, applied["before"]):
        raise Refusal("verify_failed", f"read back {after} after undoing {applied['method']}")
    return before, after


def checkpoint_before(
    session: Session, wanted: Callable[[Manifest], bool], what: str
) -> tuple[CanonicalState, Manifest]:
    """The newest intact checkpoint on the current line that is `wanted`. Raises `Refusal`: unsupported, corrupt."""
    found = [item for item in list_checkpoints(session.paths.checkpoints) if wanted(item[1])][::-1]
    tried = []
    for folder, manifest in found:
        try:
            return read_state(folder, manifest), manifest
        except (Damaged, OSError) as error:
            tried.append(f"{folder.name}: {error}")
            log.warning("checkpoint %s", tried[-1])
    if tried:
        raise Refusal("corrupt", f"no checkpoint before {what} can be loaded ({'; '.join(tried)})")
    raise Refusal("unsupported", f"there is no checkpoint before {what} any more")


def rewind(session: Session, state: CanonicalState, manifest: Manifest, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Goes back to a checkpoint of this line and opens a segment there; the receipt says what is left behind.

    The segment's journal line is the commit, so the receipt travels in it.
    """
    left = _left_behind(session, manifest)
    session.engine.restore_state(state)
    _take_over(session.state, TrainState.from_json(state.meta["trainer"]))
    session.restore_sidecar(state.sidecar)
    session.orchestrator.restore(state.meta["orchestrator"])
    session.follow(session.plan)
    parent, session.segment = session.segment, uuid.uuid4().hex
    full = {**receipt, "step": manifest.step, "before": {"step": left["from_step"]},
            "after": {"step": session.state.step, **left}}  # fmt: skip
    doc = {
        "parent": parent,
        "fork_step": manifest.step,
        "fork_seq": manifest.journal_seq,
        "cause": "rewind",
        "cause_id": receipt["id"],
        "total_steps": session.plan.total_steps,
        "asked": session.plan.asked,
        "extended": extended(session.journal.entries) is not None,
        "fingerprint": session.fingerprint,
        "receipt": full,
    }
    entry = session.journal.append("segment", session.segment, manifest.step, session.segment, doc)
    session.writer.entry(entry)
    session.past.fold(entry)
    held = entries_on_line(session.journal.entries)
    session.ledger = Ledger.of(entry for entry in held if entry.seq not in manifest.pending)
    session.replay = Replay.after(held, manifest.journal_seq, manifest.step, manifest.pending)
    session.answered[receipt["id"]] = full
    abandon_off_line(session.paths.checkpoints, session.journal.entries)
    refresh_overview(session.paths.checkpoints)
    session.tell_live()
    log.info("rewound to step %d; left behind: %s", manifest.step, left)
    return full


def abandon_off_line(checkpoints: Path, entries: list[Entry]) -> None:
    """Puts away the checkpoints of branches that were left; what a crash in the middle of a rewind forgot, too."""
    line = index_line(current_line(entries))

    def is_abandoned(manifest: Manifest) -> bool:
        segment = line.get(manifest.segment)
        return segment is None or not segment.decides(manifest.step, manifest.journal_seq)

    abandon(checkpoints, is_abandoned)


def _left_behind(session: Session, manifest: Manifest) -> dict[str, Any]:
    later = [entry for entry in entries_on_line(session.journal.entries) if entry.seq > manifest.journal_seq]
    changed = [entry for entry in later if entry.type == "applied" and entry.doc["kind"] in CHANGES_THE_MODEL]
    return {
        "from_step": session.state.step,
        "steps_left_behind": session.state.step - manifest.step,
        "interventions_left_behind": [f"{entry.doc['method']} at step {entry.step}" for entry in changed],
    }


def _take_over(state: TrainState, loaded: TrainState) -> None:
    # In place: the recorder and the controls hold this very object.
    for field in dataclasses.fields(TrainState):
        setattr(state, field.name, getattr(loaded, field.name))
