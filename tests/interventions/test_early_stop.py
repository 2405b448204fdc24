"""A run that asked for it ends when it has converged: finished, with the reason, and once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_trainer import SIZE, bits

import lumina
from lumina.store.journal import read_entries

# It hardly learns, and its batches hardly differ: converged from the start, as soon as patience is over.
STILL: dict[str, Any] = {
    **SIZE,
    "batch_size": 16,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-7,
    "warmup_steps": 2,
    "check_interval": 10,
    "eval_interval": 5,
    "enable_early_stopping": True,
    "early_stopping_patience": 2,
    "save_every_n_batches": 7,
}


def still(directory: Path, steps: int = 200, **changes: Any) -> lumina.Trainer:
    return lumina.Trainer("debug", name="still", steps=steps, directory=directory, **{**STILL, **changes})


def test_a_converged_run_ends_finished_with_its_reason(tmp_path: Path) -> None:
    with still(tmp_path) as trainer:
        assert trainer.train() == "finished"
        ended_at = trainer.step
    assert ended_at < 100
    assert ended_at % 10 == 0
    (end,) = [entry for entry in read_entries(trainer._session.paths) if entry.type == "end"]
    assert end.doc["state"] == "finished"
    assert "early_stopping_patience 2" in end.doc["reason"]
    status = lumina.attach("still", tmp_path).status()
    assert (status["state"], status["step"]) == ("finished", ended_at)
    assert status["chinchilla"]["recommendation"]["action"] == "stop"


def test_more_patience_lasts_longer_and_without_early_stopping_the_run_goes_on(tmp_path: Path) -> None:
    with still(tmp_path / "short") as short, still(tmp_path / "long", early_stopping_patience=5) as long:
        short.train()
        long.train()
        assert long.step > short.step
    with still(tmp_path / "never", steps=long.step + 1, enable_early_stopping=False) as never:
        never.train()
        assert never.step == long.step + 1


@pytest.mark.parametrize("cut", [9, 20])
def test_a_resumed_run_ends_at_the_same_step_with_the_same_bits(tmp_path: Path, cut: int) -> None:
    with still(tmp_path / "whole") as whole:
        whole.train()
        expected = whole.step, bits(whole)
    with still(tmp_path / "halves") as halves:
        halves.train(until=cut)
    again = lumina.Trainer.open(halves._session.paths, resume="latest")
    assert again.train() == "finished"
    assert (again.step, bits(again)) == expected
    again.close()


def test_a_run_that_is_given_more_steps_goes_on(tmp_path: Path) -> None:
    with still(tmp_path) as trainer:
        trainer.train()
        ended_at = trainer.step
    more = lumina.Trainer.open(trainer._session.paths, resume="latest", steps=ended_at + 12)
    more.train()
    assert more.step == ended_at + 12
    more.close()
