from __future__ import annotations

import numpy as np
import pytest
from traces import HPARAMS, collapsed, feed, healthy, make, run, trace

from lumina.orchestrator.detectors.router_collapse import (
    HIGHEST_TEMPERATURE,
    TARGET,
    THRESHOLD,
    lead_for,
    led_entropy,
    temperature_for,
)


def proposals(results):
    return [proposal for result in results for proposal in result.proposals]


@pytest.mark.parametrize("seed", range(25))
def test_a_collapsed_router_is_proposed_a_softer_temperature_once(seed):
    made = proposals(run(make(), collapsed(seed, 200)))
    assert [p.method for p in made] == ["adjust_routing_temperature"]
    assert made[0].step == 40
    assert made[0].args["temperature"] == pytest.approx(2.3, abs=0.2)
    assert made[0].confidence > 0.9


@pytest.mark.parametrize("seed", range(40))
def test_healthy_and_specialising_routers_are_left_alone(seed):
    assert proposals(run(make(), healthy(seed))) == []


@pytest.mark.parametrize("entropy", [0.55, 0.6, 0.7])
def test_the_threshold_is_the_square_root_of_the_experts(entropy):
    assert proposals(run(make(), trace(0, 100, entropy=lambda _: entropy))) == []
    assert proposals(run(make(), trace(0, 100, entropy=lambda _: THRESHOLD - 0.1)))


def test_an_expert_that_every_token_picks_raises_the_threshold():
    assert proposals(run(make(), trace(0, 100, entropy=lambda _: 0.57, share=0.49)))
    assert not proposals(run(make(), trace(0, 100, entropy=lambda _: 0.57, share=0.3)))


def test_a_router_that_recovers_by_itself_is_left_alone():
    results = run(make(), trace(1, 60, entropy=lambda step: 0.1 + 0.01 * step))
    assert proposals(results) == []


def test_nothing_is_proposed_at_the_highest_temperature_but_health_still_says_it():
    results = run(make(), collapsed(0, 100), {**HPARAMS, "routing_temperature": HIGHEST_TEMPERATURE})
    assert proposals(results) == []
    assert [issue.code for issue in results[-1].health.issues] == ["router_collapse"]


def test_a_model_without_experts_has_no_router_to_collapse():
    series = {"loss": 2.0, "grad_norm": 1.0, "tokens": 10.0}
    assert proposals(run(make(), ((step, series, {}) for step in range(1, 100)))) == []


def test_the_evidence_says_what_was_measured():
    (proposal,) = proposals(run(make(), collapsed(3, 60)))
    evidence = proposal.evidence
    assert evidence["window"] == {"first_step": 11, "last_step": 40}
    assert evidence["threshold"] == 0.65  # dominated: 0.48 of the assignments at top-2 is 96 % of the tokens
    assert evidence["numbers"]["layers"][0]["busiest_expert"] == 3
    assert evidence["numbers"]["layers"][0]["busiest_share"] == pytest.approx(0.48, abs=1e-3)
    for words in ("layer 0", "0.25", "steps 11 to 40", "of 8 experts", "Expert 3 got 48%", "temperature of 2.2"):
        assert words in evidence["summary"]


def test_the_proposed_temperature_brings_a_biased_softmax_back_to_the_target():
    for lead in (3.0, 4.0, 6.0):
        logits = np.array([lead] + [0.0] * 7)
        entropy = entropy_of(logits)
        assert entropy == pytest.approx(led_entropy(lead, 8), abs=1e-12)
        assert lead_for(entropy, 8) == pytest.approx(lead, abs=1e-6)
        wanted = temperature_for(entropy, 8, 1.0)
        assert TARGET <= entropy_of(logits / wanted) < TARGET + 0.05


def test_the_temperature_never_leaves_the_range_that_the_intervention_allows():
    from lumina.interventions import catalogue

    (declared,) = catalogue()["adjust_routing_temperature"].args
    assert declared.le == HIGHEST_TEMPERATURE
    assert temperature_for(0.001, 8, 1.0) == HIGHEST_TEMPERATURE
    assert temperature_for(0.001, 8, HIGHEST_TEMPERATURE) is None


def entropy_of(logits: np.ndarray) -> float:
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return float(-(p * np.log(p)).sum() / np.log(len(p)))


def test_load_is_averaged_over_the_steps_since_the_last_check():
    orchestrator = make()
    feed(orchestrator, collapsed(0, 40))
    first = orchestrator.check(40, HPARAMS, []).proposals[0].evidence["numbers"]["layers"][0]
    assert (first["busiest_expert"], first["experts"]) == (3, 8)
