"""What an intervention promises is what the next steps do, and undo takes it back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_trainer import applied, bits, canonical, hparams, reopened, series, small_trainer, undo
from torch.utils.flop_counter import FlopCounterMode

import lumina
from lumina.accounting import flops_per_token
from lumina.train.evaluate import evaluate

VALUES = [
    ("adjust_capacity_factor", "capacity_factor", 1.25, 0.5),
    ("enable_expert_dropout", "expert_dropout", 0.0, 0.5),
    ("adjust_mod_capacity", "mod_capacity_factor", 0.5, 0.25),
    ("adjust_weight_decay", "weight_decay", 0.01, 0.1),
]


def validation_loss(trainer: lumina.Trainer) -> float:
    session = trainer._session
    return evaluate(session.engine, session.validation, session.validation_sequences, 2)["val_loss"]


@pytest.mark.parametrize(("method", "name", "old", "new"), VALUES)
def test_a_value_is_read_back_shown_kept_and_taken_back(
    tmp_path: Path, method: str, name: str, old: float, new: float
) -> None:
    trainer = small_trainer(tmp_path)
    trainer.train(until=2)
    untouched = bits(trainer)
    getattr(trainer, method)(new)
    receipt = applied(trainer)[-1].doc
    assert (receipt["method"], receipt["before"], receipt["after"]) == (method, {name: old}, {name: new})
    assert hparams(trainer)[name] == new
    trainer.train(until=3)
    once = reopened(trainer)
    assert once.step == 3
    assert hparams(once)[name] == new, "a checkpoint holds it"
    once.close()

    with small_trainer(tmp_path, "undone") as trainer:
        trainer.train(until=2)
        getattr(trainer, method)(new)
        undo(trainer)
        assert bits(trainer) == untouched


def test_a_lower_capacity_factor_drops_more(tmp_path: Path) -> None:
    with small_trainer(tmp_path, use_mod=False, capacity_factor=2.0) as trainer:
        dropped = []
        for step, factor in enumerate((2.0, 0.5, 0.25, 100.0), 1):
            trainer.adjust_capacity_factor(factor)
            trainer.train(until=step)
            dropped.append(series(trainer, "moe.drop_fraction"))
    assert dropped[0] < 0.5 <= dropped[1] < dropped[2], "at half the fair share at least half is dropped"
    assert dropped[3] == 0.0


def test_a_run_that_drops_nothing_can_get_a_capacity_and_lose_it_again(tmp_path: Path) -> None:
    with small_trainer(tmp_path, use_mod=False, capacity_factor=None) as trainer:
        trainer.adjust_capacity_factor(0.5)
        assert applied(trainer)[-1].doc["before"] == {"capacity_factor": None}
        trainer.train(until=1)
        assert series(trainer, "moe.drop_fraction") >= 0.5
        undo(trainer)
        trainer.train(until=2)
        assert series(trainer, "moe.drop_fraction") == 0.0


def test_expert_dropout_changes_training_and_not_evaluation(tmp_path: Path) -> None:
    losses, validation = {}, {}
    for chance in (0.0, 0.5):
        with small_trainer(tmp_path, f"chance{chance}", use_mod=False) as trainer:
            trainer.train(until=2)
            trainer.enable_expert_dropout(chance)
            validation[chance] = validation_loss(trainer)
            trainer.train(until=3)
            losses[chance] = series(trainer, "loss")
    assert validation[0.0] == validation[0.5]
    assert losses[0.0] != losses[0.5]


def test_expert_dropout_leaves_experts_out_of_a_step(tmp_path: Path) -> None:
    with small_trainer(tmp_path, use_mod=False, load_balancing_weight=1.0) as trainer:
        trainer.train(until=1)
        every = (trainer._loop.newest_arrays["expert_load"] > 0).sum()
        trainer.enable_expert_dropout(1.0)
        trainer.train(until=2)
        assert (trainer._loop.newest_arrays["expert_load"] > 0).sum(1).tolist() == [2, 2], "what a token needs"
        assert every > 4


def test_mod_capacity_changes_the_compute_of_a_step(tmp_path: Path) -> None:
    counted, reckoned, formula = {}, {}, {}
    with small_trainer(tmp_path, use_moe=False) as trainer:
        config = trainer._session.config
        for step, share in enumerate((1.0, 0.5, 0.25), 1):
            trainer.adjust_mod_capacity(share)
            with FlopCounterMode(display=False) as counter:
                trainer.train(until=step)
            counted[share] = counter.get_total_flops()
            reckoned[share] = series(trainer, "mod.compute_savings")
            depth = config.mod.model_copy(update={"mod_capacity_factor": share})
            formula[share] = flops_per_token(config.model_copy(update={"mod": depth}))
            assert series(trainer, "mod.capacity_factor") == share
            assert series(trainer, "mod.tokens_processed") == share * 2 * 32 * 12, "two layers, 12 sequences of 32"
    for share in (0.5, 0.25):
        saved = (formula[1.0].total - formula[share].total) * 32 * 12
        assert counted[1.0] - counted[share] == pytest.approx(saved, rel=1e-6)
    assert counted[1.0] - counted[0.5] > 0.2 * counted[1.0]
    # The output layer's products are the same at every share; the rest is what the savings are a share of.
    saved_once = [formula[1.0].forward - formula[share].forward for share in (0.5, 0.25)]
    expected = [reckoned[share] - reckoned[1.0] for share in (0.5, 0.25)]
    assert saved_once[1] / saved_once[0] == pytest.approx(expected[1] / expected[0], rel=1e-3)


def test_weight_decay_is_that_of_the_matrices(tmp_path: Path) -> None:
    with small_trainer(tmp_path) as trainer:
        trainer.train(until=1)
        for change in (
            trainer.adjust_weight_decay,
            lambda x: trainer._update_optimizer_param_groups("weight_decay", x),
        ):
            change(0.07)
            matrices, vectors = trainer._session.engine.optimizer.param_groups  # type: ignore[attr-defined]
            assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.07, 0.0)
            assert applied(trainer)[-1].doc["method"] == "adjust_weight_decay"
            trainer.adjust_weight_decay(0.0)


def test_more_weight_decay_makes_smaller_matrices(tmp_path: Path) -> None:
    size = {}
    for decay in (0.0, 50.0):
        with small_trainer(tmp_path, f"decay{decay}", lr_schedule="constant", warmup_steps=0) as trainer:
            trainer.adjust_weight_decay(decay)
            trainer.train(until=5)
            size[decay] = {name: torch.linalg.norm(tensor) for name, tensor in canonical(trainer).params.items()}
    assert size[50.0]["embedding"] < 0.95 * size[0.0]["embedding"]
