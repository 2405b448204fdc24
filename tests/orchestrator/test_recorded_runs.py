"""The detectors on recorded runs of the gym: what is broken is noticed in time, and what is healthy is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.gym import score
from lumina.gym.scenario import Scenario, load_scenarios
from lumina.gym.traces import Trace, load, replay

FOLDER = Path(__file__).parent / "recorded"
# Memory is not in a trace, and its clock is that of the machine that recorded it.
SCENARIOS = {s.name: s for s in load_scenarios() if s.name not in ("oom", "slow_loader")}
FAULTY = [name for name, s in SCENARIOS.items() if s.fault is not None]
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
    assert scenario.fault.at <= said[0] < scenario.fault.at + score.INTERVALS * 20


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_proposed_in_a_healthy_run(name):
    _, trace = recorded(name)
    assert [heard for heard in replay(trace) if heard.kind == "proposal"] == []


@pytest.mark.parametrize("name", FAULTY)
def test_nothing_is_proposed_before_anything_is_broken(name):
    scenario, trace = recorded(name)
    assert scenario.fault is not None
    assert [h for h in replay(trace) if h.kind == "proposal" and h.step < scenario.fault.at] == []
