"""Every detector fires on its fault within two check intervals, and is silent on healthy runs of any shape."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from faulty import CURVES, LIVE, PER_STEP, Fault, course, watch, watched
from traces import HPARAMS, make

from lumina.orchestrator import Attempt, Orchestrator
from lumina.orchestrator.detectors.divergence import onset
from lumina.orchestrator.detectors.machine import steps_left
from lumina.orchestrator.detectors.progress import usual_rate
from lumina.orchestrator.detectors.view import beyond

AT, CHECK = 151, 20


def lasting(change: Fault, at: int = AT, until: int = 10**9) -> Fault:
    def fault(step, series, arrays):
        if at <= step < until:
            change(step, series, arrays)

    return fault


def add(name: str, amount: float) -> Fault:
    return lambda step, series, arrays: series.update({name: series[name] + amount})


def put(name: str, value: float) -> Fault:
    return lambda step, series, arrays: series.update({name: value})


def multiply(name: str, factor: float) -> Fault:
    return lambda step, series, arrays: series.update({name: series[name] * factor})


def load_of(expert: int, share: float) -> Fault:
    def change(step, series, arrays):
        load = np.full_like(arrays["expert_load"], (1 - share) / (arrays["expert_load"].shape[1] - 1))
        load[:, expert] = share
        arrays["expert_load"] = load

    return change


def memorised(step, series, arrays):
    series["loss"] -= 0.004 * (step - AT)
    if "val_loss" in series:
        series["val_loss"] += 0.02 * (step - AT)


def rising(step, series, arrays):
    series["loss"] += 0.05 * (step - AT)


FAULTS: dict[str, Fault] = {
    "non_finite": lasting(put("loss", math.nan), until=AT + 1),
    "gradient_spike": lasting(multiply("grad_norm", 1e5), until=AT + 1),
    "gradient_explosion": lasting(multiply("grad_norm", 100.0), until=AT + 5),
    "divergence": lasting(rising),
    "data_anomaly": lasting(add("loss", 3.0), until=AT + 100),
    "learning_rate_too_high": lasting(multiply("learning_rate", 30.0)),
    "learning_rate_too_low": lasting(multiply("learning_rate", 0.01)),
    "overfitting": lasting(memorised),
    "router_collapse": lasting(
        lambda s, series, a: series.update({f"moe.routing_entropy.layer{i}": 0.2 for i in (0, 1)})
    ),
    "expert_imbalance": lasting(load_of(3, 0.46)),
    "dead_expert": lasting(load_of(3, 0.0)),
    "tokens_dropped": lasting(put("moe.drop_fraction", 0.7)),
    "mod_over_skipping": lasting(put("mod.average_depth", 0.06)),
    "mod_capacity_drift": lasting(put("mod.capacity_utilization", 0.7)),
    "throughput": lasting(lambda s, series, a: series.update({"step_seconds": 0.3, "data.wait_seconds": 0.2})),
    "memory_pressure": lasting(put("memory_available", 0.2e9)),
    "oom_risk": lasting(lambda s, series, a: series.update({"memory_available": max(8e9 - 0.15e9 * (s - AT), 0.0)})),
}


def with_memory(**settings) -> Orchestrator:
    made = make(600, **settings)
    made.facts = replace(made.facts, memory_bytes=16e9, num_layers=2, sequences_per_step=PER_STEP, warmup_steps=20)
    return made


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cause", FAULTS)
def test_a_fault_is_named_within_two_check_intervals(cause, seed):
    said = watch(with_memory(), course(seed, 260, fault=FAULTS[cause]))
    found = said.first(cause)
    assert found is not None
    assert AT <= found < AT + 2 * CHECK


@pytest.mark.parametrize("tails", [0.0, 0.02])
@pytest.mark.parametrize("noise", [0.01, 0.05, 0.15])
@pytest.mark.parametrize("curve", CURVES)
def test_nothing_is_proposed_in_a_healthy_run_of_any_shape(curve, noise, tails):
    for seed in range(3):
        said = watch(with_memory(), course(100 + seed, 1000, curve, noise, tails))
        assert said.proposals == []
        assert said.causes() <= {"plateau", "convergence"}


REMEDIES = {
    "gradient_explosion": ["rollback_steps", "emergency_lr_reduction"],
    "divergence": ["rollback_steps", "emergency_lr_reduction"],
    "data_anomaly": ["rollback_steps", "skip_data_range"],
    "learning_rate_too_high": ["rollback_steps"],
    "learning_rate_too_low": ["adjust_learning_rate"],
    "expert_imbalance": ["adjust_load_balancing_weight"],
    "dead_expert": ["rollback_steps"],
    "router_collapse": ["rollback_steps"],
    "tokens_dropped": ["adjust_capacity_factor"],
    "mod_over_skipping": ["adjust_mod_capacity"],
    "overfitting": ["rollback_steps", "early_stop"],
    "memory_pressure": ["adjust_batch_size"],
}


@pytest.mark.parametrize("cause", REMEDIES)
def test_what_is_proposed_can_be_built_and_says_its_evidence(cause):
    from lumina.interventions import build

    said = watch(with_memory(), course(1, 260, fault=FAULTS[cause]))
    made = next(proposal for proposal in said.proposals if proposal.cause == cause)
    acts = [(made.method, made.args), *((act.method, act.args) for act in made.then)]
    assert [method for method, _ in acts] == REMEDIES[cause]
    for method, args in acts:
        build(method, args)
    assert made.confidence >= 0.75
    assert set(made.evidence) - {"calibration"} == {"summary", "numbers", "window", "threshold"}
    assert made.evidence["window"]["last_step"] == made.step


def test_an_emergency_does_not_wait_for_the_check():
    said = watch(with_memory(), course(0, 200, fault=FAULTS["learning_rate_too_high"]))
    (first, *_) = said.proposals
    assert (first.cause, first.step, first.emergency) == ("learning_rate_too_high", AT, True)
    assert first.args == {"num_steps": 1}


def test_an_expert_is_replaced_only_when_it_was_dead_at_two_checks_in_a_row():
    orchestrator, proposed = with_memory(), []
    start = 2 * CHECK + 1  # the windows are full by then; it was never alive in them, so there is nothing to go back to
    for step in course(0, 5 * CHECK, fault=lasting(load_of(3, 0.0), at=0)):
        if step[0] < start:
            step[2]["expert_load"] = np.full_like(step[2]["expert_load"], np.nan)
        orchestrator.observe(*step)
        if step[0] % CHECK == 0:
            said = orchestrator.check(step[0], LIVE, ())
            proposed += [(step[0], proposal.method) for proposal in said.proposals if proposal.cause == "dead_expert"]
    assert proposed == [(4 * CHECK, "prune_expert")]


def test_noise_in_the_data_is_left_out_from_where_it_began():
    said = watch(with_memory(), course(0, 200, fault=FAULTS["data_anomaly"]))
    anomaly = next(proposal for proposal in said.proposals if proposal.cause == "data_anomaly")
    assert anomaly == said.proposals[0]
    assert anomaly.step == AT + 2
    assert anomaly.then[0].args == {"first_sequence": (AT - 1) * PER_STEP, "sequences": 2 * CHECK * PER_STEP}
    assert anomaly.step - anomaly.args["num_steps"] < AT


@pytest.mark.parametrize("cause", ["data_anomaly", "gradient_explosion"])
@pytest.mark.parametrize("before", [1, 30])
def test_the_jump_of_an_intervention_is_no_emergency_and_no_fault_of_the_data(cause, before):
    orchestrator, urgent, later = with_memory(), [], []
    for step in course(0, AT + CHECK, fault=FAULTS[cause]):
        orchestrator.observe(*step)
        urgent += orchestrator.emergencies(step[0], LIVE) if orchestrator.urgent() else ()
        if step[0] == AT - before:
            orchestrator.applied(step[0], 0)
        if step[0] % CHECK == 0:
            later += orchestrator.check(step[0], LIVE, ()).proposals
    if before == 1:
        assert urgent == []
        assert {proposal.cause for proposal in later} <= {"divergence", "gradient_explosion"}
        assert not any(proposal.emergency for proposal in later)
    else:
        assert cause in {proposal.cause for proposal in urgent}


def test_what_was_left_out_before_stays_left_out_when_it_was_too_little():
    tried = Attempt("data_anomaly", AT + 2, "rollback_steps", True, True, position=(AT - 41) * PER_STEP)
    orchestrator, said = with_memory(), []
    for step in course(0, AT + 10, fault=FAULTS["data_anomaly"]):
        orchestrator.observe(*step)
        said += orchestrator.emergencies(step[0], LIVE, [tried]) if orchestrator.urgent() else ()
    first, sequences = said[0].then[0].args["first_sequence"], said[0].then[0].args["sequences"]
    assert {proposal.cause for proposal in said} == {"data_anomaly"}
    assert first == (AT - 41) * PER_STEP
    assert first + sequences == (AT - 1 + 2 * 2 * CHECK) * PER_STEP


def test_a_loss_that_leaps_is_not_called_divergence_before_its_data_can_be_told_apart():
    said = watch(with_memory(), course(0, 200, fault=FAULTS["data_anomaly"]))
    assert "divergence" not in {proposal.cause for proposal in said.proposals if proposal.step < AT + 10}


def test_sampling_that_lags_behind_a_falling_share_of_tokens_is_no_overfitting():
    def lagging(step, series, arrays):
        if "val_loss" in series:
            series["val_loss_topk"] = series["val_loss"]
            series["val_loss"] += 0.01 * max(step - AT, 0)

    assert "overfitting" not in watched(lagging).causes(0.0)


def test_a_rate_that_a_person_changed_is_what_was_decided():
    def slower(step, series, arrays):
        series["learning_rate"] *= 0.1
        series["lr_scale"] = 0.1

    assert "learning_rate_too_low" not in watched(lasting(slower)).causes(0.0)


def test_a_peak_that_clipping_took_care_of_is_told_and_not_acted_on():
    said = watched(FAULTS["gradient_spike"])
    assert said.proposals == []
    assert "gradient_spike" in said.causes()


def test_three_bad_batches_are_told_and_not_acted_on():
    said = watched(lasting(put("loss", math.nan), until=AT + 3))
    assert said.proposals == []
    assert "non_finite" in said.causes()


def test_ten_bad_batches_in_a_row_take_the_run_back():
    said = watched(lasting(put("loss", math.nan), until=AT + 30))
    assert (said.proposals[0].cause, said.proposals[0].step) == ("non_finite", AT + 9)
    assert said.proposals[0].args["num_steps"] >= 10


def test_a_run_that_never_begins_to_learn_gets_the_rate_of_its_size():
    def stuck(step, series, arrays):
        series["loss"] = 8.3 - 0.0005 * step + 0.01 * (step % 3)
        series["learning_rate"] *= 1e-2
        series["learning_rate.scheduled"] = series["learning_rate"]  # configured so, not changed by anybody

    said = watched(stuck, steps=100)
    (proposal,) = [p for p in said.proposals if p.cause == "stalled"]
    assert proposal.method == "adjust_learning_rate"
    assert proposal.args["factor"] == pytest.approx(usual_rate(500_000) / 1e-5, rel=0.05)
    assert proposal.step <= 2 * CHECK + 20


def test_a_loss_at_rest_is_a_plateau_first_and_converged_later():
    said = watch(make(total_steps=400), course(3, 400, "at rest", noise=0.003), {})
    seen = {step: finding.cause for step, finding in said.findings if finding.cause in ("plateau", "convergence")}
    assert {cause for step, cause in seen.items() if step <= 200} == {"plateau"}
    assert {cause for step, cause in seen.items() if step > 200} == {"convergence"}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda step: {"step_seconds": 0.3, "data.wait_seconds": 0.2}, "data"),
        (lambda step: {"checkpoint.stall_seconds": 1.0 if step % 5 == 0 else 0.0}, "storage"),
        (lambda step: {"step_seconds": 0.3}, "compute"),
        (lambda step: {"step_seconds": 0.3, "memory_reserved": 9e9, "memory_allocated": 4e9}, "memory fragmentation"),
    ],
)
def test_a_slowdown_names_the_likely_bottleneck(change, where):
    said = watched(lasting(lambda step, series, arrays: series.update(change(step))))
    slow = next(finding for _, finding in said.findings if finding.cause == "throughput")
    assert slow.evidence["numbers"]["bottleneck"] == where


def test_checkpoints_that_always_took_long_or_one_that_does_are_no_slowdown():
    always = watch(with_memory(), course(0, 260, fault=lambda step, series, arrays: series.update(
        {"checkpoint.stall_seconds": 1.0 if step % 5 == 0 else 0.0})))  # fmt: skip
    assert "throughput" not in always.causes()
    once = watched(lambda step, series, arrays: series.update({"checkpoint.stall_seconds": 9.0 * (step == AT)}))
    assert "throughput" not in once.causes()


def test_a_rate_that_strayed_before_the_windows_began_is_told_since_their_first_step():
    said = watched(lasting(multiply("learning_rate", 0.01)), steps=260)
    low = [finding.evidence for _, finding in said.findings if finding.cause == "learning_rate_too_low"]
    assert low[0]["numbers"]["since_step"] == AT
    assert low[-1]["numbers"]["since_step"] == low[-1]["window"]["first_step"] > AT


def test_a_slowdown_that_grows_from_check_to_check_points_to_heat():
    def warm(step, series, arrays):
        series["step_seconds"] *= 1 + max(0, step - AT) / 100

    said = watched(warm, steps=340)
    slow = [finding for _, finding in said.findings if finding.cause == "throughput"]
    assert slow[-1].evidence["numbers"]["bottleneck"] == "thermal"


def test_room_is_not_made_for_a_router_that_has_collapsed():
    def collapsed_from_the_start(step, series, arrays):
        series.update({f"moe.routing_entropy.layer{i}": 0.2 for i in (0, 1)} | {"moe.drop_fraction": 0.7})

    said = watch(with_memory(), course(0, 200, fault=collapsed_from_the_start))
    assert said.proposals
    assert {proposal.method for proposal in said.proposals} == {"adjust_routing_temperature"}


def test_experts_that_are_nearly_full_all_the_time_get_one_more():
    said = watched(hparams={"capacity_factor": 1.0})
    found = next(finding for _, finding in said.findings if finding.cause == "expert_overload")
    assert found.method == "add_expert"
    assert found.evidence["numbers"]["filled"] > 0.85
    assert "expert_overload" not in watched(hparams={"capacity_factor": 1.5}).causes(0.0)


def test_an_expert_that_was_dead_from_the_start_is_replaced():
    said = watched(load_of(3, 0.0))
    made = [(p.method, p.args, [(act.method, act.args) for act in p.then]) for p in said.proposals]
    assert made == [("prune_expert", {"layer_idx": 0, "expert_idx": 3}, [("add_expert", {"layer_idx": 0})])]


def test_confidence_is_half_at_the_limit_and_grows_towards_one():
    assert [beyond(value, 2.0) for value in (1.0, 2.0, 4.0, 20.0)] == [0.25, 0.5, 0.75, 0.95]
    assert beyond(math.nan, 2.0) == 0.0


def test_the_onset_of_a_rise_is_its_first_step_single_dips_aside():
    losses = np.array([1, 1, 5, 1, 1, 5, 1, 5, 5.0])
    assert onset(losses, 2.0) == 5


def test_memory_that_does_not_shrink_steadily_is_no_leak():
    steady = np.full(30, 8e9)
    assert steps_left(steady, 16e9) is None
    assert steps_left(steady - 1e8 * np.arange(30), 16e9) == pytest.approx(51, abs=1)


@pytest.mark.parametrize("cause", sorted(set(FAULTS) - {"throughput", "memory_pressure", "oom_risk"}))
def test_nothing_of_what_is_found_depends_on_the_clock(cause):
    one, other = with_memory(), with_memory()
    for step, series, arrays in course(2, 220, fault=FAULTS[cause]):
        one.observe(step, series, arrays)
        other.observe(step, {**series, "step_seconds": 0.1 * step, "memory_available": 1e9}, arrays)
        if step % CHECK == 0:
            one.check(step, {**HPARAMS, **LIVE}, [])
            other.check(step, {**HPARAMS, **LIVE}, [])
    assert one.state() == other.state()
