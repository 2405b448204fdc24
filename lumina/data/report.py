"""What validation found, as data: per file, with every problem counted and the first ones named by line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHOWN_ISSUES = 20


class DataError(Exception):
    """Data that cannot be used; `file` and `line` say where, as far as it has a place."""

    def __init__(self, message: str, file: str | None = None, line: int | None = None) -> None:
        where = f"{file}:{line}: " if file and line else (f"{file}: " if file else "")
        super().__init__(f"data error: {where}{message}")
        self.message, self.file, self.line = message, file, line


@dataclass(frozen=True)
class Issue:
    """One rejected line; in a table, one rejected row; line 0 is the file as a whole."""

    line: int
    reason: str


@dataclass(frozen=True)
class FileReport:
    """One file. `issues` holds the first problems in order; `invalid` and `low_quality` count all of them.

    `samples` is valid and invalid ones; a valid one of low quality is left out of training all the same. `tokens` is
    None where nothing was counted. `error` says why the file cannot be used.
    """

    path: str
    format: str | None
    kind: str | None
    bytes: int
    samples: int
    valid: int
    invalid: int
    issues: tuple[Issue, ...]
    low_quality: int = 0
    issues_not_listed: int = 0
    forms: dict[str, int] = field(default_factory=dict)
    roles: dict[str, int] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, Any] | None = None
    lengths: tuple[dict[str, int], ...] = ()
    shown: tuple[dict[str, Any], ...] = ()
    error: str | None = None
    error_line: int | None = None

    @property
    def usable(self) -> bool:
        """Whether it can be trained on."""
        return self.error is None

    def failure(self) -> DataError | None:
        """The error to raise when this file was to be trained on."""
        return None if self.error is None else DataError(self.error, self.path, self.error_line)

    def to_json(self) -> dict[str, Any]:
        """What `lumina data check --json` prints of the file."""
        return {**dataclasses.asdict(self), "usable": self.usable}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> FileReport:
        """The report that `to_json` was made of."""
        values = {one.name: doc[one.name] for one in dataclasses.fields(cls)}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**{**values, "issues": tuple(Issue(**issue) for issue in doc["issues"])})


@dataclass(frozen=True)
class DataReport:
    """All files of a run, or of `lumina data check`."""

    files: tuple[FileReport, ...]

    @property
    def totals(self) -> dict[str, int]:
        """Sums over all files."""
        names = ("bytes", "samples", "valid", "invalid", "low_quality")
        return {"files": len(self.files), **{name: sum(getattr(f, name) for f in self.files) for name in names}}

    def to_json(self) -> dict[str, Any]:
        """What `lumina data check --json` prints of all files."""
        tokens = [file.tokens["total"] for file in self.files if file.tokens]
        totals: dict[str, Any] = {**self.totals, "tokens": sum(tokens) if tokens else None, "roles": self.roles}
        return {"files": [file.to_json() for file in self.files], "totals": totals}

    @property
    def roles(self) -> dict[str, int]:
        """Messages of each role in all files."""
        names = dict.fromkeys(name for file in self.files for name in file.roles)
        return {name: sum(file.roles.get(name, 0) for file in self.files) for name in names}

    def failure(self) -> DataError | None:
        """The first file's error, or None when all of them can be used."""
        return next((error for file in self.files if (error := file.failure())), None)

    def summary_lines(self, shown: int = SHOWN_ISSUES) -> list[str]:
        """What a person reads before training: files, sizes, samples, and each problem with file and line."""
        lines = []
        for file in self.files:
            if file.format is not None:
                lines.append(_summary(file))
            lines += issue_lines(file, shown)
        total = self.totals
        lines.append(f"{total['files']} files, {size(total['bytes'])}, {_counts(total)}")
        return lines

    @property
    def paths(self) -> list[Path]:
        """Every file, in order."""
        return [Path(file.path) for file in self.files]


def issue_lines(file: FileReport, shown: int) -> list[str]:
    """The first `shown` problems of a file, a line each, and how many more there are."""
    lines = [f"  {file.path}:{issue.line or ''}: {issue.reason}".replace("::", ":") for issue in file.issues[:shown]]
    more = len(file.issues[shown:]) + file.issues_not_listed
    return [*lines, f"  ... and {more:,} more"] if more else lines


def _summary(file: FileReport) -> str:
    forms = [form for form in file.forms if form not in ("text", "conversation")]
    kind = f"{file.kind} ({', '.join(forms)})" if forms else file.kind or "nothing usable"
    return f"{file.path}: {file.format}, {kind}, {size(file.bytes)}, {_counts(dataclasses.asdict(file))}"


def _counts(counts: dict[str, Any]) -> str:
    skipped = f", {counts['invalid']:,} skipped" if counts["invalid"] else ""
    low = f", {counts['low_quality']:,} of low quality" if counts["low_quality"] else ""
    return f"{counts['valid']:,} samples{skipped}{low}"


def size(count: int) -> str:
    """Bytes in words."""
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
