"""Every intervention of the catalogue on one background run: receipt, place in the status, and the step after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from short_runs import begin, wait_for_step
from small import until

import lumina
from lumina.interventions import ACTIONS

# method, arguments, values before, values after
SENT: list[tuple[str, dict[str, float], dict[str, Any], dict[str, Any]]] = [
    ("adjust_routing_temperature", {"temperature": 1.5}, {"routing_temperature": 1.0}, {"routing_temperature": 1.5}),
    ("adjust_capacity_factor", {"factor": 0.8}, {"capacity_factor": 1.25}, {"capacity_factor": 0.8}),
    ("enable_expert_dropout", {"dropout_prob": 0.1}, {"expert_dropout": 0.0}, {"expert_dropout": 0.1}),
    ("adjust_mod_capacity", {"capacity_factor": 0.7}, {"mod_capacity_factor": 0.5}, {"mod_capacity_factor": 0.7}),
    (
        "adjust_load_balancing_weight",
        {"weight": 0.05},
        {"load_balancing_weight": 0.01},
        {"load_balancing_weight": 0.05},
    ),
    (
        "adjust_mod_schedule",
        {"warmup_steps": 5, "anneal_steps": 10, "target": 0.6},
        {"mod_warmup_steps": 0, "mod_anneal_steps": 0, "mod_capacity_factor": 0.7},
        {"mod_warmup_steps": 5, "mod_anneal_steps": 10, "mod_capacity_factor": 0.6},
    ),
    ("add_expert", {"layer_idx": 1}, {"num_experts": 8, "capacity_factor": 0.8}, {"num_experts": 9}),
    (
        "prune_expert",
        {"layer_idx": 0, "expert_idx": 2},
        {"num_experts": 8, "pruned_experts": []},
        {"num_experts": 7, "pruned_experts": [2]},
    ),
    (
        "adjust_batch_size",
        {"new_batch_size": 1},
        {"batch_size": 2, "gradient_accumulation_steps": 1},
        {"batch_size": 1, "gradient_accumulation_steps": 2},
    ),
    ("adjust_weight_decay", {"weight_decay": 0.05}, {"weight_decay": 0.01}, {"weight_decay": 0.05}),
    ("emergency_lr_reduction", {"reduction_factor": 4}, {"lr_scale": 1.0}, {"lr_scale": 0.25}),
    ("adjust_learning_rate", {"factor": 2}, {"lr_scale": 0.25}, {"lr_scale": 0.5}),
    ("adjust_gradient_clip", {"max_norm": 0.5}, {"gradient_clip_val": 1.0}, {"gradient_clip_val": 0.5}),
    (
        "skip_data_range",
        {"first_sequence": 900_000, "sequences": 8},
        {"skipped": []},
        {"skipped": [[900_000, 900_008]]},
    ),
    ("adjust_difficulty_sampling", {"strength": 0.2}, {"difficulty_sampling": 0.4}, {"difficulty_sampling": 0.2}),
    (
        "adjust_training_length",
        {"total_steps": 90_000},
        {"total_steps": 100_000},
        {"total_steps": 90_000},
    ),
    ("checkpoint", {}, {}, {}),
    ("set_autonomy", {"level": 2}, {"autonomy": "ask"}, {"autonomy": "auto"}),
]
ELSEWHERE = {"rollback_steps", "pause", "early_stop"}  # test_undo.py, and at the end

UNSHOWN = {"add_expert", "prune_expert", "skip_data_range", "checkpoint", "set_autonomy"}


def test_every_intervention_leaves_a_receipt_and_the_run_goes_on(tmp_path: Path) -> None:
    assert {method for method, *_ in SENT} | ELSEWHERE == set(ACTIONS)
    run = begin(tmp_path, "all", 100_000, **{"data.difficulty_sampling": 0.4})
    wait_for_step(run, 3)
    for method, args, before, after in SENT:
        receipt = run.intervene(method, **args).wait(check=True)
        assert (receipt["state"], receipt["method"]) == ("verified", method)
        # The learning rate moves with the steps; what the receipt is about does not.
        assert {name: receipt["before"][name] for name in before} == before
        assert {name: receipt["after"][name] for name in after} == after
        wait_for_step(run, receipt["step"] + 2)
        live = run.status()["hparams"]
        shown = {name: value for name, value in after.items() if name in live}
        assert {name: live[name] for name in shown} == shown
        assert shown or method in UNSHOWN
    until(lambda: run.status()["layers"]["experts"] == {"0": 7, "1": 9})
    refused = run.intervene("adjust_batch_size", new_batch_size=3).wait()
    assert (refused["state"], refused["code"]) == ("refused", "out_of_range")
    assert "does not divide the 2 sequences of a step; use one of 1, 2" in refused["reason"]
    with pytest.raises(lumina.Refusal, match="weight_decay = -1 is outside 0 or more"):
        run.intervene("adjust_weight_decay", weight_decay=-1)
    wait_for_step(run, refused["step"] + 2)
    assert run.status()["autonomy"] == "auto"
    assert run.intervene("pause").wait(check=True)["after"] == {"paused": True}
    until(lambda: run.status()["state"] == "paused")
    run.unpause().wait(check=True)
    ended = run.intervene("early_stop").wait(check=True)
    assert "early stop" in ended["after"]["stopping"]
    assert run.wait(60) == "stopped"
    assert run.status()["step"] == ended["step"]
