"""When a step or a validation does not fit into memory: smaller micro-batches, more of them, the same sequences, and a
record of it.

It knows the session's batch sizes and the journal; where memory ran out is the engine's to say.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

from lumina.config import Config
from lumina.engine.api import VALIDATION, OutOfMemory
from lumina.store.errors import Refusal
from lumina.store.journal import Entry
from lumina.train.receipts import receipt
from lumina.train.session import Session

log = logging.getLogger(__name__)

SIZE = "validation_batch_size"
TRAINER = {"name": "trainer", "via": "memory"}


def smaller(batch_size: int, sequences_per_step: int) -> int | None:
    """The largest micro-batch of at most half the size that divides the step; None where it is one sequence already."""
    halved = range(batch_size // 2, 0, -1)
    return next((size for size in halved if sequences_per_step % size == 0), None)


def split(session: Session, error: OutOfMemory) -> None:
    """Halves the micro-batch of the step that is due, and commits that before the step is repeated.

    Raises `Refusal` (unsupported) with advice when there is nothing left to halve; nothing has changed then.
    """
    step, before = session.state.step + 1, _batches(session)
    size = smaller(session.batch_size, session.plan.sequences_per_step)
    if size is None:
        raise Refusal("unsupported", f"step {step}: {error}. {advice(session.config)}")
    _set(session, size)
    args = {"new_batch_size": size}
    about = {"position": session.state.position, "sequences": session.plan.sequences_per_step}
    _commit(session, error, "adjust_batch_size", args, before, _batches(session), about)
    log.warning("step %d: %s; micro-batches of %d instead of %d", step, error, size, before["batch_size"])


def split_validation(session: Session, error: OutOfMemory) -> None:
    """Halves what is validated at once, and commits that before the validation is begun anew.

    Raises `Refusal` (unsupported) with advice at one sequence; nothing has changed then.
    """
    step, size = session.state.step, session.validation_batch_size
    if size == 1:
        raise Refusal("unsupported", f"step {step}: {error}. {advice(session.config, VALIDATION)}")
    session.state.validation_batch_size = size // 2
    after, about = {SIZE: size // 2}, {"sequences": session.validation_sequences}
    _commit(session, error, None, None, {SIZE: size}, after, about)
    log.warning("step %d: %s; validation by %d sequences instead of %d", step, error, size // 2, size)


def _commit(session: Session, error: OutOfMemory, method: str | None, args: dict[str, Any] | None,
            before: dict[str, Any], after: dict[str, Any], about: dict[str, Any]) -> None:  # fmt: skip
    done = receipt(
        uuid.uuid4().hex,
        "oom_split",
        "verified",
        session.state.step,
        method=method,
        args=args or {},
        author=TRAINER,
        proposal=None,
        before=before,
        after=after,
        cause=str(error),
        phase=error.phase,
        **about,
    )
    session.commit("oom_split", done["id"], done)
    session.tell_live()


def repeat(session: Session, entry: Entry) -> None:
    """Splits again where the journal says so, whether or not memory would run out this time."""
    if SIZE in entry.doc["after"]:
        session.state.validation_batch_size = int(entry.doc["after"][SIZE])
        return
    size = int(entry.doc["after"]["batch_size"])
    if size < session.batch_size:
        _set(session, size)
        session.event("info", "restart", f"Micro-batches of {size} again, as after step {entry.step}")


def repeat_before_validation(session: Session) -> None:
    """As `repeat`, for the validation of this step: the journal's other entries of it come after it."""
    for entry in session.replay.entries:
        if entry.type == "oom_split" and entry.step == session.state.step and SIZE in entry.doc["after"]:
            repeat(session, entry)


def advice(config: Config, phase: str = "") -> str:
    """What a person can change when a single sequence is too much."""
    recompute = phase != VALIDATION and not config.optimization.gradient_checkpointing
    ways = [
        (recompute, "optimization.gradient_checkpointing=true"),
        (True, f"a training.sequence_length below {config.sequence_length}"),
        (config.moe.use_moe, f"fewer experts than moe.num_experts={config.moe.num_experts}"),
        (True, "a smaller preset"),
    ]
    listed = ", ".join(way for holds, way in ways if holds)
    return (
        "A micro-batch is one sequence already, so this run cannot go on here. Nothing is lost: resume it where more "
        f"memory is free, or start another run with one of: {listed}"
    )


def _batches(session: Session) -> dict[str, Any]:
    return {"batch_size": session.batch_size, "gradient_accumulation_steps": session.accumulation}


def _set(session: Session, size: int) -> None:
    session.state.batch_size = size
    session.recreate_loader()
