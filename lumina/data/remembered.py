"""What was found in a file, remembered until the file or the way of reading changes: a second start reads nothing.

It knows reports as data; it must not know how a file is judged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lumina.data.cache import cache_root
from lumina.data.report import FileReport, Issue

VERSION = 1  # raise it when the same file would be judged otherwise
SETTLED_SECONDS = 2.0  # a file written to more recently may change again within one tick of its clock


def remembered(path: Path, read_as: list[object], judge: Callable[[], FileReport]) -> FileReport:
    """What `judge` says of the file, or said of it before, read in the same way. A failure is not remembered."""
    place = _place(path, read_as)
    if place is None:
        return judge()
    found = _read(place)
    if found is not None:
        return found
    report = judge()
    if report.usable:
        _write(place, report)
    return report


def _place(path: Path, read_as: list[object]) -> Path | None:
    try:
        status = path.stat()
    except OSError:  # `judge` says it better
        return None
    if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_SECONDS:
        return None
    known = [VERSION, str(path.absolute()), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns,
             status.st_ctime_ns, read_as]  # fmt: skip
    return cache_root() / "checks" / (hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32] + ".json")


def _read(place: Path) -> FileReport | None:
    try:
        stored = json.loads(place.read_text())
        return FileReport(**{**stored, "issues": tuple(Issue(**issue) for issue in stored["issues"]),
                             "lengths": tuple(stored["lengths"]), "shown": tuple(stored["shown"])})  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError):  # not there, or half written by a machine that went down
        return None


def _write(place: Path, report: FileReport) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False) as file:
            json.dump(dataclasses.asdict(report), file)
        os.replace(file.name, place)
    except OSError:  # a cache that cannot be written to costs time, nothing else
        return
