"""Whoever watches and steers a run may die at any moment: the trainer needs nobody, and all can come back."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager
from small import until

import lumina
from faults.lab import TINY, Lab, assert_same, log_of, outcome
from faults.matrix import Tally, often, row
from lumina.store.layout import RunPaths
from lumina.store.reader import StoreReader

LENGTH = {"training.max_steps": 150, "save_every_n_batches": 50}
SLOW = ("slow_steps", {"seconds": 0.05})
UI = "import sys; from lumina_app.cli import main; sys.exit(main(['--port', '0', '--no-token', '--dir', sys.argv[1]]))"


def step(paths: RunPaths) -> int:
    return StoreReader(paths).meta().get("step") or 0


def reaches(paths: RunPaths, wanted: int) -> None:
    until(lambda: step(paths) >= wanted, 90)


def dashboard(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A dashboard in a process of its own, and its address."""
    process = subprocess.Popen([sys.executable, "-c", UI, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.match(r"Lumina: (\S+)", process.stdout.readline())
    assert found is not None
    return process, found[1]


def seen(address: str, paths: RunPaths) -> int:
    """The step that the dashboard's live document shows."""
    with urllib.request.urlopen(f"{address}lumina/live?run={paths.name}", timeout=30) as response:
        return int(json.loads(response.read())["status"]["step"] or 0)


@row(
    "the dashboard killed",
    injected="kill -9 of lumina-ui while it serves a live run, then another one started",
    expected="training goes on, the new one shows it; same bits and series",
)
def test_the_dashboard_killed(lab: Lab, tally: Tally) -> None:
    for _ in range(often(1, 3)):
        paths = lab.create(**LENGTH)
        life = lab.start(paths, SLOW)
        process, address = dashboard(lab.folder)
        reaches(paths, 2)
        until(lambda at=address, run=paths: seen(at, run) > 0, 60)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert process.stdout is not None
        process.stdout.close()
        tally.tried()
        again, address = dashboard(lab.folder)
        until(lambda at=address, run=paths: seen(at, run) >= 2, 60)
        again.kill()
        again.communicate()
        assert life.wait() == 0, log_of(paths)
        assert_same(outcome(paths), lab.undisturbed(**LENGTH))


START = """
import lumina
from lumina_app.notebook import Dashboard
run = lumina.start("debug", name={name!r}, directory={folder!r}, **{settings!r})
board = Dashboard(run)
print("started")
"""


@row(
    "the notebook's kernel killed",
    injected="kill -9 of a Jupyter kernel that started a run and shows its widget",
    expected="training goes on to its end; attached from elsewhere, every step is there",
)
def test_the_kernel_killed(lab: Lab, tally: Tally, tmp_path: Path) -> None:
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        settings = {**TINY, "training.max_steps": 300}
        code = START.format(name="from-a-kernel", folder=str(tmp_path), settings=settings)
        reply = client.execute_interactive(code, timeout=90, output_hook=lambda _: None)
        assert reply["content"]["status"] == "ok", reply["content"]
        pid = manager.provisioner.process.pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: manager.provisioner.process.poll() is not None)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    run = lumina.attach("from-a-kernel", tmp_path)
    before = step(run.paths)
    tally.tried()
    assert before < 300, "the run was over before its kernel was killed"
    assert run.wait(120) == "finished"
    assert run.metrics()["step"].to_list() == list(range(1, 301))


@row(
    "a reader that never lets go",
    injected="another program holds a read transaction on run.sqlite over the whole run, and is killed at the end",
    expected="no step waits; same bits and series",
)
@pytest.mark.parametrize("kind", ["BEGIN"])
def test_a_reader_that_holds_on(lab: Lab, tally: Tally, kind: str) -> None:
    paths = lab.create(**LENGTH)
    life = lab.start(paths, SLOW)
    reaches(paths, 2)
    hold = f"import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None); db.execute({kind!r}); "
    hold += "db.execute('SELECT count(*) FROM point').fetchall(); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(paths.database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert life.wait() == 0, log_of(paths)
    holder.kill()
    holder.communicate()
    tally.tried()
    assert_same(outcome(paths), lab.undisturbed(**LENGTH))
