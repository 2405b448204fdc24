"""Creates runs and starts their trainer as a process of its own, by module name: nothing of the trainer is imported."""

from __future__ import annotations

import getpass
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina.config import Config, dump_config
from lumina.hardware.platform import environment_of_platform
from lumina.store import atomic
from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths, check_run_name
from lumina.store.lock import describe_holder, holder, is_locked

START_SECONDS = 20.0
LOG_TAIL = 12
SPIN_COUNT = "1000"
# glibc gives large buffers back after every step and faults them in again; keeping them is worth about 1.2x. One heap
# for all threads: with one for each, what one gave back the others do not get.
ALLOCATOR = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.arena_max=1"


def create_run(config: Config, name: str, directory: str | Path, parent: Mapping[str, Any] | None = None) -> RunPaths:
    """Makes the folder of a new run with its config.yaml. Raises `Refusal`: bad_argument, name_taken.

    `parent` makes it a child of another run of the same directory: {run, kind: replay|counterfactual|rehearsal, ...}.
    """
    check_run_name(name)
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    paths = RunPaths((root / name).resolve())
    try:
        paths.root.mkdir()
    except FileExistsError:
        raise Refusal("name_taken", f"there is a run or folder {paths.root} already; choose another --name") from None
    paths.make_folders()
    note = {"name": name, "created": time.time(), "author": getpass.getuser(), "parent": parent and dict(parent)}
    atomic.write_file(paths.launch, json.dumps(note).encode())
    atomic.write_file(paths.config, dump_config(config).encode())
    return paths


def free_name(directory: str | Path, stem: str) -> str:
    """`stem` with the date and the first free number behind it."""
    day = time.strftime("%Y%m%d")
    number = 1
    while (Path(directory) / f"{stem}-{day}-{number}").exists():
        number += 1
    return f"{stem}-{day}-{number}"


def spawn(paths: RunPaths, *, resume: str | None = None, steps: int | None = None) -> int:
    """Starts the trainer and returns its pid once it holds the run's lock.

    It gets its own session, no standard input, and logs/training.log for its output, so it outlives whoever called.
    Raises `Refusal`: locked, or not_running with the end of its log when it died at once.
    """
    if is_locked(paths):
        raise Refusal("locked", f"run {paths.name!r} is in use by {describe_holder(paths)}")
    command = [sys.executable, "-m", "lumina.train.process", str(paths.root)]
    command += ["--resume", resume] if resume is not None else []
    command += ["--steps", str(steps)] if steps is not None else []
    paths.log.parent.mkdir(parents=True, exist_ok=True)
    with paths.log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, close_fds=True,
            env=trainer_environment(os.environ),
        )  # fmt: skip
    threading.Thread(target=process.wait, name="lumina-reap", daemon=True).start()
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        info = holder(paths)
        if info is not None and info.pid == process.pid and is_locked(paths):
            return process.pid
        if process.poll() is not None:
            raise Refusal("not_running", f"the trainer ended at once: {log_tail(paths)}")
        time.sleep(0.02)
    raise Refusal("busy", f"the trainer (process {process.pid}) did not take its run within {START_SECONDS:.0f} s")


def trainer_environment(base: Mapping[str, str]) -> dict[str, str]:
    """The trainer's environment: allocator and threads set for sharing a machine, unbuffered output."""
    environment = dict(base)
    environment["PYTHONUNBUFFERED"] = "1"
    environment.setdefault("TOKENIZERS_PARALLELISM", "true")
    for name, value in environment_of_platform().items():
        environment.setdefault(name, value)
    # Threads that spin long while they wait make a step many times slower as soon as anything else wants the cores;
    # threads that sleep at once make it slower on an idle machine. A short spin spans the gap between two operations.
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        environment.setdefault("GLIBC_TUNABLES", ALLOCATOR)
    return environment


def log_tail(paths: RunPaths, lines: int = LOG_TAIL) -> str:
    """The last lines of the trainer's log."""
    try:
        text = paths.log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "it left no log"
    return "\n".join(text.splitlines()[-lines:])
