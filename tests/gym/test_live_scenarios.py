"""A handful of faults in a live run that the orchestrator watches alone: noticed in time, and mended."""

from __future__ import annotations

from typing import Any

import pytest
from test_cells import SMALL

from lumina.gym.cell import run_cell
from lumina.gym.plan import Cell
from lumina.gym.scenario import Fault

STEPS, AT, INTERVAL = 120, 71, 10
# Base settings as in the gym; a larger batch than in the other tests, so that a step is no lottery.
WATCHED: dict[str, Any] = {
    **SMALL,
    "batch_size": 8,
    "save_every_n_batches": 10,
    "warmup_steps": 10,
    "learning_rate": 1e-2,
}


def ended(fault: Fault | None, method: str) -> dict[str, Any]:
    found = run_cell(Cell("live", WATCHED, STEPS, fault, method, 3))
    assert found["status"] == "finished"
    return found


@pytest.fixture(scope="module")
def healthy() -> dict[str, Any]:
    return ended(None, "auto")


def test_nothing_is_done_to_a_healthy_run(healthy):
    assert healthy["proposals"] == []
    assert healthy["final_val_loss"] == ended(None, "clip")["final_val_loss"]


@pytest.mark.parametrize(
    ("fault", "causes"),
    [
        (Fault("learning_rate", AT, 100.0), {"learning_rate_too_high", "divergence"}),
        (Fault("router_bias", AT, 8.0), {"router_collapse", "expert_imbalance"}),
        (Fault("noise", AT, 1.0, 30), {"data_anomaly", "divergence"}),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_a_fault_is_noticed_within_two_checks_and_most_of_its_damage_is_repaired(healthy, fault, causes):
    none, auto = ended(fault, "none"), ended(fault, "auto")
    steps = [told["step"] for told in auto["proposals"] if told["cause"] in causes]
    assert steps
    assert AT <= min(steps) < AT + 2 * INTERVAL
    damage = none["final_val_loss"] - healthy["final_val_loss"]
    assert damage > 0
    assert none["final_val_loss"] - auto["final_val_loss"] > 0.5 * damage
