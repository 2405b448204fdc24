"""The lock says who trains a run, and ends with its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths
from lumina.store.lock import RunLock, describe_holder, holder, is_locked

HOLD = """
import sys, time
from pathlib import Path
from lumina.store.layout import RunPaths
from lumina.store.lock import RunLock

lock = RunLock.acquire(RunPaths(Path(sys.argv[1])))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_holder_is_refused_and_told_who_has_it(paths: RunPaths) -> None:
    with RunLock.acquire(paths, {"doing": "training"}), pytest.raises(Refusal) as refused:
        RunLock.acquire(paths, patience=0.0)
    assert refused.value.code == "locked"
    assert refused.value.exit_code == 1
    assert f"process {os.getpid()} on " in refused.value.message
    assert "'first'" in refused.value.message


def test_the_note_names_its_holder_and_what_it_does(paths: RunPaths) -> None:
    with RunLock.acquire(paths, {"doing": "training"}):
        info = holder(paths)
        assert info is not None
        assert (info.pid, dict(info.extra)) == (os.getpid(), {"doing": "training"})
        assert is_locked(paths)
    assert not is_locked(paths)
    assert holder(paths) is None


def test_a_released_run_can_be_taken_again(paths: RunPaths) -> None:
    first = RunLock.acquire(paths)
    first.release()
    first.release()
    with RunLock.acquire(paths, patience=0.0):
        assert is_locked(paths)


def test_looking_neither_takes_the_lock_nor_makes_its_file(paths: RunPaths) -> None:
    assert not is_locked(paths)
    assert not paths.lock.exists()
    with RunLock.acquire(paths):
        assert is_locked(paths)
        assert is_locked(paths)


def test_a_note_that_cannot_be_read_still_refuses(paths: RunPaths) -> None:
    with RunLock.acquire(paths):
        paths.lock.write_bytes(b"{torn")
        with pytest.raises(Refusal, match="another process"):
            RunLock.acquire(paths, patience=0.0)
    assert describe_holder(RunPaths(Path("nowhere"))) == "another process"


def test_a_killed_holder_frees_the_run(paths: RunPaths) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(paths.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_locked(paths)
        assert describe_holder(paths).startswith(f"process {process.pid} on ")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not is_locked(paths)
    RunLock.acquire(paths, patience=0.0).release()


def test_a_child_process_does_not_keep_the_run_locked(paths: RunPaths) -> None:
    lock = RunLock.acquire(paths)
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with child:
        lock.release()
        assert not is_locked(paths)
        child.kill()


def test_a_forked_child_lets_go_of_the_lock(paths: RunPaths) -> None:
    """A flock belongs to the open file, which a forked child shares with its parent."""
    code = """
import os, sys
from pathlib import Path
from lumina.store.layout import RunPaths
from lumina.store.lock import RunLock, is_locked

paths = RunPaths(Path(sys.argv[1]))
lock = RunLock.acquire(paths)
ready, done = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.write(ready[1], b"x")
    os.read(done[0], 1)
    os._exit(0)
os.read(ready[0], 1)
held = is_locked(paths)
os.close(lock._fd)
free = not is_locked(paths)
os.write(done[1], b"x")
os.waitpid(child, 0)
print(held, free)
"""
    done = subprocess.run([sys.executable, "-c", code, str(paths.root)], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n", "held while the parent lives, free as soon as it is gone"
