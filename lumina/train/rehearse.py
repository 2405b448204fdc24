"""Rehearses an intervention: the same steps on the same batches from the parent's newest checkpoint, with and without.

One process computes both children, one after the other, and holds the lock of the one without the change until the
end. The parent pauses while that lock is held, if it has to; so it goes on by itself, however this process ends.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from typing import Any

import psutil

from lumina.checkpoint import CanonicalState, Damaged, Manifest, list_checkpoints, read_state
from lumina.client import Run
from lumina.hardware.detect import detect_cpu
from lumina.orchestrator.rehearse import Machine, must_pause
from lumina.store import pins
from lumina.store.errors import Refusal
from lumina.store.family import parent_of, parent_paths
from lumina.store.journal import entries_on_line, read_entries
from lumina.store.layout import RunPaths
from lumina.store.lock import RunLock
from lumina.store.writer import StoreWriter
from lumina.train.child import FOR_EVER, ChildLoop, ChildSteering, NothingSaved
from lumina.train.ending import end_session
from lumina.train.history import CHANGES_THE_MODEL, Replay
from lumina.train.interrupts import Interrupts, StoppedEarly
from lumina.train.setup import open_session

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0  # for an answer of the parent; it comes before its next step
LOW_PRIORITY = 10
Change = Callable[[ChildSteering], object]


def run(paths: RunPaths, lock: RunLock, writer: StoreWriter, interrupts: Interrupts) -> str:
    """Computes the rehearsal whose unchanged child is `paths`, first the changed one. Returns how it ended.

    Raises `Refusal` when the change is refused or nothing can be forked; `StoppedEarly` when it was stopped.
    """
    note = parent_of(paths) or {}
    parent, changed = Run(parent_paths(paths), via="rehearsal"), RunPaths(paths.root.parent / str(note["peer"]))
    with RunLock.acquire(changed) as changed_lock:
        arrangement = arrange(parent, paths, note.get("pause"))
        writer.meta("rehearsal", arrangement)
        try:
            state, manifest = fork(parent, paths, int(note["steps"]), arrangement["paused_at"])
            writer.meta("rehearsal", {**arrangement, "from_step": manifest.step})
            planned = _planned(parent.paths, manifest)

            def apply(steering: ChildSteering) -> object:
                author = {"name": parent.name, "via": "rehearsal"}
                return steering.acts.intervene(str(note["method"]), dict(note["args"]), author)

            steps = int(note["steps"])
            outcome = _train_apart(changed, changed_lock, state, planned, steps, interrupts, apply)
            if outcome != "finished":
                raise StoppedEarly("the rehearsal was stopped")
            return _train(paths, lock, writer, state, planned, steps, interrupts, None)
        finally:
            pins.unpin(parent.paths, paths)


def arrange(parent: Run, paths: RunPaths, wanted: bool | None) -> dict[str, Any]:
    """Pauses the parent if it must, or as `wanted`; tells what was done and why. A paused or ended run stays so."""
    status = parent.status()
    if status["state"] != "running":
        at = status["step"] if status["state"] == "paused" else None
        return {"paused": False, "paused_at": at, "why": f"the run is {status['state']}"}
    pause, why = must_pause(machine_of(status))
    if wanted is not None:
        pause, why = wanted, "as asked for"
    if not pause:
        os.nice(LOW_PRIORITY)
        return {"paused": False, "paused_at": None, "why": why}
    receipt = parent.pause_while(paths).wait(PATIENCE_SECONDS)
    if receipt.state != "verified":
        reason = receipt.reason or "it did not answer in time"
        return {"paused": False, "paused_at": None, "why": f"the run was not paused: {reason}"}
    return {"paused": (receipt.before or {}).get("state") != "paused", "paused_at": receipt.step, "why": why}


def machine_of(status: dict[str, Any]) -> Machine:
    """What this machine has, and what the run says that it uses of it."""
    device = status.get("device") or {}
    return Machine(
        cores=detect_cpu().cores,
        memory_available=float(psutil.virtual_memory().available),
        threads=device.get("threads"),
        memory_used=status.get("memory_rss"),
        device=str(device.get("kind") or "cpu"),
    )


def fork(parent: Run, child: RunPaths, steps: int, paused_at: int | None) -> tuple[CanonicalState, Manifest]:
    """The parent's newest intact checkpoint, pinned for the child; a living parent is asked for one where it is old.

    Old is one that lacks an intervention, or is further back than the rehearsal is long; for a parent that is paused,
    any that is not of that very step. Raises `Refusal` (unsupported, corrupt).
    """
    status = parent.status()
    needed = paused_at if paused_at is not None else (status["step"] or 0) - steps
    if status["state"] in ("running", "paused") and _is_old(parent.paths, needed):
        parent.checkpoint().wait(PATIENCE_SECONDS, check=True)
    tried = []
    for folder, manifest in list_checkpoints(parent.paths.checkpoints)[::-1]:
        pins.pin(parent.paths, child, folder.name)
        try:
            return read_state(folder, manifest), manifest
        except (Damaged, OSError) as error:
            tried.append(f"{folder.name}: {error}")
            log.warning("checkpoint %s", tried[-1])
    if tried:
        raise Refusal("corrupt", f"no checkpoint of {parent.name!r} can be loaded ({'; '.join(tried)})")
    raise Refusal("unsupported", f"{parent.name!r} has no checkpoint to start from")


def _is_old(paths: RunPaths, needed: int) -> bool:
    found = list_checkpoints(paths.checkpoints)
    if not found:
        return True
    newest = found[-1][1]
    later = [entry for entry in entries_on_line(read_entries(paths)) if entry.seq > newest.journal_seq]
    changed = any(entry.type == "applied" and entry.doc["kind"] in CHANGES_THE_MODEL for entry in later)
    return changed or newest.step < needed


def _planned(paths: RunPaths, manifest: Manifest) -> tuple[int, int]:
    """The parent's planned length, which its learning rate follows, and how often a person asked for one."""
    segments = [entry.doc for entry in read_entries(paths) if entry.type == "segment"]
    return (int(segments[-1]["total_steps"]), int(segments[-1].get("asked", 0))) if segments else (manifest.step, 0)


def _train_apart(paths: RunPaths, lock: RunLock, state: CanonicalState, planned: tuple[int, int], steps: int,
                 interrupts: Interrupts, change: Change | None) -> str:  # fmt: skip
    """`_train` for the child that this process was not started for: how it ends is told in its own store, too."""
    writer = StoreWriter(paths)
    writer.meta("state", "starting")
    try:
        return _train(paths, lock, writer, state, planned, steps, interrupts, change)
    except (Refusal, StoppedEarly) as error:
        writer.meta("error", str(error))
        writer.meta("state", "stopped" if isinstance(error, StoppedEarly) else "failed")
        writer.close()
        raise


def _train(paths: RunPaths, lock: RunLock, writer: StoreWriter, state: CanonicalState, planned: tuple[int, int],
           steps: int, interrupts: Interrupts, change: Change | None) -> str:  # fmt: skip
    total, asked = planned
    session = open_session(paths, lock, writer, resume=None, steps=total, interrupts=interrupts, origin=state)
    session.follow(dataclasses.replace(session.plan, asked=asked))
    session.replay = Replay([], FOR_EVER)
    saver = NothingSaved(session)
    steering = ChildSteering(session, saver, interrupts)
    loop = ChildLoop(session, steering, saver)
    goal = session.goal = session.state.step + steps
    session.tell_live()
    writer.meta("state", "running")
    if change is not None:
        change(steering)
    outcome = "finished"
    while session.state.step < goal:
        steering.at_boundary()
        if steering.stopping:
            outcome = "stopped"
            break
        loop.step()
    if outcome == "finished" and session.state.val_step != goal:
        loop.validate()
    end_session(session, steering, outcome, steering.stopping or f"rehearsed {steps} steps")
    return outcome
