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
PASSING = ("nan_batch", "poisoned_batch")  # a skipped step, a clipped one: nothing is left to be done
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


@pytest.mark.parametrize("name", [name for name in FAULTY if name not in PASSING])
def test_what_is_broken_for_good_gets_a_proposal_in_the_same_time(name):
    scenario, trace = recorded(name)
    assert scenario.fault is not None
    made = [heard.step for heard in replay(trace) if heard.kind == "proposal" and heard.cause in scenario.expects]
    assert scenario.fault.at <= made[0] < scenario.fault.at + score.INTERVALS * CHECK


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


def changed(trace: Trace, at: int, count: int, **factors: float) -> Trace:
    """The trace with figures multiplied in so many steps; `loss__` stands for `loss.`."""
    series = trace.series.copy()
    for name, factor in factors.items():
        series[at - 1 : at - 1 + count, trace.names.index(name.replace("__", "."))] *= factor
    return dataclasses.replace(trace, series=series)


def loaded(trace: Trace, at: int, share: float) -> Trace:
    """The trace with an expert that gets `share` of every layer's assignments from a step on."""
    load = trace.arrays["expert_load"].copy()
    load[at - 1 :] = (1 - share) / (load.shape[2] - 1)
    load[at - 1 :, :, 3] = share
    return dataclasses.replace(trace, arrays={**trace.arrays, "expert_load": load})


@pytest.mark.parametrize(
    ("name", "broken", "cause", "kind"),
    [
        ("healthy_base", lambda t: changed(t, 151, 5, grad_norm=100.0), "gradient_explosion", "proposal"),
        ("healthy_base", lambda t: changed(t, 151, 12, loss=np.nan), "non_finite", "proposal"),
        ("healthy_base", lambda t: loaded(t, 151, 0.47), "expert_imbalance", "proposal"),
        ("healthy_depth", lambda t: changed(t, 151, 100, mod__capacity_utilization=0.7), "mod_capacity_drift", "issue"),
        ("healthy_depth", lambda t: changed(t, 151, 100, mod__average_depth=0.2), "mod_over_skipping", "proposal"),
    ],
)
def test_a_healthy_recorded_run_with_one_figure_broken_is_noticed(name, broken, cause, kind):
    _, trace = recorded(name)
    heard = [one for one in replay(broken(trace)) if one.cause == cause and one.kind == kind]
    assert 151 <= heard[0].step < 151 + score.INTERVALS * CHECK
