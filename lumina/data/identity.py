"""What a file is, by its content: two runs have the same data when every file has the same digest.

Digests are remembered by what the file system says of a file, so that gigabytes are read once: it counts as unchanged
while path, size, modification and change time (in nanoseconds) and inode are the same. It knows bytes only; it must not
know documents or tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lumina.data.report import DataError
from lumina.store import atomic

BLOCK = 1 << 22
Tell = Callable[[float], None]


def content_hash(path: Path, cache: Path, tell: Tell | None = None) -> str:
    """sha256 of the file, from `cache`/files where it is unchanged. Raises `DataError` when it cannot be read."""
    try:
        identity = _identity(path)
        note = cache / "files" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
        known = _read(note)
        if known is not None and known["identity"] == identity:
            return str(known["sha256"])
        digest = _hash(path, identity[0], tell or (lambda _: None))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", str(path)) from error
    if _identity(path) == identity:  # else it is being written, and what was read is no one state of it
        note.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_file(note, json.dumps({"identity": identity, "sha256": digest}).encode())
    return digest


def changed_files(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, one sentence for each file: changed, gone or added."""
    told = [f"{path} has other content now" for path in recorded if path in now and recorded[path] != now[path]]
    told += [f"{path} is not part of the data any more" for path in recorded if path not in now]
    return told + [f"{path} was not part of the data" for path in now if path not in recorded]


def _identity(path: Path) -> list[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _read(note: Path) -> dict[str, Any] | None:
    try:
        known = json.loads(note.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return known if isinstance(known, dict) and {"identity", "sha256"} <= known.keys() else None


def _hash(path: Path, size: int, tell: Tell) -> str:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            tell(done / max(1, size))
    return digest.hexdigest()
