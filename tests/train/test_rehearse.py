"""An intervention is tried out on a fork of a run: the same batches with and without it, and the run untouched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "interventions"))
from small_trainer import bits, small_trainer

import lumina
from lumina import children, views
from lumina.interventions import ACTIONS
from lumina.store import pins
from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths
from lumina.store.lock import RunLock
from lumina.store.writer import StoreWriter
from lumina.train import rehearse
from lumina.train.interrupts import Interrupts, StoppedEarly

ARGS: dict[str, dict[str, float]] = {
    "adjust_routing_temperature": {"temperature": 2.0},
    "adjust_capacity_factor": {"factor": 0.6},
    "enable_expert_dropout": {"dropout_prob": 0.4},
    "adjust_mod_capacity": {"capacity_factor": 0.9},
    "add_expert": {"layer_idx": 0},
    "prune_expert": {"layer_idx": 0, "expert_idx": 1},
    "adjust_batch_size": {"new_batch_size": 3},
    "adjust_weight_decay": {"weight_decay": 5.0},
    "emergency_lr_reduction": {"reduction_factor": 10.0},
    "adjust_learning_rate": {"factor": 3.0},
    "adjust_gradient_clip": {"max_norm": 0.05},
    "adjust_load_balancing_weight": {"weight": 2.0},
    "adjust_mod_schedule": {"warmup_steps": 0, "anneal_steps": 0, "target": 0.9},
}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A run of six steps."""
    with small_trainer(tmp_path_factory.mktemp("runs"), "parent") as trainer:
        trainer.train(until=6)
    return trainer._session.paths


def rehearsed(parent: RunPaths, method: str, args: dict[str, float], steps: int = 3) -> dict[str, Any]:
    child = children.create_rehearsal(parent, method, args, steps)
    rehearse.run(child, RunLock.acquire(child), StoreWriter(child), Interrupts())
    return views.rehearsal(child)


@pytest.mark.parametrize("method", [method for method in ACTIONS if children.can_be_rehearsed(method)])
def test_every_action_that_changes_the_model_can_be_rehearsed(parent: RunPaths, method: str) -> None:
    before = sorted(path.name for path in parent.checkpoints.glob("checkpoint_*"))
    found = rehearsed(parent, method, ARGS[method])
    assert (found["state"], found["error"]) == ("finished", None)
    assert found["loss"]["with"]["step"] == found["loss"]["without"]["step"] == [7, 8, 9]
    assert found["before"] != found["after"]
    assert found["difference"]["steps"] == 3
    if method != "adjust_batch_size":  # which changes nothing but the rounding
        assert abs(found["difference"]["mean"]) > 0
    assert found["val_loss"]["with"] is not None
    # The run itself: nothing written, nothing pinned.
    assert sorted(path.name for path in parent.checkpoints.glob("checkpoint_*")) == before
    assert pins.pinned(parent) == frozenset()
    assert views.marks(parent) == []


def test_without_the_change_it_is_the_run_itself(parent: RunPaths) -> None:
    found = rehearsed(parent, "adjust_routing_temperature", {"temperature": 2.0})
    with small_trainer(parent.root.parent, "same") as trainer:
        trainer.train(until=9)
        assert bits(trainer)
    goes_on = lumina.Run(trainer._session.paths).metrics(["loss"])
    assert found["loss"]["without"]["value"] == goes_on["loss"].to_list()[6:9]


def test_a_refused_change_says_why_and_leaves_nothing_running(parent: RunPaths) -> None:
    child = children.create_rehearsal(parent, "prune_expert", {"layer_idx": 0, "expert_idx": 77}, 3)
    with RunLock.acquire(child) as lock, pytest.raises(Refusal, match="no expert 77"):
        rehearse.run(child, lock, StoreWriter(child), Interrupts())
    changed = RunPaths(parent.root.parent / views.rehearsal(child)["children"][0])
    assert lumina.Run(changed).status()["state"] == "failed"
    assert "no expert 77" in lumina.Run(changed).status()["error"]


def test_a_rehearsal_that_is_stopped_ends(parent: RunPaths) -> None:
    child = children.create_rehearsal(parent, "adjust_weight_decay", {"weight_decay": 1.0}, 3)
    with RunLock.acquire(child) as lock, pytest.raises(StoppedEarly):
        rehearse.run(child, lock, StoreWriter(child), Interrupts(stop="SIGTERM"))


def test_what_makes_no_sense_is_refused_before_anything_is_made(parent: RunPaths) -> None:
    folders = sorted(parent.root.parent.iterdir())
    for method, args in (("rollback_steps", {"num_steps": 2}), ("skip_data_range", {"sequences": 4}), ("pause", {})):
        with pytest.raises(Refusal, match=f"{method} does not change what the same batches do"):
            children.create_rehearsal(parent, method, args)
    with pytest.raises(Refusal, match=r"temperature = 9 is outside 0\.1 to 5"):
        children.create_rehearsal(parent, "adjust_routing_temperature", {"temperature": 9})
    with pytest.raises(Refusal, match="at least one is needed"):
        children.create_rehearsal(parent, "adjust_weight_decay", {"weight_decay": 1}, 0)
    assert sorted(parent.root.parent.iterdir()) == folders


def test_one_at_a_time_and_only_the_newest_are_kept(parent: RunPaths) -> None:
    asked = ("adjust_weight_decay", {"weight_decay": 1.0})
    first = children.create_rehearsal(parent, *asked)
    with RunLock.acquire(first), pytest.raises(Refusal, match="one rehearsal of a run at a time"):
        children.create_rehearsal(parent, *asked)
    for _ in range(4):
        newest = children.create_rehearsal(parent, *asked)
    kept = [found["id"] for found in views.rehearsals(parent, limit=10)]
    assert len(kept) == children.REHEARSALS_KEPT
    assert kept[0] == newest.name.removesuffix(".without")
