"""What a run does with the signals of a terminal, a scheduler and an impatient person."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

from short_runs import SMALL, begin, final_hash, wait_for_step
from small import until

import lumina
from lumina.client import Run
from lumina.store.lock import holder

LONG = 100_000


def send(run: Run, number: int) -> None:
    info = holder(run.paths)
    assert info is not None
    os.kill(info.pid, number)


def reasons(run: Run) -> list[str]:
    manifests = run.paths.checkpoints.glob("checkpoint_step_*/manifest.json")
    found = [json.loads(path.read_text()) for path in manifests]
    return [manifest["reason"] for manifest in sorted(found, key=lambda manifest: manifest["step"])]


def test_sigterm_and_one_sigint_save_and_end(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        run = begin(tmp_path, number.name, LONG, save_every_n_batches=LONG, eval_interval=LONG)
        wait_for_step(run, 3)
        send(run, number)
        assert run.wait(60) == "stopped"
        assert reasons(run)[-1] == "emergency"
        step = run.status()["step"]
        assert run.resume(steps=step + 2).wait(90) == "finished"
        assert run.metrics()["step"].to_list() == list(range(1, step + 3))


def test_two_sigints_end_at_once_and_a_resume_is_exact(tmp_path: Path) -> None:
    run = begin(tmp_path, "impatient", 60)
    wait_for_step(run, 15)
    before = set(run.paths.checkpoints.glob("checkpoint_step_*"))
    send(run, signal.SIGINT)
    send(run, signal.SIGINT)
    assert run.wait(60) in ("stopped", "finished")
    assert "emergency" not in reasons(run) or set(run.paths.checkpoints.glob("checkpoint_step_*")) != before
    if run.status()["state"] == "stopped":
        run.resume()
        assert run.wait(120) == "finished"
    assert run.metrics()["step"].to_list() == list(range(1, 61))
    with lumina.Trainer("debug", name="patient", steps=60, directory=tmp_path, **SMALL) as plain:
        plain.train()
    assert final_hash(lumina.attach("patient", tmp_path)) == final_hash(run)


def test_bursts_of_sigusr1_save_and_training_goes_on(tmp_path: Path) -> None:
    run = begin(tmp_path, "burst", LONG, save_every_n_batches=LONG, eval_interval=LONG, save_total_limit=50)
    for _ in range(20):  # from the first moment on, while it imports and prepares its data, too
        if holder(run.paths) is not None and run.status()["state"] in ("starting", "running"):
            send(run, signal.SIGUSR1)
        time.sleep(0.05)
    wait_for_step(run, 5)
    for _ in range(50):
        send(run, signal.SIGUSR1)
    until(lambda: "emergency" in reasons(run))
    at = run.status()["step"]
    wait_for_step(run, at + 3)
    run.pause().wait(check=True)
    saved = len(reasons(run))
    run.intervene("adjust_routing_temperature", temperature=1.5).wait(check=True)
    send(run, signal.SIGUSR1)
    until(lambda: len(reasons(run)) > saved)
    assert run.status()["state"] == "paused"
    send(run, signal.SIGTERM)
    assert run.wait(60) == "stopped", "a paused run heeds it, too"


def test_sigterm_is_heeded_while_data_is_prepared(tmp_path: Path) -> None:
    chance = random.Random(0)
    words = [f"w{number}" for number in range(20_000)]
    text = tmp_path / "big.txt"
    text.write_text("\n\n".join(" ".join(chance.choices(words, k=400)) for _ in range(6_000)))  # seconds of work
    run = lumina.start("debug", data=[text], name="early", steps=10, directory=tmp_path, **SMALL)
    until(lambda: "%" in (run.status()["phase"] or ""))
    send(run, signal.SIGUSR1)
    send(run, signal.SIGTERM)
    assert run.wait(60) == "stopped"
    assert not run.status()["step"], "no step was taken"
