"""Everything one trainer process holds while it trains one run, in one place. It contains parts and no behaviour
beyond committing to the journal and telling the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lumina.config import Config
from lumina.data import Dataset, Loader
from lumina.engine.api import Engine
from lumina.orchestrator import Orchestrator
from lumina.store.inbox import Inbox
from lumina.store.journal import Entry, Journal
from lumina.store.layout import RunPaths
from lumina.store.lock import RunLock
from lumina.store.writer import StoreWriter
from lumina.train.history import HalfDone, Ledger, Past, Replay
from lumina.train.plan import Plan
from lumina.train.recorder import Recorder
from lumina.train.state import TrainState


def training_loader(dataset: Dataset, plan: Plan) -> Loader:
    """The batches that a run of this plan trains on."""
    return dataset.training_loader(unit=plan.sequences_per_step, horizon=plan.horizon, boundary=plan.boundary)


@dataclass
class Session:
    """The parts of a running trainer; `state`, `ledger` and `past` are the only ones that change from step to step."""

    paths: RunPaths
    config: Config
    lock: RunLock
    journal: Journal
    writer: StoreWriter
    inbox: Inbox
    dataset: Dataset
    loader: Loader
    validation: Loader
    engine: Engine
    orchestrator: Orchestrator
    recorder: Recorder
    state: TrainState
    plan: Plan
    ledger: Ledger
    replay: Replay
    answered: dict[str, dict[str, Any]]
    segment: str
    fingerprint: dict[str, Any]
    health: dict[str, Any] = field(default_factory=lambda: {"status": "healthy", "issues": []})
    problems: dict[str, str] = field(default_factory=dict)
    was_ended: bool = False
    goal: int | None = None
    """Where a child run ends whatever its plan says; shown as its length."""
    rehearsing: tuple[str, ...] = ()
    """Child runs that compete with this one now; what is measured by the clock says nothing meanwhile."""
    past: Past = field(default_factory=Past)
    half_done: HalfDone | None = None
    mid_step: bool = False  # the parts are of two steps: nothing may be saved

    @property
    def autonomy(self) -> str:
        """What may be done without a person: as set last in this run, else as configured."""
        return self.state.autonomy or self.config.orchestrator.autonomy

    @property
    def validation_sequences(self) -> int:
        """How many held-out sequences each validation uses."""
        return min(self.config.training.eval_sequences, self.dataset.validation_count)

    @property
    def batch_size(self) -> int:
        """Sequences of the next micro-batch."""
        return self.state.batch_size or self.config.training.batch_size

    @property
    def validation_batch_size(self) -> int:
        """Sequences that are validated at once."""
        most = min(self.batch_size, self.validation_sequences)
        return max(1, min(most, self.state.validation_batch_size or most))

    @property
    def accumulation(self) -> int:
        """Micro-batches of the next step; with any micro-batch size a step has as many sequences as planned."""
        return self.plan.sequences_per_step // self.batch_size

    @property
    def total_steps(self) -> int:
        """The length of the run: as planned, or as it was changed since."""
        return self.plan.last_step(self.state.lengths)

    def learning_rate(self, step: int) -> float:
        """Scheduled rate of optimizer step `step`, before interventions on the rate itself."""
        return self.plan.learning_rate(step, self.state.lengths)

    def follow(self, plan: Plan) -> None:
        """Goes on by a plan of another length."""
        self.plan = plan
        self.orchestrator.planned(self.total_steps)

    def change_length(self, total_steps: int, asked: int) -> None:
        """From the next step on the run is to end after this one; the rest of the schedule is stretched to it. `asked`
        is the plan's when that was decided: a plan that a person asked for since then does not change."""
        self.state.lengths.append([self.state.step, total_steps, asked])
        self.orchestrator.planned(self.total_steps)

    def hparams(self) -> dict[str, float | None]:
        """Every live value, read where it is in force."""
        own: dict[str, float] = {
            "lr_scale": self.state.lr_scale,
            "batch_size": self.batch_size,
            "gradient_accumulation_steps": self.accumulation,
            "total_steps": self.total_steps,
        }
        if self.loader.history is not None:
            own["difficulty_sampling"] = self.loader.history.strength
        return {**self.engine.get_hparams(), **own}

    def recreate_loader(self) -> None:
        """A new loader over the run's data; the position is the session's, so that the next batch is the one due."""
        history = self.loader.history
        self.loader.close()
        self.loader = training_loader(self.dataset, self.plan)
        self.loader.history = history

    def sidecar(self) -> dict[str, Tensor]:
        """What the loader remembers of single sequences, for the canonical state."""
        history = self.loader.history
        return {} if history is None else {name: torch.from_numpy(table) for name, table in history.state().items()}

    def restore_sidecar(self, tables: Mapping[str, Tensor]) -> None:
        """Takes over what a canonical state remembers of single sequences; how it is used follows `state`."""
        history, live = self.loader.history, self.state.difficulty_sampling
        if history is not None:
            history.restore({name: table.numpy() for name, table in tables.items()})
            history.strength = self.config.data.difficulty_sampling if live is None else live

    def sample_by_difficulty(self, strength: float) -> None:
        """From the next batch on, with this chance a sequence gives way to a harder one; only where it began so."""
        if self.loader.history is not None:
            self.state.difficulty_sampling = self.loader.history.strength = strength

    def tell_run(self) -> None:
        """Shows what the run is, and what may be done in it without a person."""
        about = {"name": self.paths.root.name, "preset": self.config.preset, "autonomy": self.autonomy}
        self.writer.meta("run", about)

    def tell_live(self) -> None:
        """Shows what an intervention or a rewind may have changed."""
        self.writer.meta("segment", self.segment)
        self.writer.meta("step", self.state.step)
        self.writer.meta("total_steps", self.goal or self.total_steps)
        self.writer.meta("hparams", self.hparams())
        self.writer.meta("layers", self.engine.describe().to_json())

    def epoch_ended(self) -> int | None:
        """The number of completed passes over the data, if the newest step completed one."""
        position, samples = self.state.position, self.plan.sequences_per_step
        epochs = self.loader.epoch_of(position)
        return epochs if position >= samples and epochs > self.loader.epoch_of(position - samples) else None

    def problem(self, code: str, message: str) -> None:
        """Something of the trainer's own that is wrong: part of the run's health until it is `solved`."""
        self.problems[code] = message
        self.tell_health()

    def solved(self, code: str) -> None:
        if self.problems.pop(code, None) is not None:
            self.tell_health()

    def tell_health(self, checked: Mapping[str, Any] | None = None) -> None:
        """Shows what the newest check found, and the trainer's own problems above it."""
        self.health = dict(checked) if checked is not None else self.health
        own = [{"code": code, "severity": "critical", "message": message, "confidence": 1.0}
               for code, message in self.problems.items()]  # fmt: skip
        status = "critical" if own else self.health["status"]
        self.writer.meta("health", {**self.health, "status": status, "issues": [*own, *self.health["issues"]]})

    def commit(self, type: str, id: str, doc: Mapping[str, Any]) -> Entry:
        """Appends one durable journal entry for the current step; from here on it has happened."""
        self.lock.ensure()
        entry = self.journal.append(type, self.segment, self.state.step, id, dict(doc))
        self.ledger.fold(entry)
        self.past.fold(entry)
        self.writer.entry(entry)
        return entry

    def event(self, level: str, kind: str, message: str) -> None:
        """Tells the people who watch, without a place in the journal."""
        self.writer.event(self.segment, self.state.step, level, kind, message)
