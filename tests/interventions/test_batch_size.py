"""A micro-batch of another size: from the next batch on, with the same sequences in every step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_trainer import applied, bits, hparams, small_trainer, undo

import lumina
from lumina.engine.api import MicroBatch

DENSE = {"use_moe": False, "use_mod": False}


class Watched:
    """Keeps the micro-batches of the newest step."""

    def __init__(self, trainer: lumina.Trainer, patch: pytest.MonkeyPatch) -> None:
        self.seen: list[MicroBatch] = []
        engine = trainer._session.engine
        train_step = engine.train_step

        def step(number: int, batches: Sequence[MicroBatch], rate: float) -> Any:
            self.seen = list(batches)
            return train_step(number, batches, rate)

        patch.setattr(engine, "train_step", step)

    @property
    def sizes(self) -> list[int]:
        return [len(batch.tokens) for batch in self.seen]


def test_the_next_batch_has_the_new_size_and_the_step_the_same_sequences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_trainer(tmp_path) as trainer:
        watched, session = Watched(trainer, monkeypatch), trainer._session
        trainer.train(until=1)
        assert watched.sizes == [2] * 6
        for step, size in enumerate((1, 3, 12, 4), 2):
            trainer.adjust_batch_size(size)
            assert applied(trainer)[-1].doc["after"] == {"batch_size": size, "gradient_accumulation_steps": 12 // size}
            due = session.loader.batch(session.state.position, 12).tokens
            trainer.train(until=step)
            assert watched.sizes == [size] * (12 // size)
            assert np.concatenate([batch.tokens for batch in watched.seen]).tolist() == due.tolist()
            assert session.state.position == 12 * step
        live = hparams(trainer)
        assert (live["batch_size"], live["gradient_accumulation_steps"]) == (4, 3)
        undo(trainer)
        trainer.train(until=6)
        assert watched.sizes == [12]


def test_the_effective_batch_is_the_same(tmp_path: Path) -> None:
    """A dense model's step depends on its sequences alone, not on how they are cut.

    In fp32: elsewhere the rounding of each cut is as large as what is looked for.
    """
    losses = {}
    exactly = {**DENSE, "precision": "fp32", "lr_schedule": "constant", "warmup_steps": 0}
    for size in (2, 1, 12):
        with small_trainer(tmp_path, f"size{size}", **exactly) as trainer:
            trainer.train(until=1)
            trainer.adjust_batch_size(size)
            trainer.train(until=4)
            losses[size] = trainer.get_current_metrics()["loss"]
            assert trainer._loop.newest["tokens"] == 4 * 12 * 32
    assert losses[1] == pytest.approx(losses[2], rel=1e-6)
    assert losses[12] == pytest.approx(losses[2], rel=1e-6)


@pytest.mark.parametrize("size", [5, 7, 24])
def test_a_size_that_does_not_divide_the_step_is_refused_with_those_that_do(tmp_path: Path, size: int) -> None:
    with small_trainer(tmp_path) as trainer:
        trainer.adjust_batch_size(3)
        before = bits(trainer)
        with pytest.raises(lumina.Refusal) as refused:
            trainer.adjust_batch_size(size)
        assert refused.value.code == "out_of_range"
        assert f"{size} does not divide the 12 sequences of a step; use one of 1, 2, 3, 4, 6, 12" in str(refused.value)
        with pytest.raises(lumina.Refusal, match="new_batch_size = 0 is outside 1 or more"):
            trainer.adjust_batch_size(0)
        assert bits(trainer) == before


def test_a_resume_after_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    with small_trainer(tmp_path, "straight") as straight:
        straight.train(until=2)
        straight.adjust_batch_size(4)
        straight.train(until=6)
        expected = bits(straight)
    broken = small_trainer(tmp_path, "broken")
    broken.train(until=2)
    broken.adjust_batch_size(4)
    broken.train(until=4)
    broken.close()
    with lumina.Trainer.open(broken._session.paths, resume="latest") as again:
        assert hparams(again)["batch_size"] == 4
        again.train(until=6)
        assert bits(again) == expected


def test_a_new_loader_gives_the_batch_that_is_due(tmp_path: Path) -> None:
    with small_trainer(tmp_path) as trainer:
        trainer.train(until=2)
        session = trainer._session
        old, due = session.loader, session.loader.batch(session.state.position, 2).tokens
        trainer._recreate_dataloader(session.dataset)
        assert session.loader is not old
        assert session.loader.batch(session.state.position, 2).tokens.tolist() == due.tolist()
        fresh = session.loader
        trainer.adjust_batch_size(1)
        assert session.loader is not fresh
        with pytest.raises(lumina.Refusal, match="keeps the data that it was started with"):
            trainer._recreate_dataloader(None)  # type: ignore[arg-type]
