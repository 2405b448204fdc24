"""A step that does not fit is repeated in smaller pieces on the same sequences, and recorded; or the run stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_memory import ERRORS, PHASES, memory_for
from small_trainer import bits, figures, hparams, killed, small_trainer

import lumina
from lumina import views
from lumina.engine.api import OutOfMemory, TornUpdate
from lumina.hardware import is_out_of_memory
from lumina.store.errors import Refusal
from lumina.store.journal import Entry, read_entries
from lumina.train.splitting import smaller

SIX = {"batch_size": 6, "gradient_accumulation_steps": 2}


def splits(trainer: lumina.Trainer) -> list[Entry]:
    return [entry for entry in trainer._session.journal.entries if entry.type == "oom_split"]


def by_hand(directory: Path, until: int) -> str:
    """The bits of a run whose batch size a person sets to 3 after step 2."""
    with small_trainer(directory, "hand", **SIX) as trainer:
        trainer.train(until=2)
        trainer.adjust_batch_size(3)
        trainer.train(until=until)
        return bits(trainer)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", ERRORS)
def test_the_step_is_repeated_in_halves(tmp_path: Path, phase: str, kind: str) -> None:
    with small_trainer(tmp_path, **SIX) as trainer:
        trainer.train(until=2)
        with memory_for(3, trainer._session.engine, phase, ERRORS[kind]) as failed:
            trainer.train(until=5)
        assert failed == [6], "once, and never tried so large again"
        (split,) = splits(trainer)
        assert (split.step, split.doc["phase"], split.doc["position"], split.doc["sequences"]) == (2, phase, 24, 12)
        assert split.doc["before"] == {"batch_size": 6, "gradient_accumulation_steps": 2}
        assert split.doc["after"] == {"batch_size": 3, "gradient_accumulation_steps": 4}
        assert hparams(trainer)["batch_size"] == 3
        assert bits(trainer) == by_hand(tmp_path, 5), "the same sequences in the same step, none twice"


def test_people_see_what_happened(tmp_path: Path) -> None:
    with small_trainer(tmp_path, **SIX) as trainer:
        trainer.train(until=2)
        with memory_for(3, trainer._session.engine, "backward"):
            trainer.train(until=3)
        trainer._session.writer.flush(10.0)
        paths = trainer._session.paths
        (shown,) = [receipt for receipt in views.receipts(paths) if receipt["kind"] == "oom_split"]
        assert (shown["method"], shown["args"], shown["state"]) == (
            "adjust_batch_size",
            {"new_batch_size": 3},
            "verified",
        )
        assert "can't allocate memory" in shown["cause"]
        (told,) = [event["message"] for event in lumina.Run(paths).events() if event["kind"] == "memory"]
        assert told.startswith("Out of memory in step 3, in backward: micro-batches of 3 from now on, 4 per step")


def test_it_is_split_as_often_as_it_takes(tmp_path: Path) -> None:
    with small_trainer(tmp_path, **SIX) as trainer:
        with memory_for(1, trainer._session.engine) as failed:
            trainer.train(until=2)
        assert failed == [6, 3]
        assert [split.doc["after"]["batch_size"] for split in splits(trainer)] == [3, 1]


def test_after_a_kill_the_split_is_repeated(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, save_every_n_batches=2, **SIX)
    trainer.train(until=3)
    with memory_for(3, trainer._session.engine):
        trainer.train(until=5)
    wanted = bits(trainer)
    paths = killed(trainer)
    newest = max(paths.checkpoints.glob("checkpoint_step_*"), key=lambda folder: int(folder.name.split("_")[2]))
    assert newest.name == "checkpoint_step_4"
    (newest / "manifest.json").unlink()
    series = figures(paths)
    with lumina.Trainer.open(paths, resume="latest") as again:
        assert again.step == 2
        again.train(until=5)
        assert bits(again) == wanted
        assert hparams(again)["batch_size"] == 3, "and people see it"
        assert len([entry for entry in read_entries(paths) if entry.type == "oom_split"]) == 1
        again._session.writer.flush(10.0)
        assert {name: values for name, values in figures(paths).items() if name in series} == series


def test_one_sequence_too_many_stops_with_advice_and_never_loops(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, **SIX)
    trainer.train(until=2)
    with memory_for(0, trainer._session.engine, "backward") as failed:
        with pytest.raises(Refusal, match=r"step 3: out of memory in backward.*gradient_checkpointing=true") as stopped:
            trainer.train()
        assert failed == [6, 3, 1]
    assert "Nothing is lost" in stopped.value.message
    paths = killed(trainer)
    assert [folder.name for folder in paths.checkpoints.glob("checkpoint_step_*")] == ["checkpoint_step_2"]
    with lumina.Trainer.open(paths, resume="latest") as again:
        assert (again.step, again._session.batch_size) == (2, 1)
        again.train(until=3)


SIX_HELD_OUT = {**SIX, "eval_interval": 2, "eval_sequences": 6}


@pytest.mark.parametrize("kind", ERRORS)
def test_a_validation_is_repeated_in_halves(tmp_path: Path, kind: str) -> None:
    with small_trainer(tmp_path, "roomy", **SIX_HELD_OUT) as roomy:
        roomy.train(until=4)
        wanted = roomy._session.state.val_loss
    with small_trainer(tmp_path, **SIX_HELD_OUT) as trainer:
        with memory_for(2, trainer._session.engine, "validation", ERRORS[kind]) as failed:
            trainer.train(until=5)
        assert failed == [6, 3], "and from then on no larger than it fits"
        assert [(split.step, split.doc["after"]) for split in splits(trainer)] == [
            (2, {"validation_batch_size": 3}),
            (2, {"validation_batch_size": 1}),
        ]
        assert trainer._session.state.val_loss == pytest.approx(wanted, rel=1e-6), "the mean over the same tokens"
        assert hparams(trainer)["batch_size"] == 6, "training is not what did not fit"
        told = [event["message"] for event in lumina.Run(trainer._session.paths).events() if event["kind"] == "memory"]
        assert any("Out of memory in the validation of step 2: by 1 sequences from now on" in line for line in told)


def test_after_a_kill_a_validation_is_split_where_it_was(tmp_path: Path) -> None:
    """Sums of other sizes are rounded in another way: the bits of the best loss depend on it."""
    trainer = small_trainer(tmp_path, save_every_n_batches=3, **SIX_HELD_OUT)
    trainer.train(until=3)
    trainer._saver.settle()
    with memory_for(2, trainer._session.engine, "validation"):
        trainer.train(until=5)
    wanted = bits(trainer)
    paths = killed(trainer)
    series = figures(paths)
    for newest in paths.checkpoints.glob("checkpoint_step_[45]*"):
        (newest / "manifest.json").unlink()
    with lumina.Trainer.open(paths, resume="latest") as again:
        assert again.step == 3
        again.train(until=5)
        assert bits(again) == wanted
        again._session.writer.flush(10.0)
        assert {name: values for name, values in figures(paths).items() if name in series} == series
        assert len([entry for entry in read_entries(paths) if entry.type == "oom_split"]) == 2


def test_a_validation_of_one_sequence_too_many_stops_with_advice(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, **SIX_HELD_OUT)
    with memory_for(0, trainer._session.engine, "validation") as failed:
        with pytest.raises(Refusal, match=r"step 2: out of memory in validation.*one sequence already") as stopped:
            trainer.train()
        assert failed == [6, 3, 1]
    assert "gradient_checkpointing" not in stopped.value.message, "there are no gradients to save"
    trainer.close()
    paths = trainer._session.paths
    assert lumina.Run(paths).status()["state"] == "failed"
    assert not list(paths.checkpoints.glob("checkpoint_step_2*")), "its validation would be missing for ever"
    with lumina.Trainer.open(paths, resume="latest") as again:
        again.train(until=3)
        assert again._session.state.val_step == 2


def test_a_failed_update_has_changed_nothing(tmp_path: Path) -> None:
    with small_trainer(tmp_path) as trainer:
        engine = trainer._session.engine
        for step in (1, 2):  # before and after the optimizer has moments
            before = bits(trainer)
            with memory_for(0, engine, "the optimizer's step"), pytest.raises(OutOfMemory):
                engine.train_step(step, trainer._loop._batches()[0], 1e-2)
            assert bits(trainer) == before
            assert all(parameter.grad is None for parameter in engine.model.parameters())  # type: ignore[attr-defined]
            trainer.train(until=step)


def test_a_torn_update_is_never_saved_and_a_resume_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_trainer(tmp_path, "whole") as straight:
        straight.train(until=6)
        wanted = bits(straight)
    with pytest.raises(TornUpdate), small_trainer(tmp_path, save_every_n_batches=2) as trainer:  # noqa: PT012
        trainer.train(until=3)
        optimizer = trainer._session.engine.optimizer  # type: ignore[attr-defined]
        step = optimizer.step

        def half() -> None:
            groups = optimizer.param_groups
            optimizer.param_groups = groups[:1]
            step()
            optimizer.param_groups = groups
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(optimizer, "step", half)
        trainer.train(until=6)
    paths = trainer._session.paths
    assert [folder.name for folder in paths.checkpoints.glob("checkpoint_step_*")] == ["checkpoint_step_2"]
    assert lumina.Run(paths).status()["state"] == "failed"
    with lumina.Trainer.open(paths, resume="latest") as again:
        again.train(until=6)
        assert bits(again) == wanted


def test_other_errors_are_no_lack_of_memory(tmp_path: Path) -> None:
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))
    with small_trainer(tmp_path) as trainer:
        mistake = RuntimeError("size mismatch")
        with memory_for(0, trainer._session.engine, "forward", mistake), pytest.raises(RuntimeError, match="mismatch"):
            trainer.train(until=1)
        assert splits(trainer) == []


@pytest.mark.parametrize(
    ("batch_size", "per_step", "wanted"),
    [(6, 12, 3), (4, 12, 2), (5, 5, 1), (9, 9, 3), (7, 14, 2), (2, 2, 1), (1, 8, None), (8, 8, 4), (15, 45, 5)],
)
def test_halving_keeps_the_step_divisible(batch_size: int, per_step: int, wanted: Any) -> None:
    assert smaller(batch_size, per_step) == wanted
