"""Every durable write of the product (journal, receipts, configuration, checkpoints) passes through here.

It is the one seam where tests inject faults; it must not know what the bytes mean.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

FaultHook = Callable[[str, Path], None]

fault_hook: FaultHook | None = None
"""Called with (operation, path) *before* each operation; a test may raise an OSError in it or kill the process.

Operations: create write fsync rename link append truncate unlink fsync_dir.
"""


def _fault(operation: str, path: Path) -> None:
    if fault_hook is not None:
        fault_hook(operation, path)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to the descriptor, however many calls it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_file(path: Path, data: bytes) -> None:
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
        _fault("link", path)
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_dir(path.parent)


def _write_temporary(path: Path, data: bytes) -> Path:
    # A leading dot: whoever lists the folder skips what is not finished.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    _fault("create", temporary)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            _fault("write", temporary)
            write_all(fd, data)
            _fault("fsync", temporary)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def append(fd: int, path: Path, data: bytes) -> None:
    """Append `data` to the open file `path` and fsync it; when this returns the data is durable."""
    _fault("append", path)
    write_all(fd, data)
    _fault("fsync", path)
    os.fsync(fd)


def truncate(fd: int, path: Path, length: int) -> None:
    """Cut the open file `path` to `length` bytes, durably."""
    _fault("truncate", path)
    os.ftruncate(fd, length)
    os.fsync(fd)


def replace(source: Path, target: Path) -> None:
    """Rename the file `source` over `target` and fsync the folder."""
    _fault("rename", target)
    os.replace(source, target)
    fsync_dir(target.parent)


def rename_new(source: Path, target: Path) -> None:
    """Rename the folder or file `source` to the new name `target` and fsync the parent.

    Raises `FileExistsError` if the name is taken. Only the run's lock holder renames into a run, so look-then-rename
    is safe here.
    """
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists")
    _fault("rename", target)
    os.rename(source, target)
    fsync_dir(target.parent)


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
