from __future__ import annotations

import math

import pytest
from traces import collapsed, feed, healthy, make, run, through_json


def test_a_restored_orchestrator_says_exactly_what_the_uninterrupted_one_says():
    for cut in (3, 40, 57, 133):
        steps = [*healthy(1, 60), *collapsed(2, 140, start=61)]
        whole, before = make(), make()
        expected = run(whole, iter(steps))
        said = run(before, iter(steps[:cut]))
        held = [p.to_json() for result in said for p in result.proposals]
        after = through_json(before)
        assert held == [] or cut > 60
        assert after.state() == before.state()
        assert [*said, *resume(after, steps[cut:], held)] == expected
        assert after.state() == whole.state()


def resume(orchestrator, steps, held):
    results = []
    for step in steps:
        orchestrator.observe(*step)
        if step[0] % 20 == 0:
            result = orchestrator.check(step[0], {"routing_temperature": 1.0, "learning_rate": 1e-3}, held)
            held = held + [p.to_json() for p in result.proposals]
            results.append(result)
    return results


def test_the_state_is_strict_json_also_after_non_finite_steps():
    orchestrator = make()
    feed(orchestrator, healthy(0, 30))
    orchestrator.observe(31, {"loss": math.nan, "grad_norm": math.inf}, {})
    assert through_json(orchestrator).state() == orchestrator.state()


def test_nothing_that_depends_on_the_clock_is_kept():
    one, other = make(), make()
    for step, series, arrays in healthy(0, 50):
        one.observe(step, {**series, "throughput": 1e4, "step_seconds": 0.1}, arrays)
        other.observe(step, {**series, "throughput": 2e4, "step_seconds": 0.2}, arrays)
    assert one.state() == other.state()


def test_a_state_of_another_model_is_refused():
    state = make().state()
    feed(longer := make(check_interval=100), healthy(0, 100))
    with pytest.raises(ValueError, match="100 steps"):
        make().restore(longer.state())
    with pytest.raises(ValueError, match="format 3"):
        make().restore({**state, "v": 3})
