"""The detectors on recorded runs of the gym: what is broken is noticed in time, and what is healthy is left alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lumina.gym import score
from lumina.gym.scenario import Scenario, load_scenarios
from lumina.gym.traces import Trace, load, replay

FOLDER = Path(__file__).parent / "recorded"
CHECK = 20
SCENARIOS = {s.name: s for s in load_scenarios()}
# A step that does not fit is no detector's business, and the machine that recorded the slow loader was busy before it.
BY_THEMSELVES = ("oom", "slow_loader")
FAULTY = [name for name, s in SCENARIOS.items() if s.fault is not None and name not in BY_THEMSELVES]
HEALTHY = [name for name, s in SCENARIOS.items() if s.healthy]


def recorded(name: str) -> tuple[Scenario, Trace]:
    return SCENARIOS[name], load(FOLDER / f"{name}.npz")


def test_the_traces_are_of_the_scenarios_as_they_are_now():
    for scenario in SCENARIOS.values():
        about = load(FOLDER / f"{scenario.name}.npz").about
        assert (about["steps"], about["settings"]) == (scenario.short_steps, dict(scenario.settings)), scenario.name


@pytest.mark.parametrize("name", FAULTY)
def test_what_is_broken_is_noticed_within_two_check_intervals_and_not_before(name):
    scenario, trace = recorded(name)
    assert scenario.fault is not None
    said = [heard.step for heard in replay(trace) if heard.cause in scenario.expects]
    assert said
    assert scenario.fault.at <= said[0] < scenario.fault.at + score.INTERVALS * CHECK


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_proposed_in_a_healthy_run(name):
    _, trace = recorded(name)
    assert [heard for heard in replay(trace) if heard.kind == "proposal"] == []


@pytest.mark.parametrize("name", FAULTY)
def test_nothing_is_proposed_before_anything_is_broken(name):
    scenario, trace = recorded(name)
    assert scenario.fault is not None
    assert [h for h in replay(trace) if h.kind == "proposal" and h.step < scenario.fault.at] == []


def test_overfitting_is_noticed_within_two_check_intervals_of_the_lowest_validation_loss():
    scenario, trace = recorded("overfitting")
    losses = trace.series[:, trace.names.index("val_loss")]
    lowest = int(np.nanargmin(losses)) + 1
    said = [heard.step for heard in replay(trace) if heard.cause in scenario.expects]
    assert lowest < said[0] <= lowest + score.INTERVALS * CHECK


def test_a_loader_that_slows_down_is_named_as_the_bottleneck_and_not_before():
    scenario, trace = recorded("slow_loader")
    assert scenario.fault is not None
    slow = [heard for heard in replay(trace) if heard.cause in scenario.expects]
    said = [heard.step for heard in slow if heard.summary.endswith("the likely bottleneck is data.")]
    assert scenario.fault.at <= said[0] < scenario.fault.at + score.INTERVALS * CHECK


def test_a_step_that_the_trainer_cut_smaller_by_itself_leads_to_no_proposal():
    _, trace = recorded("oom")
    assert [heard for heard in replay(trace) if heard.kind == "proposal"] == []


def test_memory_that_a_recorded_run_loses_step_by_step_is_noticed_in_time():
    scenario, trace = recorded("oom")
    assert scenario.fault is not None
    at, free = scenario.fault.at, trace.names.index("memory_available")
    leaking = trace.series.copy()
    lost = 0.02 * trace.facts.memory_bytes * np.maximum(np.arange(len(leaking)) + 2 - at, 0)
    leaking[:, free] = np.maximum(leaking[:, free] - lost, 0)
    heard = replay(dataclasses.replace(trace, series=leaking))
    said = [one for one in heard if one.cause in ("memory_pressure", "oom_risk")]
    assert at <= said[0].step < at + score.INTERVALS * CHECK
    proposed = next(one for one in said if one.kind == "proposal")
    assert (proposed.method, proposed.step) == ("adjust_batch_size", at - 1 + score.INTERVALS * CHECK)
