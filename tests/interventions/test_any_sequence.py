"""Whatever is done to a run in whatever order, and taken back: it trains on, keeps its optimizer state, and repeats."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from small_trainer import applied, bits, canonical, small_trainer

import lumina

PARTS = st.integers(0, 1)
ACTS = st.one_of(
    st.tuples(st.just("adjust_routing_temperature"), st.fixed_dictionaries({"temperature": st.floats(0.1, 5.0)})),
    st.tuples(st.just("adjust_capacity_factor"), st.fixed_dictionaries({"factor": st.floats(0.05, 4.0)})),
    st.tuples(st.just("adjust_load_balancing_weight"), st.fixed_dictionaries({"weight": st.floats(0.0, 1.0)})),
    st.tuples(st.just("enable_expert_dropout"), st.fixed_dictionaries({"dropout_prob": st.floats(0.0, 1.0)})),
    st.tuples(st.just("adjust_mod_capacity"), st.fixed_dictionaries({"capacity_factor": st.floats(0.02, 1.0)})),
    st.tuples(
        st.just("adjust_mod_schedule"),
        st.fixed_dictionaries(
            {"warmup_steps": st.integers(0, 9), "anneal_steps": st.integers(0, 9), "target": st.floats(0.02, 1.0)}
        ),
    ),
    st.tuples(st.just("add_expert"), st.fixed_dictionaries({"layer_idx": PARTS})),
    st.tuples(st.just("prune_expert"), st.fixed_dictionaries({"layer_idx": PARTS, "expert_idx": st.integers(0, 9)})),
    st.tuples(st.just("adjust_batch_size"), st.fixed_dictionaries({"new_batch_size": st.integers(1, 13)})),
    st.tuples(st.just("adjust_weight_decay"), st.fixed_dictionaries({"weight_decay": st.floats(0.0, 1.0)})),
    st.tuples(st.just("adjust_gradient_clip"), st.fixed_dictionaries({"max_norm": st.floats(0.01, 10.0)})),
    st.tuples(st.just("adjust_learning_rate"), st.fixed_dictionaries({"factor": st.floats(0.1, 2.0)})),
    st.tuples(st.just("emergency_lr_reduction"), st.fixed_dictionaries({"reduction_factor": st.floats(1.5, 20.0)})),
    st.tuples(st.just("skip_data_range"), st.fixed_dictionaries({"sequences": st.integers(1, 40)})),
    st.tuples(st.just("adjust_training_length"), st.fixed_dictionaries({"total_steps": st.integers(30, 90)})),
    st.tuples(st.just("adjust_difficulty_sampling"), st.fixed_dictionaries({"strength": st.floats(0.0, 1.0)})),
    st.tuples(st.just("rollback_steps"), st.fixed_dictionaries({"num_steps": st.integers(1, 3)})),
    st.tuples(st.just("checkpoint"), st.just({})),
    st.tuples(st.just("undo"), st.fixed_dictionaries({"back": st.integers(0, 3)})),
)
SEQUENCES = st.lists(st.tuples(ACTS, st.integers(0, 2)), min_size=1, max_size=8)


def act(trainer: lumina.Trainer, method: str, args: dict[str, Any]) -> None:
    """One intervention or undo; a refusal is an answer, too."""
    try:
        if method != "undo":
            trainer.intervene(method, **args)
        elif args["back"] < len(applied(trainer)):
            wanted = applied(trainer)[-1 - args["back"]].id
            trainer._steering.acts.undo(str(wanted), {"name": "ada", "via": "script"}, id=lumina.store.layout.new_id())
    except lumina.Refusal as refusal:
        if refusal.code not in ("out_of_range", "bad_argument", "unsupported", "superseded", "not_found"):
            raise
        event(f"{method} refused: {refusal.code}")
    else:
        event(method)


def moments_are_kept(trainer: lumina.Trainer) -> None:
    """Every parameter has finite moments of its own shape, and has been updated as often as any other."""
    state = canonical(trainer)
    for name, parameter in state.params.items():
        for table in (state.exp_avg, state.exp_avg_sq):
            assert table[name].shape == parameter.shape
            assert bool(table[name].isfinite().all())
        assert bool((state.exp_avg_sq[name] > 0).any()), name
    assert len(set(state.adam_step.values())) == 1


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(SEQUENCES)
def test_any_sequence_of_interventions_trains_on_and_repeats_to_the_same_bits(
    sequence: list[tuple[tuple[str, dict[str, Any]], int]],
) -> None:
    folder = Path(tempfile.mkdtemp())
    trainer = small_trainer(folder)
    try:
        trainer.train(until=2)
        trainer.intervene("checkpoint")
        first = trainer._saver.saved
        for (method, args), steps in sequence:
            act(trainer, method, args)
            trainer.train(until=trainer.step + steps)
        trainer.train(until=trainer.step + 1)
        assert math.isfinite(trainer.get_current_metrics()["loss"])
        moments_are_kept(trainer)
        end, expected = trainer.step, bits(trainer)
    finally:
        trainer.close()
    for kept in trainer._session.paths.checkpoints.glob("checkpoint_step_*"):
        if kept != first:
            shutil.rmtree(kept)
    with lumina.Trainer.open(trainer._session.paths, resume="latest") as again:
        assert again.step == 2
        again.train(until=end)
        assert bits(again) == expected
    shutil.rmtree(folder)


def test_hypothesis_is_not_asked_to_prove_a_run_that_nobody_touches(tmp_path: Path) -> None:
    """The check itself: moments that were lost are noticed."""
    with small_trainer(tmp_path) as trainer:
        trainer.train(until=2)
        moments_are_kept(trainer)
        trainer._session.engine.optimizer.state.clear()
        with pytest.raises(AssertionError):
            moments_are_kept(trainer)
