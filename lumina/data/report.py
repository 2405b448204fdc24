"""What validation found, as data: per file, with every problem counted and the first ones named by line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
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
    """One rejected line."""

    line: int
    reason: str


@dataclass(frozen=True)
class FileReport:
    """One file; `issues` holds the first problems, `invalid` counts all of them."""

    path: str
    format: str
    kind: str
    bytes: int
    samples: int
    valid: int
    invalid: int
    issues: tuple[Issue, ...]


@dataclass(frozen=True)
class DataReport:
    """All files of a run, or of `lumina data check`."""

    files: tuple[FileReport, ...]

    @property
    def totals(self) -> dict[str, int]:
        names = ("bytes", "samples", "valid", "invalid")
        return {"files": len(self.files), **{name: sum(getattr(f, name) for f in self.files) for name in names}}

    def to_json(self) -> dict[str, Any]:
        return {"files": [dataclasses.asdict(file) for file in self.files], "totals": self.totals}

    def summary_lines(self) -> list[str]:
        """What a person reads before training: files, sizes, samples, and each problem with file and line."""
        lines = []
        for file in self.files:
            text = f"{file.path}: {file.format}, {file.kind}, {size(file.bytes)}, {file.valid:,} samples"
            lines.append(text + (f", {file.invalid:,} skipped" if file.invalid else ""))
            lines += [f"  {file.path}:{issue.line}: {issue.reason}" for issue in file.issues]
            if file.invalid > len(file.issues):
                lines.append(f"  ... and {file.invalid - len(file.issues):,} more")
        total = self.totals
        skipped = f", {total['invalid']:,} skipped" if total["invalid"] else ""
        lines.append(f"{total['files']} files, {size(total['bytes'])}, {total['valid']:,} samples{skipped}")
        return lines

    @property
    def paths(self) -> list[Path]:
        return [Path(file.path) for file in self.files]


def size(count: int) -> str:
    """Bytes in words."""
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
