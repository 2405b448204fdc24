"""The rows of the fault matrix: what is injected, what is expected, and what each try of a row came to.

A row is declared on the test that tries it; the table in docs/reliability.md is made of these declarations and of what
the long form really did. Nothing here knows how a fault is injected.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

LONG: Final = os.environ.get("LUMINA_FAULTS") == "long"
SEED: Final = 20_260


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    injected: str
    expected: str

    @classmethod
    def of(cls, item: pytest.Item) -> Row | None:
        mark = item.get_closest_marker("row")
        return None if mark is None else cls(*mark.args)


def row(name: str, *, injected: str, expected: str) -> pytest.MarkDecorator:
    """Declares the test as a row of the matrix."""
    return pytest.mark.row(name, injected, expected)


def often(short: int, long: int) -> int:
    """How many times: `short` in continuous integration, `long` under `make faults`."""
    return long if LONG else short


@dataclass
class Tally:
    """What one test tried; `doc` goes into the test's report, and from there into the table."""

    doc: dict[str, Any] = field(default_factory=lambda: {"tried": 0, "lost": [], "figures": []})

    def tried(self, times: int = 1) -> None:
        """Counts injections that were confirmed to have hit."""
        self.doc["tried"] += times

    def lost(self, what: str) -> None:
        """Names what was expected to be lost, and was; a row without it lost nothing."""
        if what not in self.doc["lost"]:
            self.doc["lost"].append(what)

    def figure(self, text: str) -> None:
        self.doc["figures"].append(text)
