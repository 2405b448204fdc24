"""A run that outlives who started it, refuses a second trainer, and loses nothing when its surroundings misbehave."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from short_runs import SMALL, begin, final_hash, kill, wait_for_step
from small import until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lumina
from lumina import launch, views
from lumina.client import Run
from lumina.store.lock import holder
from lumina.train.recorder import UNITS

STARTER = """
import json, sys, time
import lumina
lumina.start("debug", name="orphan", steps=100_000, directory=sys.argv[1], **json.loads(sys.argv[2]))
print("started", flush=True)
time.sleep(600)
"""


def end(run: Run) -> None:
    run.stop().wait(check=True)
    assert run.wait(60) == "stopped"


def test_the_trainer_outlives_who_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path), json.dumps(SMALL)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "started\n"
        os.kill(starter.pid, signal.SIGKILL)
    run = lumina.attach("orphan", tmp_path)
    wait_for_step(run, 5)
    before = run.status()["step"]
    wait_for_step(run, before + 5)
    end(run)


def test_a_second_trainer_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    run = begin(tmp_path, "taken", 100_000)
    first = holder(run.paths)
    assert first is not None
    with pytest.raises(lumina.Refusal, match=f"in use by.*{first.pid}"):
        launch.spawn(run.paths, resume="latest")
    second = subprocess.run(
        [sys.executable, "-m", "lumina.train.process", str(run.paths.root), "--resume", "latest"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert str(first.pid) in second.stderr
    wait_for_step(run, 2)
    end(run)


def test_a_malformed_command_is_put_away_and_told(tmp_path: Path) -> None:
    run = begin(tmp_path, "junk", 100_000)
    wait_for_step(run, 2)
    (run.paths.inbox / "junk.json").write_text('{"v": 1, "kind": "explode"')
    told = until(lambda: [event for event in run.events() if event["kind"] == "inbox"])
    assert "junk.json" in told[0]["message"]
    assert "not JSON" in told[0]["message"]
    assert (run.paths.quarantine / "junk.json").exists()
    wait_for_step(run, run.status()["step"] + 3)
    end(run)


def test_a_locked_database_stops_neither_steps_nor_decisions(tmp_path: Path) -> None:
    run = begin(tmp_path, "locked", 100_000)
    wait_for_step(run, 5)
    other = sqlite3.connect(run.paths.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    at = run.pause().wait(check=True)["step"]
    run.intervene("adjust_routing_temperature", temperature=1.7).wait(check=True)
    run.unpause().wait(check=True)
    time.sleep(3)
    later = run.intervene("emergency_lr_reduction", reduction_factor=2).wait(check=True)["step"]
    assert later > at, "steps went on while nobody could write to the database"
    other.execute("ROLLBACK")
    other.close()
    until(lambda: [mark["step"] for mark in views.marks(run.paths)] == [at, later])
    until(lambda: (run.status()["step"] or 0) > later)
    end(run)
    assert run.metrics()["step"].to_list() == list(range(1, run.status()["step"] + 1))


def test_a_stop_is_heeded_before_the_first_step(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(20_000)]
    chance = random.Random(0)
    text = tmp_path / "big.txt"
    text.write_text("\n\n".join(" ".join(chance.choices(words, k=400)) for _ in range(2_000)))
    run = lumina.start("debug", data=[text], name="early", steps=10, directory=tmp_path, **SMALL)
    until(lambda: "%" in (run.status()["phase"] or ""))
    receipt = run.stop().wait(check=True)
    assert (receipt["state"], receipt["after"]) == ("verified", {"state": "stopped"})
    assert run.wait(30) == "stopped"
    assert run.status()["step"] is None
    assert run.resume(steps=3).wait(120) == "finished"


def test_a_rewind_leaves_a_branch_behind(tmp_path: Path) -> None:
    run = begin(tmp_path, "rewound", 40)
    wait_for_step(run, 12)
    receipt = run.intervene("adjust_routing_temperature", temperature=2.0).wait(check=True)
    assert receipt["step"] >= 12
    assert run.wait(90) == "finished"
    abandoned = final_hash(run)
    run.resume(10)
    assert run.wait(90) == "finished"

    assert run.status()["step"] == 40
    assert views.marks(run.paths) == [], "the intervention lies on the branch that was left"
    assert run.metrics()["step"].to_list() == list(range(1, 41))
    every = run.metrics(["loss"], all_segments=True)
    assert every["segment"].n_unique() == 2
    assert len(every) == 40 + 30, "what happened after step 10 the first time is kept"
    assert any("rewound to step 10" in event["message"] for event in run.events())
    assert final_hash(run) != abandoned
    # The same as a run that never was steered.
    with lumina.Trainer("debug", name="plain", steps=40, directory=tmp_path, **SMALL) as plain:
        plain.train()
    assert final_hash(lumina.attach("plain", tmp_path)) == final_hash(run)


def test_every_series_has_a_unit_and_every_expected_one_is_recorded(tmp_path: Path) -> None:
    every = {**SMALL, "router_z_loss_weight": 0.001}
    with lumina.Trainer("debug", name="series", steps=20, directory=tmp_path, **every) as trainer:
        trainer.train()
    run = lumina.attach("series", tmp_path)
    recorded = set(run.metrics().columns) - {"step"}
    assert {name for name in recorded if ".layer" not in name} <= set(UNITS)
    only_cuda = {"memory_allocated", "memory_reserved"}
    assert set(UNITS) - recorded - only_cuda == set()

    events = EventAccumulator(str(run.paths.tensorboard))
    events.Reload()
    written = [scalar.value for scalar in events.Scalars("loss")]
    assert written == pytest.approx(run.metrics(["loss"])["loss"].to_list(), rel=1e-6)


def test_a_killed_trainer_is_found_crashed_and_resumes(tmp_path: Path) -> None:
    run = begin(tmp_path, "dead", 30)
    wait_for_step(run, 12)
    kill(run)
    assert run.status()["state"] == "crashed"
    assert run.resume().wait(90) == "finished"
    assert run.metrics()["step"].to_list() == list(range(1, 31))
