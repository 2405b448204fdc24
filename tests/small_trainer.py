"""A trainer in this process, small enough for a step in a few milliseconds, and what a test may ask it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lumina
from lumina.checkpoint import CanonicalState, state_hash
from lumina.store.journal import Entry
from lumina.store.layout import RunPaths
from lumina.train.recorder import WALL_CLOCK

SIZE: dict[str, Any] = {
    "model.hidden_size": 32,
    "model.intermediate_size": 24,
    "model.vocab_size": 300,
    "model.max_position_embeddings": 32,
    "model.num_heads": 4,
    "model.num_kv_heads": 2,
    "model.initializer_range": 0.2,
    "num_threads": 1,
    "batch_size": 2,
    "gradient_accumulation_steps": 6,
    "corpus_documents": 60,
    "eval_interval": 1000,
    "eval_sequences": 4,
}


def small_trainer(directory: Path, name: str = "small", steps: int = 60, **changes: Any) -> lumina.Trainer:
    return lumina.Trainer("debug", name=name, steps=steps, directory=directory, **{**SIZE, **changes})


def hparams(trainer: lumina.Trainer) -> dict[str, Any]:
    """Live values as the run's status shows them."""
    trainer._session.writer.flush(10.0)
    return dict(lumina.Run(trainer._session.paths).status()["hparams"])


def canonical(trainer: lumina.Trainer) -> CanonicalState:
    return trainer._saver.canonical()


def applied(trainer: lumina.Trainer) -> list[Entry]:
    return [entry for entry in trainer._session.journal.entries if entry.type == "applied"]


def series(trainer: lumina.Trainer, name: str) -> float:
    """A figure of the newest step."""
    value = trainer._loop.newest[name]
    assert math.isfinite(value)
    return value


def undo(trainer: lumina.Trainer) -> None:
    """Takes the newest intervention back in place."""
    from lumina.train import undo

    undo.revert(trainer._steering.controls, applied(trainer)[-1].doc)


def reopened(trainer: lumina.Trainer) -> lumina.Trainer:
    """Ends the trainer and opens its run again from its newest checkpoint."""
    paths = trainer._session.paths
    trainer.close()
    return lumina.Trainer.open(paths, resume="latest")


def bits(trainer: lumina.Trainer) -> str:
    return state_hash(canonical(trainer))


def killed(trainer: lumina.Trainer) -> RunPaths:
    """Leaves the run as a kill -9 does; what was being written to the disk is whole, and the journal knows nothing."""
    session, flying = trainer._session, trainer._saver._flying
    if flying is not None:
        assert flying.writing.wait(30.0)
    assert session.writer.close()
    session.journal.close()
    session.lock.release()
    return session.paths


def figures(paths: RunPaths) -> dict[str, list[float | None]]:
    """Every series of the current line but those of clock and memory."""
    frame = lumina.Run(paths).metrics()
    return {name: frame[name].to_list() for name in frame.columns if name not in WALL_CLOCK}
