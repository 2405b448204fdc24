"""The reader's bookmark in a run's series: what it has seen, so that the next answer holds only what is new.

It knows how a bookmark is written; it must not know where points are stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_TEXT = re.compile(r"([0-9a-f]{8})-(\d{1,15})((?:~\d{1,15}(?:\.\d{1,9})+)*)")


@dataclass(frozen=True)
class Cursor:
    """`last` is the newest step seen of each series (by its number) on the line that ends in segment `segment`.

    One step for all series would not do: a validation loss of step s is stored long after the loss of step s.
    `store` names the database, so that a bookmark of another run or of a lost database is noticed.
    """

    store: str
    segment: int
    last: Mapping[int, int]

    def encode(self) -> str:
        """As text that needs no escaping in a URL."""
        by_step: dict[int, list[int]] = {}
        for series, step in sorted(self.last.items()):
            by_step.setdefault(step, []).append(series)
        groups = [f"~{step}." + ".".join(map(str, series)) for step, series in sorted(by_step.items())]
        return f"{self.store}-{self.segment}" + "".join(groups)

    @classmethod
    def decode(cls, text: str | None) -> Cursor | None:
        """The cursor written as `text`; None for whatever is not one."""
        match = _TEXT.fullmatch(text or "")
        if match is None:
            return None
        last: dict[int, int] = {}
        for group in match[3].split("~")[1:]:
            step, *series = group.split(".")
            last.update((int(number), int(step)) for number in series)
        return cls(match[1], int(match[2]), last)
