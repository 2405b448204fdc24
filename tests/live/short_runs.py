"""Short real runs for live tests, and waiting for them."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from small import RUN

import lumina
from lumina.client import Run
from lumina.store.lock import holder

SMALL = {**RUN, "save_every_n_batches": 10}


def begin(directory: Path, name: str, steps: int, **more: object) -> Run:
    return lumina.start("debug", name=name, steps=steps, directory=directory, **{**SMALL, **more})


def wait_for_step(run: Run, step: int) -> None:
    deadline = time.monotonic() + 90
    while (run.status()["step"] or 0) < step:
        assert run.status()["state"] not in ("failed", "crashed"), run.status()["error"]
        assert time.monotonic() < deadline, run.status()
        time.sleep(0.02)


def final_hash(run: Run) -> str:
    manifests = [json.loads(p.read_text()) for p in run.paths.checkpoints.glob("checkpoint_step_*/manifest.json")]
    return str(max(manifests, key=lambda m: m["step"])["state_hash"])


def kill(run: Run) -> None:
    info = holder(run.paths)
    assert info is not None
    os.kill(info.pid, signal.SIGKILL)
    run.wait(10)
    assert run.status()["state"] == "crashed"
