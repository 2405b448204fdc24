"""The training modes: each position has a source, each source loses nothing, and shares and epochs are as written."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.config import Config, load_config
from lumina.data.mix import Interleaved, Mixture, Program, Sequential, Shuffle, mode_of
from lumina.train.plan import make_plan

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)
BOTH = {"base_paths": "text", "finetuning_paths": "chat"}
RATIOS = st.fractions(0, 1, max_denominator=100)
MIXTURES = st.one_of(
    st.builds(Sequential, st.integers(0, 700)),
    st.builds(Interleaved, RATIOS, st.integers(1, 16)),
    st.builds(Shuffle, RATIOS, st.integers(0, 9)),
)


@EXAMPLES
@given(mixture=MIXTURES, count=st.integers(1, 2500))
def test_no_source_is_skipped_or_repeated(mixture: Mixture, count: int) -> None:
    # In whole stretches of everything that a mixture is made of, each source's sequences come without a gap.
    source, nth = mixture.locate(np.arange(count))
    for one in (0, 1):
        found = sorted(nth[source == one].tolist())
        if isinstance(mixture, Shuffle):
            assert len(found) == len(set(found))
            assert sorted(
                mixture.locate(np.arange(3000))[1][mixture.locate(np.arange(3000))[0] == one].tolist()
            ) == list(range(int((mixture.locate(np.arange(3000))[0] == one).sum())))
        else:
            assert found == list(range(len(found)))


@pytest.mark.parametrize("strategy", ["ratio", "alternating", "random"])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_the_realised_ratio_is_the_base_ratio(strategy: str, ratio: float) -> None:
    config = load_config("debug", {**BOTH, "base_ratio": ratio, "interleave_strategy": strategy})
    mixture = Program(config, {"base": 400, "finetuning": 900}).mixture(None, unit=8)
    for start in (0, 12_345_678):
        source = mixture.locate(np.arange(start, start + 1000 * 8))[0]
        assert float((source == 0).mean()) == pytest.approx(ratio, abs=0.01)


def test_strategies_differ_in_how_they_keep_the_ratio() -> None:
    base = {
        strategy: Program(
            load_config("debug", {**BOTH, "base_ratio": 0.5, "interleave_strategy": strategy}),
            {"base": 400, "finetuning": 400},
        ).mixture(None, unit=8).locate(np.arange(160))[0].reshape(20, 8)
        for strategy in ("ratio", "alternating", "random")
    }  # fmt: skip
    assert set(base["ratio"].sum(1).tolist()) == {4}
    assert base["alternating"].sum(1).tolist() == [8, 0] * 10
    assert len(set(base["random"].sum(1).tolist())) > 2


@pytest.mark.parametrize(
    ("given", "mode", "said"),
    [
        ({}, "base_only", "built-in"),
        ({"base_paths": "text"}, "base_only", "base texts"),
        ({"finetuning_paths": "chat"}, "finetuning_only", "conversations"),
        (BOTH, "hybrid_interleaved", "base texts and conversations"),
        ({**BOTH, "training_mode": "hybrid_sequential"}, "hybrid_sequential", "configured"),
    ],
)
def test_a_mode_that_is_not_given_follows_from_the_files(given: dict[str, str], mode: str, said: str) -> None:
    found, reason = mode_of(load_config("debug", given))
    assert found == mode
    assert said in reason


def config_of(mode: str, **more: object) -> Config:
    paths = {"base_only": {"base_paths": "text"}, "finetuning_only": {"finetuning_paths": "chat"}}.get(mode, BOTH)
    return load_config(
        "debug",
        {"training_mode": mode, **paths, "batch_size": 10, "auto_epoch_scaling": False, "num_epochs": 2, **more},
    )


@pytest.mark.parametrize(
    ("mode", "more", "counts", "epoch", "steps", "boundary"),
    [
        ("base_only", {}, {"base": 100}, 100, 20, None),
        ("finetuning_only", {}, {"finetuning": 50}, 50, 10, None),
        ("hybrid_sequential", {}, {"base": 100, "finetuning": 50}, 150, 30, 200),
        (
            "hybrid_sequential",
            {"base_epochs": 1, "finetuning_epochs": 4},
            {"base": 100, "finetuning": 50},
            150,
            30,
            100,
        ),
        ("hybrid_sequential", {"max_steps": 6}, {"base": 100, "finetuning": 50}, 150, 6, 40),
        ("hybrid_interleaved", {"base_ratio": 0.5}, {"base": 100, "finetuning": 50}, 200, 40, None),
        ("hybrid_interleaved", {"base_ratio": 0.8}, {"base": 100, "finetuning": 50}, 250, 50, None),
        ("hybrid_interleaved", {"base_ratio": 1.0}, {"base": 100, "finetuning": 50}, 100, 20, None),
        ("hybrid_interleaved", {"base_ratio": None}, {"base": 100, "finetuning": 50}, 150, 30, None),
    ],
)
def test_epochs_mean_what_the_documentation_says(
    mode: str, more: dict[str, object], counts: dict[str, int], epoch: int, steps: int, boundary: int | None
) -> None:
    config = config_of(mode, **more)
    program = Program(config, counts)
    plan = make_plan(config, program=program, automatic_epochs=99)
    assert program.sequences_per_epoch == epoch
    assert (plan.total_steps, plan.boundary) == (steps, boundary)


def test_an_extension_moves_neither_the_phases_nor_what_was_trained_on() -> None:
    config = config_of("hybrid_sequential", max_steps=6)
    program = Program(config, {"base": 100, "finetuning": 50})
    short = make_plan(config, program=program, automatic_epochs=1)
    long = make_plan(config, program=program, automatic_epochs=1, steps=60)
    assert (long.total_steps, long.boundary, long.horizon) == (60, short.boundary, short.horizon)


def test_the_learning_rate_rises_again_in_the_second_phase() -> None:
    config = config_of("hybrid_sequential", phase_warmup_steps=4, lr_schedule="constant", warmup_steps=2)
    plan = make_plan(config, program=Program(config, {"base": 100, "finetuning": 50}), automatic_epochs=1)
    peak = config.training.learning_rate
    shares = [round(plan.learning_rate(step) / peak, 3) for step in range(1, 31)]
    assert shares[:2] == [0.5, 1.0]
    assert shares[19:26] == [1.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_the_ratio_of_an_epoch_reaches_the_token_budget() -> None:
    program = Program(config_of("hybrid_interleaved", base_ratio=0.75), {"base": 300, "finetuning": 300})
    assert program.per_epoch() == {"base": 900.0, "finetuning": 300.0}
    assert program.ratio == Fraction(3, 4)
