"""A wrong argument is answered with the range that is allowed, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from small_trainer import applied, bits, hparams, small_trainer

import lumina
from lumina.interventions import catalogue


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lumina.Trainer]:
    with small_trainer(tmp_path_factory.mktemp("runs")) as opened:
        opened.train(until=2)
        yield opened


REFUSED: list[tuple[str, tuple[Any, ...], str]] = [
    ("adjust_capacity_factor", (0.0,), "factor = 0 is outside above 0"),
    ("adjust_capacity_factor", (-1.0,), "factor = -1 is outside above 0"),
    ("adjust_capacity_factor", (float("inf"),), "factor = inf is not finite; allowed: above 0"),
    ("enable_expert_dropout", (1.5,), "dropout_prob = 1.5 is outside 0 to 1"),
    ("enable_expert_dropout", (-0.1,), "dropout_prob = -0.1 is outside 0 to 1"),
    ("adjust_mod_capacity", (0.0,), "capacity_factor = 0 is outside above 0 to 1"),
    ("adjust_mod_capacity", (1.01,), "capacity_factor = 1.01 is outside above 0 to 1"),
    ("adjust_weight_decay", (-0.01,), "weight_decay = -0.01 is outside 0 or more"),
    ("adjust_weight_decay", (float("nan"),), "weight_decay = nan is not finite"),
    ("_update_optimizer_param_groups", ("betas", 0.5), "'betas' of the optimizer's groups cannot be set"),
]


@pytest.mark.parametrize(("method", "args", "said"), REFUSED, ids=[f"{m}{a}" for m, a, _ in REFUSED])
def test_what_cannot_work_is_refused_and_changes_nothing(
    trainer: lumina.Trainer, method: str, args: tuple[Any, ...], said: str
) -> None:
    state, live, decided = bits(trainer), hparams(trainer), len(applied(trainer))
    with pytest.raises(lumina.Refusal) as refused:
        getattr(trainer, method)(*args)
    assert said in refused.value.message
    assert refused.value.code in ("out_of_range", "bad_argument")
    assert (bits(trainer), hparams(trainer), len(applied(trainer))) == (state, live, decided)


@pytest.mark.parametrize(
    ("missing", "method", "said"),
    [
        ("use_moe", "adjust_capacity_factor", "has no experts"),
        ("use_moe", "enable_expert_dropout", "has no experts"),
        ("use_mod", "adjust_mod_capacity", "has no mod_capacity_factor"),
    ],
)
def test_a_model_without_the_part_refuses_its_interventions(
    tmp_path_factory: pytest.TempPathFactory, missing: str, method: str, said: str
) -> None:
    with small_trainer(tmp_path_factory.mktemp("dense"), **{missing: False}) as dense:
        with pytest.raises(lumina.Refusal, match=said) as refused:
            getattr(dense, method)(0.5)
        assert refused.value.code == "unsupported"
        assert applied(dense) == []


def test_a_typical_range_stands_in_the_help_and_binds_nobody(trainer: lumina.Trainer) -> None:
    trainer.adjust_weight_decay(3.0)
    assert hparams(trainer)["weight_decay"] == 3.0
    for method in ("adjust_capacity_factor", "enable_expert_dropout", "adjust_mod_capacity", "adjust_weight_decay"):
        assert "typical" in catalogue()[method].args[0].help


def test_the_trainer_and_the_store_answer_queries_with_the_same_figures(trainer: lumina.Trainer) -> None:
    trainer._session.writer.flush(10.0)
    run = lumina.Run(trainer._session.paths)
    assert run.query("get_expert_statistics") == trainer.get_expert_statistics()
    assert run.query("get_mod_statistics") == trainer.get_mod_statistics()
    ours, theirs = trainer.get_current_metrics(), run.query("get_current_metrics")
    assert theirs == ours
    assert set(ours) == {"loss", "learning_rate", "grad_norm", "throughput", "memory_usage", "epoch", "step"}
