"""What a wrong configuration looks like to its reader: a list of problems, each with path, file and line.
Knows nothing of the parameters themselves."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `path` is dotted (``model.num_heads``); `file` and `line` (from 1) are None for an
    override given on the command line or from Python."""

    path: str
    message: str
    file: str | None = None
    line: int | None = None
    hint: str = ""

    def __str__(self) -> str:
        where = "" if self.file is None else f" ({self.file})" if self.line is None else f" ({self.file}:{self.line})"
        return f"{self.message}{where}" + (f"; {self.hint}" if self.hint else "")


class ConfigError(Exception):
    """The configuration cannot be used. ``problems`` has all of them; ``str()`` prints one per line."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` may be a misspelling of."""
    found = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """``"did you mean X?"`` for the nearest of `candidates`, or an empty string when nothing is near."""
    found = nearest(word, candidates)
    return f"did you mean {found}?" if found else ""
