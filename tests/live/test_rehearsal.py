"""A rehearsal beside a live run: it pauses the run where it must, and the run goes on however the rehearsal ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from short_runs import begin, wait_for_step
from small import until

from lumina import views
from lumina.client import Run
from lumina.store.lock import holder, is_locked
from lumina.store.reader import StoreReader

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    live = begin(tmp_path_factory.mktemp("runs"), "main", 100_000, num_threads=2)
    wait_for_step(live, 12)
    yield live
    live.stop().wait(check=True)
    live.wait(60)


def goes_on(run: Run) -> None:
    until(lambda: run.status()["state"] == "running")
    wait_for_step(run, run.status()["step"] + 3)


def test_the_command_line_rehearses_and_says_how_to_apply(run: Run) -> None:
    command = [sys.executable, "-m", "lumina.cli", "rehearse", str(run.paths.root), "adjust_routing_temperature",
               "temperature=3", "--steps", "8", "--pause", "--json"]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    first = found["from_step"] + 1
    assert found["loss"]["with"]["step"] == found["loss"]["without"]["step"] == list(range(first, first + 8))
    assert found["after"] == {"routing_temperature": 3.0}
    assert found["difference"]["low"] < found["difference"]["mean"] < found["difference"]["high"]
    assert found["paused"] is True
    assert found["next"].startswith("lumina intervene main adjust_routing_temperature temperature=3.0")
    goes_on(run)
    assert run.status()["hparams"]["routing_temperature"] == 1.0, "nothing of the run is changed"
    assert any("has ended; the run goes on" in event["message"] for event in run.events(limit=300))
    # Those very steps, on those very batches: what the run itself then did.
    wait_for_step(run, first + 8)
    frame = run.metrics(["loss"])
    then = frame.filter(frame["step"].is_between(first, first + 7))
    assert then["loss"].to_list() == found["loss"]["without"]["value"]


def test_a_killed_rehearsal_leaves_a_running_run(run: Run) -> None:
    rehearsal = run.rehearse("add_expert", layer_idx=0, steps=5000, pause=True)
    until(lambda: run.status()["state"] == "paused")
    until(lambda: rehearsal.status()["done"] > 2)
    info = holder(rehearsal.paths)
    assert info is not None
    os.kill(info.pid, signal.SIGKILL)
    goes_on(run)
    assert rehearsal.wait(5)["state"] == "crashed"


def test_a_stopped_rehearsal_leaves_a_run_that_a_person_paused_alone(run: Run) -> None:
    run.pause().wait(check=True)
    rehearsal = run.rehearse("adjust_weight_decay", weight_decay=0.2, steps=5000)
    found = until(lambda: rehearsal.status() if rehearsal.status()["done"] > 2 else None)
    assert (found["paused"], found["why"]) == (False, "the run is paused")
    assert found["from_step"] == run.status()["step"]
    rehearsal.stop()
    assert rehearsal.wait(60)["state"] == "stopped"
    assert run.status()["state"] == "paused"
    run.unpause().wait(check=True)
    goes_on(run)


def test_beside_a_training_run_its_clock_is_not_believed(run: Run) -> None:
    rehearsal = run.rehearse("adjust_capacity_factor", factor=1.0, steps=5000, pause=False)
    found = until(lambda: rehearsal.status() if rehearsal.status()["done"] > 2 else None)
    assert found["paused"] is False
    assert run.status()["state"] == "running"
    until(lambda: StoreReader(run.paths).meta().get("rehearsing") == [rehearsal.paths.name])
    rehearsal.stop()
    rehearsal.wait(60)
    assert not is_locked(rehearsal.paths)
    until(lambda: StoreReader(run.paths).meta().get("rehearsing") == [])
    assert views.rehearsals(run.paths)[0]["id"] == found["id"]
