"""The smallest model, engine, data and run that a configuration can have, for looking at what a parameter changes.

Every helper takes parameters by name, as `lumina.start` does; it knows no particular one.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small import SHAPE

import lumina
from lumina.config import Config, load_config
from lumina.data import Dataset, prepare
from lumina.engine.api import MicroBatch
from lumina.engine.torch_engine import TorchEngine
from lumina.hardware import choose_precision, detect_cpu
from lumina.model import Transformer
from lumina.store.journal import read_entries
from lumina.store.layout import RunPaths
from lumina.store.reader import StoreReader

VOCAB, LENGTH = 256, 32
SIZE: dict[str, Any] = {
    **SHAPE,
    "model.vocab_size": 300,
    "moe.num_experts": 4,
    "training.sequence_length": LENGTH,
    "training.batch_size": 2,
    "training.warmup_steps": 0,
    "training.num_threads": 1,
    "training.eval_sequences": 2,
    "precision.precision": "fp32",
    "data.corpus_documents": 60,
}


def config(**changes: Any) -> Config:
    return load_config("debug", {**SIZE, **changes})


def model(**changes: Any) -> Transformer:
    torch.manual_seed(3)
    built = Transformer(config(**changes), VOCAB)
    built.reset()
    return built.train()


def tokens(sequences: int = 2, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, VOCAB, (sequences, length), generator=torch.Generator().manual_seed(5))


def engine(**changes: Any) -> TorchEngine:
    made, hardware = config(**changes), detect_cpu()
    return TorchEngine(
        made, VOCAB, hardware, choose_precision(made.precision.precision, hardware, made.precision.master_precision)
    )


def batch(seed: int) -> MicroBatch:
    drawn = np.random.default_rng(seed).integers(0, VOCAB, (2, LENGTH + 1))
    return MicroBatch(drawn[:, :-1], drawn[:, 1:])


def stepped(steps: int = 2, **changes: Any) -> TorchEngine:
    """An engine after a few steps."""
    built = engine(**changes)
    for step in range(1, steps + 1):
        built.train_step(step, [batch(step)], 1e-2)
    return built


def dataset(**changes: Any) -> Dataset:
    return prepare(config(**changes))


@dataclass(frozen=True)
class Trained:
    """What a short run left behind: everything that a person could look at afterwards."""

    paths: RunPaths
    log: list[str]
    threads: int

    def steps_of(self, series: str) -> list[int]:
        return StoreReader(self.paths).series([series])[series]["step"]

    def values_of(self, series: str) -> list[float | None]:
        return StoreReader(self.paths).series([series])[series]["value"]

    def journal(self) -> list[str]:
        return [entry.type for entry in read_entries(self.paths)]

    def checkpoints(self) -> list[str]:
        return sorted(folder.name for folder in self.paths.checkpoints.glob("checkpoint_step_*"))


_names = (f"run-{number}" for number in itertools.count())


def trained(steps: int = 6, **changes: Any) -> Trained:
    """Trains a run under the current folder in this process, and leaves threads and logging as they were."""
    with _threads_restored(), _log() as lines:
        name, folder = next(_names), Path("runs").resolve()
        with lumina.Trainer("debug", name=name, steps=steps, directory=folder, **{**SIZE, **changes}) as trainer:
            threads = torch.get_num_threads()
            trainer.train()
    return Trained(RunPaths(folder / name), lines, threads)


@contextmanager
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _log() -> Iterator[list[str]]:
    logger, handler = logging.getLogger("lumina"), _Lines()
    before = logger.level
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(before)
