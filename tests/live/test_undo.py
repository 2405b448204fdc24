"""What was done to a run can be taken back: a value going forward, or all steps since a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from short_runs import SMALL, begin, final_hash, kill, wait_for_step
from small import until

import lumina
from lumina import views
from lumina.client import Run


def paused_run(directory: Path, name: str, step: int = 12) -> Run:
    run = begin(directory, name, 60)
    wait_for_step(run, step)
    run.pause().wait(check=True)
    return run


def finish(run: Run) -> str:
    if run.status()["state"] == "paused":
        run.unpause().wait(check=True)
    assert run.wait(120) == "finished"
    assert run.metrics()["step"].to_list() == list(range(1, 61))
    return final_hash(run)


def mark_of(run: Run, receipt: str) -> None:
    until(lambda: any(mark["id"] == receipt for mark in views.marks(run.paths)))


def test_an_undone_value_is_the_old_one_again(tmp_path: Path) -> None:
    run = paused_run(tmp_path, "values")
    warm = run.intervene("adjust_routing_temperature", temperature=1.5).wait(check=True)
    slow = run.intervene("emergency_lr_reduction", reduction_factor=3).wait(check=True)
    undone = run.undo(slow["id"]).wait(check=True)
    assert undone["after"]["lr_scale"] == 1.0
    assert undone["after"]["learning_rate"] == slow["before"]["learning_rate"]
    assert run.undo(warm["id"]).wait(check=True)["after"] == {"routing_temperature": 1.0}
    assert "undone already" in run.undo(warm["id"]).wait()["reason"]
    finish(run)


def test_an_undo_beneath_a_later_change_is_refused(tmp_path: Path) -> None:
    run = paused_run(tmp_path, "beneath")
    first = run.intervene("adjust_routing_temperature", temperature=1.5).wait(check=True)
    run.intervene("adjust_routing_temperature", temperature=2.5).wait(check=True)
    refused = run.undo(first["id"]).wait()
    assert refused["code"] == "superseded"
    assert "a later change lies on top of it" in refused["reason"]
    until(lambda: run.status()["hparams"]["routing_temperature"] == 2.5)
    with pytest.raises(lumina.Refusal, match="no intervention"):
        run.undo("0" * 32)
    finish(run)


def test_a_killed_run_repeats_its_undo(tmp_path: Path) -> None:
    run = paused_run(tmp_path, "repeated", step=13)
    receipt = run.intervene("adjust_routing_temperature", temperature=1.5).wait(check=True)
    at = receipt["step"]
    run.unpause().wait(check=True)
    wait_for_step(run, at + 2)
    run.pause().wait(check=True)
    undone = run.undo(receipt["id"]).wait(check=True)
    run.unpause().wait(check=True)
    wait_for_step(run, undone["step"] + 2)
    kill(run)
    once = finish(run.resume())

    with lumina.Trainer("debug", name="peer", steps=60, directory=tmp_path, **SMALL) as peer:
        peer.train(until=at)
        peer.adjust_routing_temperature(1.5)
        peer.train(until=undone["step"])
        peer.adjust_routing_temperature(1.0)
        peer.train()
    # The routers' temperature and every weight; the orchestrator's memory of the undo is the same as of a change.
    assert final_hash(lumina.attach("peer", tmp_path)) == once


def test_a_rewind_takes_an_added_expert_back(tmp_path: Path) -> None:
    run = paused_run(tmp_path, "shape")
    grown = run.intervene("add_expert", layer_idx=0).wait(check=True)
    at = grown["step"]
    run.unpause().wait(check=True)
    wait_for_step(run, at + 4)
    receipt = run.undo(grown["id"], rewind=True).wait(check=True)
    assert receipt["step"] == at, "the checkpoint that was made before the change"
    assert receipt["after"]["interventions_left_behind"] == [f"add_expert at step {at}"]
    assert receipt["after"]["steps_left_behind"] >= 4
    # The same bits as a run that was never touched.
    left = finish(run)
    with lumina.Trainer("debug", name="plain", steps=60, directory=tmp_path, **SMALL) as plain:
        plain.train()
    assert final_hash(lumina.attach("plain", tmp_path)) == left
    assert views.marks(run.paths) == []
    assert any("rewound from step" in event["message"] for event in run.events())


def test_a_rollback_goes_back_far_enough_and_survives_a_kill(tmp_path: Path) -> None:
    run = paused_run(tmp_path, "back", step=25)
    refused = run.intervene("rollback_steps", num_steps=10_000).wait()
    assert "is at step" in refused["reason"]
    at = refused["step"]
    receipt = run.intervene("rollback_steps", num_steps=6).wait(check=True)
    assert receipt["step"] <= at - 6
    assert receipt["step"] % 10 == 0
    until(lambda: run.status()["step"] == receipt["step"])
    run.unpause().wait(check=True)
    wait_for_step(run, receipt["step"] + 3)
    kill(run)
    assert finish(run.resume()) == plain_hash(tmp_path)


def plain_hash(directory: Path) -> str:
    with lumina.Trainer("debug", name="untouched", steps=60, directory=directory, **SMALL) as plain:
        plain.train()
    return final_hash(lumina.attach("untouched", directory))
