from __future__ import annotations

import pytest
from traces import collapsed, healthy, make, run

from lumina.orchestrator.assessment import area_of, assess
from lumina.orchestrator.health import Health, Issue

AREAS = {"loss", "gradients", "experts", "memory", "throughput", "convergence"}


def test_a_healthy_run_is_healthy_in_every_area_and_recommends_nothing():
    health = run(make(), healthy(0, 200))[-1].health
    assert {name: area["status"] for name, area in health.areas.items()} == dict.fromkeys(AREAS, "healthy")
    assert health.areas["loss"]["said"].startswith("falling")
    assert "convergence score" in health.areas["convergence"]["said"]
    assert health.recommendations == ()


def test_a_collapse_is_a_matter_of_the_experts_and_names_the_intervention_with_its_confidence():
    health = run(make(), collapsed(0, 100))[-1].health.to_json()
    assert health["areas"]["experts"]["status"] == "warning"
    assert "collapsed" in health["areas"]["experts"]["said"]
    assert health["areas"]["gradients"]["status"] == "healthy"
    (first,) = [one for one in health["recommendations"] if one["method"]]
    assert first["method"] == "adjust_routing_temperature"
    assert first["args"]["temperature"] > 1
    assert first["confidence"] > 0.9


def test_an_area_is_as_bad_as_its_worst_issue():
    issues = (Issue("gradient_spike", "warning", "high", 0.6), Issue("non_finite", "critical", "NaN", 1.0))
    areas = assess(Health("critical", issues), [], {"phase": "learning"}).areas
    assert areas["gradients"] == {"status": "critical", "said": "NaN"}


def test_a_run_that_should_end_is_told_so():
    course = {"recommendation": {"action": "stop", "why": "converged"}, "convergence_score": 91.0, "phase": "plateau"}
    (one,) = assess(Health("healthy", ()), [], course).recommendations
    assert one == {"method": None, "args": {}, "why": "stop: converged", "confidence": 0.91}


@pytest.mark.parametrize(
    ("code", "area"),
    [
        ("oom_risk", "memory"),
        ("throughput_degraded", "throughput"),
        ("gradient_explosion", "gradients"),
        ("dead_expert", "experts"),
        ("mod_over_skipping", "experts"),
        ("plateau", "convergence"),
        ("divergence", "loss"),
    ],
)
def test_every_issue_has_its_area(code, area):
    assert area_of(code) == area
