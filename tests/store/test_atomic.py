"""A durable write is there whole or not at all, whatever breaks in the middle of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lumina.store import atomic

KILLED = """
import os, signal, sys
from pathlib import Path
from lumina.store import atomic

def die(operation, path):
    if operation == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

atomic.fault_hook = die
atomic.write_file(Path(sys.argv[1]), b"new" * 1000)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_replaces_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "config.yaml"
    atomic.write_file(target, b"old")
    atomic.write_file(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["config.yaml"]


@pytest.mark.parametrize("operation", ["create", "write", "fsync", "rename"])
def test_a_failed_write_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, fail_at: Callable[[str], None], operation: str
) -> None:
    target = tmp_path / "config.yaml"
    target.write_bytes(b"old")
    fail_at(operation)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_file(target, b"new")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["config.yaml"]


@pytest.mark.parametrize("operation", ["write", "fsync", "rename"])
def test_a_process_killed_before_the_rename_leaves_the_old_file(tmp_path: Path, operation: str) -> None:
    target = tmp_path / "config.yaml"
    target.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(target), operation], check=False)
    assert killed.returncode == -9
    assert target.read_bytes() == b"old"
    left = [name for name in names(tmp_path) if name != "config.yaml"]
    assert all(name.startswith(".") for name in left), "whoever lists the folder skips what is not finished"


def test_a_process_killed_after_the_rename_leaves_the_new_file(tmp_path: Path) -> None:
    target = tmp_path / "config.yaml"
    target.write_bytes(b"old")
    subprocess.run([sys.executable, "-c", KILLED, str(target), "fsync_dir"], check=False)
    assert target.read_bytes() == b"new" * 1000


def test_an_exclusive_creation_never_overwrites(tmp_path: Path) -> None:
    target = tmp_path / "command.json"
    atomic.create_file(target, b"first")
    with pytest.raises(FileExistsError):
        atomic.create_file(target, b"second")
    assert target.read_bytes() == b"first"
    assert names(tmp_path) == ["command.json"]


def test_a_failed_creation_leaves_nothing(tmp_path: Path, fail_at: Callable[[str], None]) -> None:
    fail_at("link")
    with pytest.raises(OSError, match="No space left"):
        atomic.create_file(tmp_path / "command.json", b"first")
    assert names(tmp_path) == []


def test_a_folder_is_renamed_to_a_new_name_only(tmp_path: Path) -> None:
    for name in ("writing", "taken"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError):
        atomic.rename_new(tmp_path / "writing", tmp_path / "taken")
    atomic.rename_new(tmp_path / "writing", tmp_path / "checkpoint")
    assert names(tmp_path) == ["checkpoint", "taken"]


def test_a_long_write_is_not_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, bytes(data[:7])))
    atomic.write_file(tmp_path / "data", bytes(range(100)))
    assert (tmp_path / "data").read_bytes() == bytes(range(100))


def test_a_folder_is_removed_whole_for_whoever_lists_names(tmp_path: Path, fail_at: Callable[[str], None]) -> None:
    target = tmp_path / "checkpoint_step_1"
    target.mkdir()
    (target / "manifest.json").write_bytes(b"{}")
    fail_at("rmtree")
    with pytest.raises(OSError, match="No space left"):
        atomic.remove_tree(target)
    assert not target.exists()
    assert all(name.startswith(".") for name in names(tmp_path))
    atomic.fault_hook = None
    atomic.sweep(tmp_path)
    assert names(tmp_path) == []


def test_what_a_killed_write_left_is_swept_away(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "config.yaml"), "rename"], check=False)
    assert len(names(tmp_path)) == 1
    atomic.sweep(tmp_path)
    assert names(tmp_path) == []


def test_every_operation_is_told_with_what_it_needs_to_be_repeated(tmp_path: Path) -> None:
    told: list[atomic.Operation] = []
    atomic.recorder = told.append
    try:
        with pytest.raises(FileNotFoundError):
            atomic.make_folder(tmp_path / "a" / "b", parents=False)
        told.clear()
        atomic.make_folder(tmp_path / "a" / "b")
        atomic.write_file(tmp_path / "a" / "b" / "file", b"content")
    finally:
        atomic.recorder = None
    kinds = ["mkdir", "fsync_dir", "mkdir", "fsync_dir", "create", "write", "fsync", "rename", "fsync_dir"]
    assert [operation.kind for operation in told] == kinds
    assert told[5].data == b"content"
    assert told[7].source == told[5].path
    assert set(kinds) < set(atomic.OPERATIONS)
