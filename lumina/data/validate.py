"""Judges files before a run is made from them: every path, every line, before anything is built or written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lumina.data.report import SHOWN_ISSUES, DataError, DataReport, FileReport, Issue
from lumina.data.sources import expand, read_documents


def check_paths(paths: Sequence[str | Path], *, max_bad_fraction: float = 0.05) -> DataReport:
    """Reads all files behind `paths` once and reports on each.

    Raises `DataError` with file and line: missing, empty, unreadable, not UTF-8, without a usable sample, or with more
    than `max_bad_fraction` of its lines unusable.
    """
    return DataReport(tuple(_check_file(path, max_bad_fraction) for path in expand(paths)))


def classify_paths(paths: Sequence[str | Path]) -> tuple[list[Path], list[Path]]:
    """The files behind `paths` as (base text, conversations), by the first usable sample of each."""
    base: list[Path] = []
    conversations: list[Path] = []
    for path in expand(paths):
        first = next((item for item in read_documents(path) if not isinstance(item, Issue)), None)
        (conversations if first is not None and first.messages else base).append(path)
    return base, conversations


def _check_file(path: Path, max_bad_fraction: float) -> FileReport:
    size = _size(path)
    if size == 0:
        raise DataError("the file is empty", str(path))
    issues: list[Issue] = []
    valid = conversations = invalid = 0
    for item in read_documents(path):
        if isinstance(item, Issue):
            invalid += 1
            if len(issues) < SHOWN_ISSUES:
                issues.append(item)
        else:
            valid += 1
            conversations += bool(item.messages)
    if valid == 0:
        first = f" (first: line {issues[0].line}, {issues[0].reason})" if issues else ""
        raise DataError(f"no usable sample{first}", str(path), issues[0].line if issues else None)
    if invalid > max_bad_fraction * (valid + invalid):
        raise DataError(
            f"{issues[0].reason}; {invalid:,} of {valid + invalid:,} lines unusable (limit {max_bad_fraction:.0%})",
            str(path),
            issues[0].line,
        )
    kind = "text" if not conversations else ("conversation" if conversations == valid else "text and conversation")
    return FileReport(str(path), path.suffix[1:], kind, size, valid + invalid, valid, invalid, tuple(issues))


def _size(path: Path) -> int:
    try:
        with path.open("rb"):
            return path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", str(path)) from error
