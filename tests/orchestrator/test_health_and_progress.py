from __future__ import annotations

import math

import numpy as np
import pytest
from traces import HPARAMS, TOKENS, collapsed, feed, healthy, make, run


def examine(change, steps=60):
    orchestrator = make()
    for step, series, arrays in healthy(0, steps):
        change(step, series)
        orchestrator.observe(step, series, arrays)
    return orchestrator.check(steps, HPARAMS, []).health


def codes(health):
    return [(issue.code, issue.severity) for issue in health.issues]


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_is_called_healthy_at_every_check(seed):
    assert {result.health.status for result in run(make(), healthy(seed))} == {"healthy"}


def test_a_gradient_spike_is_named_with_its_step():
    def spike(step, series):
        if step == 52:
            series["grad_norm"] = 30.0

    health = examine(spike)
    assert codes(health) == [("gradient_spike", "warning")]
    assert "30" in health.issues[0].message
    assert "step 52" in health.issues[0].message


@pytest.mark.parametrize(("skipped", "severity"), [(1, "warning"), (6, "critical")])
def test_skipped_steps_are_counted_since_the_last_check(skipped, severity):
    def skip(step, series):
        if step > 60 - skipped:
            series["loss"] = math.nan

    health = examine(skip)
    assert codes(health) == [("non_finite", severity)]
    assert health.issues[0].message.startswith(f"{skipped} of the last 60 steps")


@pytest.mark.parametrize(("slope", "severity"), [(0.01, "warning"), (0.1, "critical")])
def test_a_rising_loss_is_noticed(slope, severity):
    def rise(step, series):
        series["loss"] = 3.0 + slope * step + 0.01 * (step % 3)

    assert codes(examine(rise)) == [("loss_rising", severity)]


def test_dropped_tokens_are_noticed():
    assert codes(examine(lambda _, series: series.update({"moe.drop_fraction": 0.4}))) == [
        ("tokens_dropped", "warning")
    ]


def test_a_collapse_counts_for_health_whatever_becomes_of_the_proposal():
    results = run(make(), collapsed(0, 100))
    assert codes(results[-1].health) == [("router_collapse", "warning")]
    assert results[-1].health.to_json()["issues"][0]["confidence"] > 0.9


def report(loss, steps=600, total=1000, **settings):
    orchestrator = make(total_steps=total, **settings)
    for step in range(1, steps + 1):
        orchestrator.observe(step, {"loss": loss(step), "grad_norm": 1.0, "tokens": float(step * TOKENS)}, {})
    return orchestrator.check(steps, HPARAMS, []).chinchilla


def test_the_budget_counts_the_tokens_that_were_seen():
    figures = report(lambda _: 4.0, steps=100)
    assert figures["tokens_seen"] == 100 * TOKENS
    assert figures["progress"] == figures["tokens_seen"] / figures["tokens_optimal"]
    assert figures["basis"] == "total"
    assert figures["other_basis"] == "active"


def test_the_phase_follows_the_loss():
    noise = np.random.default_rng(0).normal(0, 0.02, 2000)
    assert report(lambda step: 8 - 0.01 * step, steps=15)["phase"] == "warming"
    assert report(lambda step: 8 * step**-0.3 + noise[step])["phase"] == "learning"
    assert report(lambda step: 3 + math.exp(-step / 150) + noise[step])["phase"] == "convergence"
    assert report(lambda step: 3 + noise[step])["phase"] == "plateau"


def test_the_convergence_score_grows_as_the_loss_settles():
    scores = [report(lambda step, t=t: 3 + 3 * math.exp(-step / t))["convergence_score"] for t in (600, 200, 100, 20)]
    assert scores == sorted(scores)
    assert 0 <= scores[0] < 20
    assert 95 < scores[-1] <= 100


def test_a_diverging_loss_does_not_converge():
    assert report(lambda step: 3 + 0.01 * step)["convergence_score"] < 5


def test_compute_efficiency_is_nats_per_operation():
    efficiency = report(lambda step: 9 - 0.001 * step)["compute_efficiency"]
    assert efficiency == pytest.approx(0.001 / (TOKENS * 6e6), rel=1e-9)


def test_the_final_loss_is_predicted_from_the_power_law_that_the_loss_follows():
    noise = np.random.default_rng(0).normal(0, 0.02, 2000)
    figures = report(lambda step: 2.0 + 3 * step**-0.5 + noise[step], steps=300, total=1000, lr_schedule="constant")
    end = 2.0 + 3 * 1000**-0.5
    assert figures["predicted_final_loss"] == pytest.approx(end, rel=0.03)
    assert figures["predicted_low"] < end < figures["predicted_high"]
    assert set(figures["fit"]) == {"E", "A", "alpha"}


def test_no_final_loss_is_predicted_before_there_is_a_curve():
    assert report(lambda step: 8 - 0.01 * step, steps=10)["predicted_final_loss"] is None


def test_a_flat_loss_is_predicted_to_stay_where_it_is():
    figures = report(lambda step: 3.0, lr_schedule="constant")
    assert figures["predicted_low"] < 3.0 < figures["predicted_high"]
    assert figures["predicted_final_loss"] == pytest.approx(3.0, rel=0.03)


def test_a_long_run_is_kept_in_few_points():
    orchestrator = make(total_steps=10_000)
    feed(orchestrator, healthy(0, 3000))
    assert 32 <= len(orchestrator.state()["chinchilla"]["points"]) <= 128
