"""The trainer as a process of its own: `python -m lumina.train.process RUN_DIR`.

It takes the run's lock before anything slow is imported, so that whoever started it knows at once whether it lives.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from lumina.store.errors import Refusal
from lumina.store.family import parent_of
from lumina.store.inbox import Inbox
from lumina.store.layout import RunPaths
from lumina.store.lock import RunLock
from lumina.store.writer import StoreWriter
from lumina.train.interrupts import Interrupts, StoppedEarly
from lumina.train.receipts import answer

log = logging.getLogger("lumina.train")

INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended
LAST_WORDS_SECONDS = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Trains one run to its end; the exit status is 0 when it finished or was stopped."""
    parser = argparse.ArgumentParser(prog="lumina.train.process", description="Train one run (internal).")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--resume", metavar="latest|best_val|STEP")
    parser.add_argument("--steps", type=int, help="new total number of steps")
    options = parser.parse_args(argv)
    paths = RunPaths(options.run_dir)
    interrupts = Interrupts()
    interrupts.install()  # before the seconds that the imports take
    log_to(sys.stderr)
    try:
        lock = RunLock.acquire(paths)
    except Refusal as refusal:
        print(f"lumina: {refusal.message}", file=sys.stderr)
        return refusal.exit_code
    with lock:
        return train(paths, lock, interrupts, options.resume, options.steps)


def train(paths: RunPaths, lock: RunLock, interrupts: Interrupts, resume: str | None, steps: int | None) -> int:
    """Opens the run's session, trains, and leaves the outcome in the store and in the journal."""
    writer = StoreWriter(paths)
    writer.meta("error", None)
    writer.meta("state", "starting")
    writer.meta("phase", "loading")
    try:
        if parent_of(paths) is None:
            from lumina.train.trainer import Trainer

            trainer = Trainer.open(paths, lock=lock, writer=writer, resume=resume, steps=steps, interrupts=interrupts)
            trainer.train()
            trainer.close()
        else:
            train_child(paths, lock, writer, interrupts, resume)
    except StoppedEarly as stopped:
        end_early(paths, writer, str(stopped))
    except KeyboardInterrupt:
        end_now(writer)
        return INTERRUPTED
    except Exception as error:
        # The process boundary: whatever it was, people must see it, and the run must not look alive.
        reason = error.message if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        log.exception("training failed")
        writer.meta("error", reason)
        writer.meta("state", "failed")
        writer.meta("phase", None)
        writer.event(None, None, "critical", "end", f"Training failed: {reason}")
        writer.close()
        return 1
    return 0


def train_child(paths: RunPaths, lock: RunLock, writer: StoreWriter, interrupts: Interrupts,
                resume: str | None) -> None:  # fmt: skip
    """Runs a child of another run to its end. Raises `Refusal`, among others for a second start."""
    from lumina.train import rehearse, replay

    if resume is not None:
        raise Refusal("unsupported", f"{paths.name} is a child run; it is made anew from its parent, not resumed")
    kind = (parent_of(paths) or {})["kind"]
    (rehearse if kind == "rehearsal" else replay).run(paths, lock, writer, interrupts)


def end_early(paths: RunPaths, writer: StoreWriter, reason: str) -> None:
    """Ends a run that did not come to its next step. Nothing was decided, so the journal has nothing to keep."""
    inbox = Inbox(paths)
    for command in inbox.take():
        if command.kind == "stop":
            told = answer(command, "verified", None, after={"state": "stopped"})
        else:
            told = answer(command, "refused", None, reason="the run is stopped", code="not_running")
        inbox.done(command.id, told)
    log.info("stopped while preparing: %s", reason)
    writer.event(None, None, "info", "run", f"Run stopped while preparing: {reason}")
    writer.meta("state", "stopped")
    writer.meta("phase", None)
    writer.close()


def end_now(writer: StoreWriter) -> None:
    """Ends a run that was interrupted twice. The journal is left as it is: the interrupt may have hit a write to it,
    and a resume repeats from the newest checkpoint what came after it."""
    log.warning("interrupted twice: ending without a checkpoint")
    writer.event(None, None, "warning", "run", "Interrupted twice: ended at once, without a checkpoint")
    writer.meta("state", "stopped")
    writer.meta("phase", None)
    writer.close(LAST_WORDS_SECONDS)


def log_to(stream: TextIO) -> None:
    """Plain, timed lines; the launcher has pointed the stream at logs/training.log."""
    handler = logging.StreamHandler(stream)
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger("lumina")
    root.addHandler(handler)
    root.setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
