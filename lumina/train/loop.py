"""The training loop on one screen; every line of it is one of the trainer's parts.

It owns the order of things within a step and nothing else.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.engine.api import MicroBatch, OutOfMemory, StepStats
from lumina.store.errors import Refusal
from lumina.train import splitting
from lumina.train.evaluate import evaluate
from lumina.train.oversight import Oversight
from lumina.train.recorder import WALL_CLOCK
from lumina.train.saver import Saver
from lumina.train.session import Session
from lumina.train.steering import Steering

log = logging.getLogger(__name__)


class Loop:
    """Runs a session to its budget.

    ```
    for step in budget:
        commands   <- inbox, journal, signals        # pause, approve, intervene, stop; applied@step-1
        batch      <- loader at `position`           # its state is an integer
        stats      <- engine.train_step(...)         # forward, backward, clip, update
        recorder   <- stats                          # never waits
        validation <- when due
        proposals  <- orchestrator                   # every check_interval
        checkpoint <- when due
    ```
    """

    def __init__(self, session: Session, steering: Steering, saver: Saver) -> None:
        self.session = session
        self.steering = steering
        self.saver = saver
        self.oversight = Oversight(session, steering)
        self.newest: dict[str, float] = {}
        self.newest_arrays: Mapping[str, NDArray[Any]] = {}

    def run(self, until: int | None = None) -> str:
        """Trains up to step `until` (the budget by default); returns `finished`, `stopped` or `running`."""
        while True:
            while not self._reached(until):
                self.steering.at_boundary()
                if self.steering.stopping:
                    self.saver.save("final" if "asked" in self.steering.stopping else "emergency")
                    return "stopped"
                self.step()
            if not self._reached(None):
                return "running"
            self.steering.at_boundary()
            if self._reached(None):
                return self._finish()

    def _reached(self, until: int | None) -> bool:
        """Whether step `until` or the end has come; a decision may have moved the end."""
        session = self.session
        goal = session.total_steps if until is None else min(session.total_steps, until)
        return session.state.step >= goal or session.orchestrator.ended is not None

    def _finish(self) -> str:
        self.oversight.finish()
        self.saver.save("final")
        return "finished"

    def step(self) -> StepStats:
        """One optimizer step with everything that hangs on it."""
        session, state = self.session, self.session.state
        started = time.perf_counter()
        samples = session.plan.sequences_per_step
        session.mid_step = True
        state.position = first = after_skipped(state.position, samples, state.skipped)
        stats, ids, waited = self._train(state.step + 1)
        state.step += 1
        scheduled = session.learning_rate(state.step)
        session.loader.record(ids, stats.sequence_losses)
        if stats.skipped:
            self._skipped(samples, ids)
        state.position += samples
        seconds = time.perf_counter() - started
        series = session.recorder.series(
            stats, scheduled=scheduled, first=first, samples=samples, seconds=seconds, waited=waited
        )
        self.newest, self.newest_arrays = series, stats.arrays
        session.writer.points(session.segment, state.step, series)
        session.writer.meta("step", state.step)
        for name, array in stats.arrays.items():
            session.writer.array(session.segment, state.step, name, array)
        session.mid_step = False
        self._when_due(stats, series)
        return stats

    def _train(self, step: int) -> tuple[StepStats, NDArray[np.int64], float]:
        """The engine's step on the sequences that are due, cut ever finer until it fits; the sequences' numbers; and
        the seconds that loading them took."""
        session = self.session
        rate = session.learning_rate(step) * session.state.lr_scale
        while True:
            started = time.perf_counter()
            batches, ids = self._batches()
            waited = time.perf_counter() - started
            try:
                return session.engine.train_step(step, batches, rate), ids, waited
            except OutOfMemory as error:
                self._make_smaller(error)

    def _make_smaller(self, error: OutOfMemory) -> None:
        self.session.mid_step = False  # the step has changed nothing: the state can be saved
        try:
            splitting.split(self.session, error)
        except Refusal as refusal:
            self._save_before_the_end()
            raise refusal from error
        self.saver.changes += 1
        self.session.mid_step = True

    def _save_before_the_end(self) -> None:
        try:
            self.saver.save("emergency")
        except Refusal as refusal:
            log.error("%s", refusal.message)

    def _batches(self) -> tuple[list[MicroBatch], NDArray[np.int64]]:
        """The micro-batches of the next step, and the numbers of their sequences."""
        session, size = self.session, self.session.batch_size
        read = [
            session.loader.batch(session.state.position + index * size, size) for index in range(session.accumulation)
        ]
        batches = [MicroBatch(batch.tokens, batch.labels, batch.documents) for batch in read]
        return batches, np.concatenate([batch.ids for batch in read])

    def _when_due(self, stats: StepStats, series: dict[str, float]) -> None:
        session, step = self.session, self.session.state.step
        # A rehearsal takes cores: whoever judges throughput must not see these steps.
        seen = {**series, "checkpoint.stall_seconds": self.saver.take_stall()}
        seen = {name: value for name, value in seen.items() if not (session.rehearsing and name in WALL_CLOCK)}
        best = session.state.best_val_loss
        # Before the checkpoint of the same step: a resume from it could not put the figures on the current line.
        validated = step % session.config.training.eval_interval == 0 or step == session.total_steps
        if validated:
            seen.update(self.validate())
        self.oversight.after_step(step, seen, stats.arrays)
        if session.state.step != step:
            return  # the run went back
        if session.orchestrator.ended and not validated:
            self.validate()
        reasons = {
            "epoch": session.epoch_ended() is not None,
            "best_val": session.state.best_val_loss != best and self.oversight.worth_saving(),
            "periodic": step % session.config.checkpoint.save_every_n_batches == 0,
        }
        if any(reasons.values()):
            self.saver.request("+".join(reason for reason, holds in reasons.items() if holds))
        if step % session.config.training.log_interval == 0 or step == 1:
            log.info(
                "step %d/%d loss %.4f rate %.3g norm %.3f %.0f tokens/s",
                step, session.total_steps, stats.loss, stats.learning_rate, stats.grad_norm, series["throughput"],
            )  # fmt: skip

    def validate(self) -> dict[str, float]:
        """Validates now; the losses go into the store and into the state."""
        session, state = self.session, self.session.state
        session.writer.meta("phase", "validating")
        figures = self._evaluate()
        session.writer.meta("phase", None)
        if not figures:
            return {}
        session.writer.points(session.segment, state.step, figures)
        state.val_loss, state.val_step = figures["val_loss"], state.step
        if math.isfinite(state.val_loss) and (state.best_val_loss is None or state.val_loss < state.best_val_loss):
            state.best_val_loss = state.val_loss
        log.info("step %d validation loss %.4f", state.step, state.val_loss)
        return figures

    def _evaluate(self) -> dict[str, float]:
        """The figures of a validation, cut ever finer until it fits; begun anew then, so that its sums are those of
        one size."""
        session = self.session
        splitting.repeat_before_validation(session)
        while True:
            size = session.validation_batch_size
            try:
                return evaluate(session.engine, session.validation, session.validation_sequences, size)
            except OutOfMemory as error:
                session.mid_step = True  # without its validation, the step is not one to resume from
                splitting.split_validation(session, error)
            self.saver.changes += 1
            session.mid_step = False

    def _skipped(self, samples: int, ids: NDArray[np.int64]) -> None:
        session, state = self.session, self.session.state
        state.skipped_steps += 1
        doc = {
            "position": state.position,
            "sequences": samples,
            "ids": ids.tolist(),
            "reason": "non-finite loss or gradient",
        }
        if not session.replay.active(state.step - 1):
            session.commit("batch_skipped", f"{state.step}-{state.position}", doc)
        session.event("critical", "skip", "Non-finite loss or gradient: no update was applied; the batch is recorded")


def after_skipped(position: int, samples: int, skipped: Iterable[Sequence[int]]) -> int:
    """The first position from which a step of so many sequences meets no range that is left out."""
    for first, stop in sorted((first, stop) for first, stop in skipped):
        if position < stop and first < position + samples:
            position = stop
    return position
