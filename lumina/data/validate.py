"""Judges files before a run is made from them: every path, every line, before anything is built or written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lumina.data.documents import Reading
from lumina.data.files import expand, format_of
from lumina.data.quality import Judged
from lumina.data.report import DataError, DataReport, FileReport, Issue
from lumina.data.sources import DEFAULT, judged, read_documents
from lumina.data.survey import Counting, Tally

WHOLE_FILE = 0  # the line of an issue that is not in one line


def check_paths(
    paths: Sequence[str | Path], *, max_bad_fraction: float = 0.05, reading: Reading = DEFAULT
) -> DataReport:
    """Reads all files behind `paths` once and reports on each.

    Raises `DataError` with file and line: missing, empty, unreadable, damaged, without a usable sample, or with more
    than `max_bad_fraction` of its samples malformed.
    """
    files = []
    for path in expand(paths):
        report = _check_file(path, max_bad_fraction, reading)
        if (failure := report.failure()) is not None:
            raise failure
        files.append(report)
    return DataReport(tuple(files))


def survey_paths(
    paths: Sequence[str | Path], *, max_bad_fraction: float = 0.05, reading: Reading = DEFAULT,
    counting: Counting | None = None,
) -> DataReport:  # fmt: skip
    """The same for people who want to see everything: what cannot be used is reported on, not raised."""
    files = []
    for path, error in _each(paths):
        if error is not None:
            files.append(_absent(path, error))
        else:
            files.append(_check_file(path, max_bad_fraction, reading, counting))
    return DataReport(tuple(files))


def _each(paths: Iterable[str | Path]) -> Iterator[tuple[Path, DataError | None]]:
    seen: set[Path] = set()
    for given in paths:
        try:
            found = expand([given])
        except DataError as error:
            yield Path(given), error
            continue
        for path in found:
            if path not in seen:
                seen.add(path)
                yield path, None


def classify_paths(paths: Sequence[str | Path], reading: Reading = DEFAULT) -> tuple[list[Path], list[Path]]:
    """The files behind `paths` as (base text, conversations), by the first usable sample of each."""
    base: list[Path] = []
    conversations: list[Path] = []
    for path in expand(paths):
        first = next((item for item in read_documents(path, reading) if not isinstance(item, Issue)), None)
        (conversations if first is not None and first.messages else base).append(path)
    return base, conversations


def _check_file(
    path: Path, max_bad_fraction: float, reading: Reading = DEFAULT, counting: Counting | None = None
) -> FileReport:
    counting = counting or Counting()
    tally = Tally(counting, reading.quality_threshold)
    error: DataError | None = None
    size = 0
    try:
        size = _size(path)
        _read(path, reading, tally)
        tally.flush()
    except DataError as damage:
        tally.flush()
        tally.note(Issue(damage.line or WHOLE_FILE, damage.message))
        error = damage
    found = tally.statistics()
    error = error or _verdict(tally, found, max_bad_fraction)
    return FileReport(
        path=str(path),
        format=format_of(path),
        bytes=size,
        invalid=tally.invalid,
        issues=tuple(tally.issues),
        issues_not_listed=tally.not_listed,
        roles=dict(tally.roles),
        shown=tuple(tally.shown),
        error=None if error is None else error.message,
        error_line=None if error is None else error.line,
        **found,
    )


def _read(path: Path, reading: Reading, tally: Tally) -> None:
    tell = tally.counting.progress
    for item in judged(path, reading):
        tally.add(item)
        if tell is not None:
            tell(str(path), item.document.line if isinstance(item, Judged) else item.line)


def _verdict(tally: Tally, found: Mapping[str, Any], max_bad_fraction: float) -> DataError | None:
    """Why a file that was read to its end cannot be used."""
    bad = tally.first_invalid
    if not found["valid"]:
        return _without("no usable sample", bad)
    if bad is not None and tally.invalid > max_bad_fraction * found["samples"]:
        said = f"{bad.reason}; {tally.invalid:,} of {found['samples']:,} lines unusable (limit {max_bad_fraction:.0%})"
        return DataError(said, None, bad.line)
    all_low = found["valid"] == found["low_quality"]
    return _without("no sample of the wanted quality", tally.first_low) if all_low else None


def _without(what: str, first: Issue | None) -> DataError:
    if first is None:
        return DataError(what)
    return DataError(f"{what} (first: line {first.line}, {first.reason})", None, first.line)


def _absent(path: Path, error: DataError) -> FileReport:
    issue = Issue(error.line or WHOLE_FILE, error.message)
    return FileReport(str(path), None, None, 0, 0, 0, 0, (issue,), error=error.message, error_line=error.line)


def _size(path: Path) -> int:
    try:
        with path.open("rb"):
            size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", str(path)) from error
    if size == 0:
        raise DataError("the file is empty", str(path))
    return size
