"""What the course of a run speaks for: go on, adjust or stop; epochs, curriculum, checkpoints. A scenario for each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from traces import TOKENS

from lumina.accounting import EpochAdvice, count_parameters, token_budget
from lumina.config import load_config
from lumina.orchestrator.chinchilla import Chinchilla
from lumina.orchestrator.types import RunFacts

NOISE = np.random.default_rng(0).normal(0, 0.01, 5000)
EPOCH = 50  # steps


def facts(total_steps: int = 1000, **more: Any) -> RunFacts:
    config = load_config("debug", {})
    budget = token_budget(config, count_parameters(config))
    epochs = EpochAdvice(20, 20.0, 0.05, budget.tokens_optimal)
    return RunFacts((), (), 8, 2, 10**6, 5 * 10**5, 6e6, budget, total_steps, tokens_per_epoch=float(EPOCH * TOKENS),
                    epochs=epochs, **more)  # fmt: skip


def run(loss: Callable[[int], float], steps: int, *, val: Callable[[int], float] | None = None, total: int = 1000,
        **settings: Any) -> Chinchilla:  # fmt: skip
    """Shown `steps` steps of a loss, and a validation after each epoch."""
    progress = Chinchilla(load_config("debug", {"warmup_steps": 20, **settings}), facts(total))
    shown(progress, loss, range(1, steps + 1), val)
    return progress


def shown(progress: Chinchilla, loss: Any, steps: range, val: Any = None) -> None:
    for step in steps:
        series = {"loss": loss(step) + NOISE[step], "tokens": float(step * TOKENS), "learning_rate": 1e-3}
        if step % EPOCH == 0:
            series["val_loss"] = (val or loss)(step)
        progress.observe(step, series)


def falling(step: int) -> float:
    return 2.0 + 3.0 * step**-0.4


def settled(step: int) -> float:
    return 2.0 + 3.0 * math.exp(-step / 30)


def flat(step: int) -> float:
    return 3.0 + 0.8 * math.sin(step)  # neither falls nor settles


def test_a_run_that_learns_goes_on():
    told = run(falling, 400).check()
    assert told["phase"] in ("learning", "convergence")
    assert told["recommendation"]["action"] == "continue"
    assert "should end between" in told["recommendation"]["why"]
    assert told["landscape"]["trend"] == "falling"


def test_before_the_end_of_the_warm_up_nothing_is_told():
    told = run(falling, 15).check()
    assert (told["phase"], told["recommendation"]) == ("warming", {"action": "continue", "why": "too early to tell"})
    assert told["predicted_final_loss"] is None


def test_a_diverging_run_asks_for_an_adjustment():
    told = run(lambda step: 2.0 + 0.002 * step, 400).check()
    assert told["landscape"]["diverging"]
    assert told["landscape"]["trend"] == "rising"
    assert told["recommendation"]["action"] == "adjust"


def test_a_plateau_that_does_not_settle_asks_for_an_adjustment():
    told = run(flat, 400, val=lambda _: 3.0).check()
    assert told["phase"] == "plateau"
    assert told["recommendation"]["action"] == "adjust"
    assert "lower the learning rate" in told["recommendation"]["why"]


def test_diminishing_returns_are_noticed_while_there_is_something_to_save():
    told = run(lambda step: 2.0 + 3.0 * math.exp(-step / 80), 600).check()
    assert told["diminishing_returns"] is True
    assert told["efficiency_trend"] < 0.5
    assert told["recommendation"]["action"] in ("adjust", "stop")
    assert run(falling, 400).check()["diminishing_returns"] is False


def test_a_converged_run_is_told_to_stop_and_ends_only_if_it_asked_for_that():
    asked = run(settled, 600, enable_early_stopping=True, early_stopping_patience=3)
    told = asked.check()
    assert told["recommendation"]["action"] == "stop"
    assert told["convergence_score"] > 85
    assert told["epochs_without_improvement"] >= 3
    assert asked.ended is not None
    assert "early_stopping_patience 3" in asked.ended
    other = run(settled, 600, early_stopping_patience=3)
    assert other.check()["recommendation"] == told["recommendation"]
    assert other.ended is None


@pytest.mark.parametrize(("patience", "ends"), [(2, True), (20, False)])
def test_patience_is_counted_in_epochs(patience, ends):
    asked = run(settled, 600, enable_early_stopping=True, early_stopping_patience=patience)
    asked.check()
    assert (asked.ended is not None) is ends


def test_a_run_whose_validation_still_improves_does_not_end():
    asked = run(settled, 600, val=lambda step: 3 - 0.001 * step, enable_early_stopping=True)
    asked.check()
    assert asked.ended is None


def test_a_run_that_ended_early_and_is_extended_has_its_patience_anew():
    asked = run(settled, 600, enable_early_stopping=True, early_stopping_patience=3)
    asked.check()
    again = Chinchilla(
        load_config("debug", {"enable_early_stopping": True, "early_stopping_patience": 3}), facts(extended=True)
    )
    again.restore(json.loads(json.dumps(asked.state())))
    shown(again, settled, range(601, 700))
    again.check()
    assert again.ended is None
    shown(again, settled, range(700, 800))
    again.check()
    assert again.ended is not None


def test_epochs_are_cut_where_the_rest_gives_nothing_and_doubled_where_it_would():
    enough = run(lambda step: 2.0 + 3.0 * (step / 10) ** -2.0, 500, total=2000).check()["epochs_advice"]
    assert enough["epochs"] < enough["planned"]
    assert "comes within" in enough["why"]
    more = run(lambda step: 6.0 * step**-0.2, 500).check()["epochs_advice"]
    assert more["exact"] == pytest.approx(2 * more["planned"])
    limited = run(lambda step: 6.0 * step**-0.2, 500, max_auto_epochs=30).check()["epochs_advice"]
    assert limited["epochs"] == 30


def test_the_curriculum_follows_the_phase():
    difficulties = [run(falling, steps).check()["curriculum"]["difficulty"] for steps in (15, 100, 200)]
    assert difficulties == sorted(difficulties)
    assert difficulties[0] == 0.3
    assert run(settled, 600).check()["curriculum"] == {
        "difficulty": 1.0,
        "learning_rate": "lower the learning rate, or stop",
    }


def test_checkpoints_are_worth_most_while_the_validation_improves():
    assert run(falling, 400).check()["checkpoint"] == {
        "priority": "high", "best_step": 400, "why": "the newest validation is the best so far", "extra": True
    }  # fmt: skip
    late = run(flat, 600, val=lambda step: 3.0 if step > 100 else 2.5).check()["checkpoint"]
    assert (late["priority"], late["best_step"], late["extra"]) == ("low", 50, False)
    alone = run(flat, 600, val=lambda step: 3.0 if step > 100 else 2.5, use_adaptive_training=False)
    assert (alone.priority().priority, alone.priority().extra) == ("low", True)


def test_the_budget_tells_coverage_and_epochs_on_both_bases():
    told = run(falling, 100).check()
    assert told["epochs"] == {"epochs": 20, "exact": 20.0, "coverage": 0.05, "tokens_optimal": told["tokens_optimal"]}
    assert (told["basis"], told["other_basis"]) == ("total", "active")
    assert told["tokens_optimal_other"] < told["tokens_optimal"]


def test_the_fit_is_made_anew_only_when_the_run_is_longer_by_a_twentieth():
    progress = run(falling, 400)
    first = progress.check()["predicted_final_loss"]
    shown(progress, falling, range(401, 410))
    assert progress.check()["predicted_final_loss"] == first
    shown(progress, falling, range(410, 440))
    assert progress.check()["predicted_final_loss"] != first


def test_a_restored_progress_says_exactly_what_the_uninterrupted_one_says():
    whole, before = run(falling, 300), run(falling, 300)
    assert whole.check() == before.check()
    after = Chinchilla(load_config("debug", {"warmup_steps": 20}), facts())
    after.restore(json.loads(json.dumps(before.state(), allow_nan=False)))
    for progress in (whole, after):
        shown(progress, falling, range(301, 500))
    assert after.check() == whole.check()
    assert after.state() == whole.state()
