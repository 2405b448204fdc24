"""A run killed at random and resumed, steered in between, is the run that was left alone; and so is its replay."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from short_runs import SMALL, begin, final_hash, kill, wait_for_step

import lumina
from lumina import views
from lumina.client import Run
from lumina.store.reader import StoreReader
from lumina.train.recorder import WALL_CLOCK

CHOOSE = random.Random(20)


def same_series(one: Run, other: Run) -> None:
    mine, theirs = one.metrics(), other.metrics()
    for frame in (mine, theirs):
        assert frame["step"].is_sorted()
        assert frame["step"].is_unique().all(), "no step twice on the current line"
    drop = sorted(WALL_CLOCK)
    mine, theirs = mine.drop(drop, strict=False), theirs.drop(drop, strict=False)
    assert sorted(mine.columns) == sorted(theirs.columns)
    assert mine.select(sorted(mine.columns)).equals(theirs.select(sorted(mine.columns)), null_equal=True)


def killed_at(run: Run, step: int) -> int:
    """Kills the trainer once it is beyond `step` and starts it again; returns the step that it had reached."""
    wait_for_step(run, step)
    kill(run)
    reached = int(run.status()["step"])
    run.resume()
    return reached


def replay(run: Run, *more: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "lumina.cli", "replay", str(run.paths.root), "--json", *more]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ran.stdout, ran.stderr
    return ran.returncode, json.loads(ran.stdout)


@pytest.mark.timeout(600)
def test_two_hundred_steps_with_five_kills_are_two_hundred_steps(tmp_path: Path) -> None:
    run = begin(tmp_path, "killed", 200)
    goals = sorted(CHOOSE.sample(range(12, 180), 5))
    reached = [killed_at(run, goal) for goal in goals]
    assert run.wait(180) == "finished"
    assert len(StoreReader(run.paths).segments()) == 6, f"five kills, at {reached}"
    assert run.metrics(["loss"])["step"].to_list() == list(range(1, 201)), "no gap and no double step"

    with lumina.Trainer("debug", name="straight", steps=200, directory=tmp_path, **SMALL) as straight:
        straight.train()
    peer = lumina.attach("straight", tmp_path)
    assert final_hash(run) == final_hash(peer)
    same_series(run, peer)


@pytest.mark.timeout(600)
def test_a_steered_run_that_is_killed_resumes_and_replays_to_the_same_bits(tmp_path: Path) -> None:
    run = begin(tmp_path, "killed", 80)
    wait_for_step(run, 6)
    early = run.pause().wait(check=True)["step"]
    run.intervene("adjust_routing_temperature", temperature=1.6).wait(check=True)
    run.intervene("adjust_batch_size", new_batch_size=1).wait(check=True)
    run.unpause().wait(check=True)
    killed_at(run, early + CHOOSE.randrange(1, 9))
    wait_for_step(run, early + 10)
    grown = run.intervene("add_expert", layer_idx=1).wait(check=True)["step"]
    killed_at(run, grown + CHOOSE.randrange(1, 9))
    wait_for_step(run, grown + 12)
    back = run.intervene("rollback_steps", num_steps=4).wait(check=True)
    killed_at(run, back["step"] + CHOOSE.randrange(1, 9))
    assert run.wait(180) == "finished"

    with lumina.Trainer("debug", name="straight", steps=80, directory=tmp_path, **SMALL) as straight:
        straight.train(until=early)
        straight.adjust_routing_temperature(1.6)
        straight.adjust_batch_size(1)
        straight.train(until=grown)
        straight.add_expert(1)
        straight.train(until=back["after"]["from_step"])
        straight.rollback_steps(4)
        assert straight.step == back["step"]
        straight.train()
    peer = lumina.attach("straight", tmp_path)
    assert final_hash(run) == final_hash(peer)
    same_series(run, peer)

    code, found = replay(run)
    assert (code, found["verdict"]) == (0, "equal"), found["checkpoints"]
    assert found["checkpoints"][-1]["hash"] == final_hash(run)
    assert found["checkpoints"][-1]["step"] == 80
    # Without the new expert the run takes another way, and says by how much.
    expert = next(mark for mark in views.marks(run.paths) if mark["method"] == "add_expert")
    code, other = replay(run, "--without", expert["id"])
    assert code == 0
    assert other["losses"]["loss"]["step"] == 80
    assert other["losses"]["loss"]["difference"] != 0
    assert [row["name"] for row in lumina.client.list_runs(tmp_path)] == [
        "killed", found["child"], other["child"], "straight",
    ]  # fmt: skip
