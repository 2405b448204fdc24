"""What a file is, by its content: two runs have the same data when every file has the same digest.

It knows bytes only; it must not know documents or tokens.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from lumina.data.report import DataError


def digest_of(path: Path) -> bytes:
    """SHA-256 of a file; read once per process while its size and time stay. Raises `DataError`."""
    try:
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", str(path)) from error


def changed_files(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, one sentence for each file: changed, gone or added."""
    told = [f"{path} has other content now" for path in recorded if path in now and recorded[path] != now[path]]
    told += [f"{path} is not part of the data any more" for path in recorded if path not in now]
    return told + [f"{path} was not part of the data" for path in now if path not in recorded]


@functools.lru_cache(maxsize=100_000)
def _digest(path: Path, _size: int, _mtime_ns: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
