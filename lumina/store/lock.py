"""The lock on a run directory: who holds it is the run's living trainer, and nothing else says so.

It knows the lock file and its holder's note; it must not know states, journals or processes.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths

_NOTE_LIMIT = 4096
PATIENCE_SECONDS = 0.5


@dataclass(frozen=True)
class LockInfo:
    """The holder's note: process id, host, since when (UTC seconds), and what else it wished to say."""

    pid: int
    host: str
    since: float
    extra: Mapping[str, Any]


class RunLock:
    """A held `flock` on a run directory. It ends with `release()` or with the process, however that dies.

    The descriptor is close-on-exec, and closed in a forked child: a flock belongs to the open file, so a child that
    kept it would keep the run locked after its parent's death.
    """

    def __init__(self, fd: int, paths: RunPaths, note: Mapping[str, Any]) -> None:
        self.since = float(note["since"])
        self._fd = fd
        self._paths = paths
        self._note = json.dumps(note).encode()
        _held.add(self)

    @classmethod
    def acquire(
        cls, paths: RunPaths, info: Mapping[str, Any] | None = None, *, patience: float = PATIENCE_SECONDS
    ) -> RunLock:
        """Take the lock or raise `Refusal('locked')` that names the holder.

        `patience` (seconds) outlasts readers, who hold a shared lock for microseconds to see whether it is free.
        """
        fd = _locked(paths, patience)
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "extra": dict(info or {})}
        lock = cls(fd, paths, note)
        lock._write_note()
        return lock

    def ensure(self) -> None:
        """Make sure that the folder is still this run's, and that whoever looks there finds the lock held.

        A lock file that someone removed is made again. Raises `Refusal`: not_found when the folder was moved or
        deleted, locked when another process has made the run its own meanwhile.
        """
        held = os.fstat(self._fd)
        try:
            found = os.stat(self._paths.lock)
        except FileNotFoundError:
            if not self._paths.exists():
                raise Refusal("not_found", f"{self._paths.root} was moved or deleted while it was trained") from None
            self._make_again()
            return
        if (held.st_dev, held.st_ino) != (found.st_dev, found.st_ino):
            raise Refusal("locked", f"run {self._paths.name!r} was taken over by {describe_holder(self._paths)}")

    def _make_again(self) -> None:
        fd = _locked(self._paths, PATIENCE_SECONDS)
        os.close(self._fd)
        self._fd = fd
        self._write_note()

    def _write_note(self) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, self._note, 0)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            _held.discard(self)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_locked(paths: RunPaths) -> bool:
    """Whether a living process holds the run. Needs read permission only; a missing lock file is free."""
    try:
        fd = os.open(paths.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def holder(paths: RunPaths) -> LockInfo | None:
    """The note in the lock file, or None while there is none to read. Meaningful only while `is_locked`."""
    try:
        with open(paths.lock, "rb") as file:
            note = json.loads(file.read(_NOTE_LIMIT))
        return LockInfo(int(note["pid"]), str(note["host"]), float(note["since"]), dict(note["extra"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def describe_holder(paths: RunPaths) -> str:
    """The holder in words, for messages."""
    info = holder(paths)
    if info is None:
        return "another process"
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(info.since))
    return f"process {info.pid} on {info.host} since {since}"


def _locked(paths: RunPaths, patience: float) -> int:
    """A descriptor of the lock file with the lock held. Raises `Refusal` (locked) after `patience` seconds."""
    fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + patience
    while not _try_lock(fd, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            os.close(fd)
            raise Refusal("locked", f"run {paths.name!r} is in use by {describe_holder(paths)}")
        time.sleep(0.02)
    return fd


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    for lock in list(_held):
        lock._close()


os.register_at_fork(after_in_child=_forget_in_child)
