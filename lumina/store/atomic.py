"""Every durable write of the product (journal, receipts, configuration, checkpoints) passes through here.

It is the one seam where tests inject faults; it must not know what the bytes mean.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

FaultHook = Callable[[str, Path], None]
Content = bytes | memoryview

OPERATIONS: Final = (
    "mkdir", "create", "write", "append", "truncate", "fsync", "rename", "link", "unlink", "rmtree", "fsync_dir",
)  # fmt: skip


class Operation(NamedTuple):
    """One change of the disk: `data` is what write and append add, `source` where rename and link take from.

    A truncate includes its fsync.
    """

    kind: str
    path: Path
    data: bytes = b""
    source: Path | None = None
    length: int = 0


fault_hook: FaultHook | None = None
"""Called with (kind, path) *before* each operation; a test may raise an OSError in it or kill the process."""

recorder: Callable[[Operation], None] | None = None
"""Told each operation that no fault prevented; a test rebuilds from it what a power cut may leave."""


def _fault(operation: str, path: Path, *, data: Content = b"", source: Path | None = None, length: int = 0) -> None:
    if fault_hook is not None:
        fault_hook(operation, path)
    if recorder is not None:
        recorder(Operation(operation, path, bytes(data), source, length))


def write_all(fd: int, data: Content) -> None:
    """Write all of `data` to the descriptor, however many calls it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_file(path: Path, data: Content) -> None:
    """Put `data` at `path`, durably: a reader sees the old content or all of the new, also after a power cut."""
    temporary = _write_temporary(path, data)
    try:
        replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def create_file(path: Path, data: bytes) -> None:
    """As `write_file`, but raise `FileExistsError` if `path` exists; the check and the creation are one operation."""
    temporary = _write_temporary(path, data)
    try:
        _fault("link", path, source=temporary)
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_dir(path.parent)


def write_into_new(path: Path, data: Content) -> None:
    """Put `data` at the new name `path` in a folder that nobody looks at yet; the name is durable after `fsync_dir`."""
    _write(path, data)


def _write_temporary(path: Path, data: Content) -> Path:
    # A leading dot: whoever lists the folder skips what is not finished.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    _write(temporary, data)
    return temporary


def _write(path: Path, data: Content) -> None:
    _fault("create", path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            _fault("write", path, data=data)
            write_all(fd, data)
            _fault("fsync", path)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def open_append(path: Path) -> int:
    """A descriptor of the file `path` for reading and appending; a new file's name is durable."""
    fresh = not path.exists()
    if fresh:
        _fault("create", path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    if fresh:
        try:
            fsync_dir(path.parent)
        except OSError:
            os.close(fd)
            raise
    return fd


def append(fd: int, path: Path, data: bytes) -> None:
    """Append `data` to the open file `path` and fsync it; when this returns the data is durable."""
    _fault("append", path, data=data)
    write_all(fd, data)
    _fault("fsync", path)
    os.fsync(fd)


def truncate(fd: int, path: Path, length: int) -> None:
    """Cut the open file `path` to `length` bytes, durably."""
    _fault("truncate", path, length=length)
    os.ftruncate(fd, length)
    os.fsync(fd)


def replace(source: Path, target: Path) -> None:
    """Rename the file `source` over `target` and fsync the folder."""
    _fault("rename", target, source=source)
    os.replace(source, target)
    fsync_dir(target.parent)


def rename_new(source: Path, target: Path) -> None:
    """Rename the folder or file `source` to the new name `target` and fsync the parent.

    Raises `FileExistsError` if the name is taken. Only the run's lock holder renames into a run, so look-then-rename
    is safe here.
    """
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists")
    _fault("rename", target, source=source)
    os.rename(source, target)
    fsync_dir(target.parent)


def move(source: Path, target: Path) -> None:
    """Rename the file `source`, whatever kind it is, to `target`; not made durable."""
    _fault("rename", target, source=source)
    os.rename(source, target)


def make_folder(path: Path, *, parents: bool = True) -> None:
    """Make the folder `path` and those above it where they are missing, durably.

    Without `parents`, a run whose folder was moved grows no ghost in the old place: `FileNotFoundError`.
    """
    wanted = (path, *path.parents) if parents else (path,)
    missing = [folder for folder in wanted if not folder.exists()]
    for folder in reversed(missing):
        _fault("mkdir", folder)
        folder.mkdir(exist_ok=True)
        fsync_dir(folder.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder at once for all who pass over names with a leading dot, and what is in it afterwards."""
    hidden = folder.with_name(f".{uuid.uuid4().hex}.removed")
    _fault("rename", hidden, source=folder)
    os.rename(folder, hidden)
    fsync_dir(folder.parent)
    _fault("rmtree", hidden)
    shutil.rmtree(hidden)


def sweep(folder: Path) -> None:
    """Clear away what writes and removals that were cut off left in `folder`; for its only writer."""
    for left in folder.glob(".*.tmp"):
        unlink(left)
    for left in folder.glob(".*.removed"):
        _fault("rmtree", left)
        shutil.rmtree(left)


def unlink(path: Path) -> None:
    """Remove the file `path` if it exists."""
    _fault("unlink", path)
    path.unlink(missing_ok=True)


def fsync_file(path: Path) -> None:
    """Make the content of a file that someone else wrote durable."""
    _fault("fsync", path)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_dir(path: Path) -> None:
    """Make the names in a folder durable (a rename is durable only after this)."""
    _fault("fsync_dir", path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
