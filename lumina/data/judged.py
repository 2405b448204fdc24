"""What was said of a file before is said again while the file is the same, without reading it.

It keeps reports by content; it must not know what they are made from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lumina.data.identity import content_hash
from lumina.data.report import DataReport, FileReport
from lumina.data.sources import expand
from lumina.store import atomic

FORMAT = 2  # raise it when the same file would be judged in another way
Judge = Callable[[Path], FileReport]


def check_known(paths: Sequence[str | Path], judge: Judge, parameters: Sequence[Any], cache: Path) -> DataReport:
    """A report on all files behind `paths`; `judge` sees only those that it has not seen with these `parameters`.

    Raises `DataError` as `judge` does, which is not remembered.
    """
    return DataReport(tuple(_known(path, judge, parameters, cache) for path in expand(paths)))


def _known(path: Path, judge: Judge, parameters: Sequence[Any], cache: Path) -> FileReport:
    key = [FORMAT, str(path), content_hash(path, cache), list(parameters)]
    note = cache / "reports" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"
    try:
        return FileReport.from_json(json.loads(note.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass  # not judged yet, or noted by another version
    report = judge(path)
    note.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_file(note, json.dumps(report.to_json()).encode())
    return report
