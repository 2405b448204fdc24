"""One real background trainer: watched, paused, steered, killed and resumed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from short_runs import SMALL, begin, final_hash, kill, wait_for_step

import lumina
import lumina.views
from lumina.train.recorder import WALL_CLOCK

CHANGES: list[tuple[str, dict[str, float]]] = [
    ("adjust_routing_temperature", {"temperature": 1.5}),
    ("adjust_capacity_factor", {"factor": 0.9}),
    ("adjust_batch_size", {"new_batch_size": 1}),
    ("enable_expert_dropout", {"dropout_prob": 0.2}),
    ("prune_expert", {"layer_idx": 0, "expert_idx": 3}),
    ("adjust_mod_capacity", {"capacity_factor": 0.75}),
    ("adjust_weight_decay", {"weight_decay": 0.1}),
    ("emergency_lr_reduction", {"reduction_factor": 2.0}),
]


def test_a_killed_run_resumes_bit_equal_with_its_interventions(tmp_path: Path) -> None:
    killed = begin(tmp_path, "killed", 40)
    wait_for_step(killed, 4)
    at = killed.pause().wait(check=True)["step"]
    for method, args in CHANGES:
        assert killed.intervene(method, **args).wait(check=True)["step"] == at
    killed.unpause().wait(check=True)
    wait_for_step(killed, at + 3)
    kill(killed)
    once = killed.resume()
    assert once.wait(90) == "finished"

    # The same run without the kill: the same interventions after the same step.
    with lumina.Trainer("debug", name="straight", steps=40, directory=tmp_path, **SMALL) as straight:
        straight.train(until=at)
        for method, args in CHANGES:
            getattr(straight, method)(**args)
        straight.train()
    peer = lumina.attach("straight", tmp_path)
    assert final_hash(once) == final_hash(peer)
    drop = [name for name in once.metrics().columns if name in WALL_CLOCK]
    mine, theirs = (run.metrics().drop(drop, strict=False) for run in (once, peer))
    assert mine.select(sorted(mine.columns)).equals(theirs.select(sorted(theirs.columns)), null_equal=True)
    assert mine["step"].to_list() == list(range(1, 41))
    assert [mark["step"] for mark in lumina.views.marks(once.paths)] == [at] * len(CHANGES)


def test_a_collapsed_router_is_proposed_and_recovers_after_approval(tmp_path: Path) -> None:
    run = begin(tmp_path, "collapse", 4000, **{"moe.router_init_bias": 6.0, "moe.load_balancing_weight": 0.0})
    deadline = time.monotonic() + 120
    while not run.proposals():
        assert time.monotonic() < deadline, run.status()
        time.sleep(0.1)
    proposal = run.proposals()[0]
    assert proposal["method"] == "adjust_routing_temperature"
    assert proposal["confidence"] >= 0.75
    before = run.status()["moe"]["routing_entropy"]
    receipt = run.approve(proposal["id"]).wait(check=True)
    assert receipt["after"]["routing_temperature"] == proposal["args"]["temperature"]
    wait_for_step(run, receipt["step"] + 5)
    assert run.status()["moe"]["routing_entropy"] > before + 0.3
    assert run.stop().wait(check=True)["after"] == {"state": "stopping"}
    assert run.wait(60) == "stopped"
    with pytest.raises(lumina.Refusal, match="nothing reads its commands"):
        run.pause()


def test_an_added_expert_takes_tokens(tmp_path: Path) -> None:
    with lumina.Trainer("debug", name="grow", steps=40, directory=tmp_path, **SMALL) as trainer:
        trainer.train(until=5)
        trainer.add_expert(0)
        share = []
        for step in range(26, 36):  # of a hundred tokens some steps send it none
            trainer.train(until=step)
            share.append(trainer.get_expert_statistics()["per_expert_utilization"][0][8])
        assert sum(share) / len(share) > 0.03, share
        trainer.train()
    assert lumina.attach("grow", tmp_path).status()["layers"]["experts"] == {"0": 9, "1": 8}


def test_the_rate_is_divided(tmp_path: Path) -> None:
    with lumina.Trainer("debug", name="rate", steps=4, directory=tmp_path, lr_schedule="constant", **SMALL) as trainer:
        trainer.train(until=3)
        rate = trainer.get_current_metrics()["learning_rate"]
        trainer.emergency_lr_reduction(10)
        trainer.train()
        assert trainer.get_current_metrics()["learning_rate"] == pytest.approx(rate / 10)


def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(lumina.Refusal) as refused:
        begin(tmp_path, "here", 10)
    assert refused.value.code == "name_taken"
