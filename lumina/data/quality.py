"""The quality of a sample, from 0 to 1: one minus what damage, noise, repetition and shortness take away.

The formula is written out in docs/data.md. It looks at characters only and knows no language.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.data.documents import Document
from lumina.data.report import DataError, Issue

PENALTIES = ("damage", "control", "symbols", "repeated_characters", "repeated_lines", "repetition", "unbroken", "short")
BATCH_SAMPLES = 512
BATCH_CHARACTERS = 1 << 20
LOOKED_AT = 1 << 16  # characters of a sample that are scored; the rest of a long one is taken to be alike
RUN = 24  # equal characters in a row from which they count as repeated
WORD = 120  # characters without a space from which they count as unbroken
ENOUGH = 50  # visible characters from which the share of symbols says something
LINE = 20  # characters from which a line that comes again counts as repeated

_DAMAGE, _CONTROL, _SYMBOL, _SPACE, _WIDE = 1, 2, 4, 8, 16
_PLAIN_SYMBOLS = frozenset("""()[]{}<>.,;:!?'"-_/%&@""")
_EVIDENCE = (b"\xc3\x83\xc2", b"\xc3\xa2\xe2\x82\xac")  # UTF-8 that was read as Latin-1 and saved again: "Ã.", "â€"


@dataclass(frozen=True)
class Quality:
    """The score, and what each penalty took, without those that took nothing."""

    score: float
    penalties: dict[str, float]

    def reason(self, threshold: float) -> str:
        took = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in self.penalties.items())
        return f"quality {self.score:.2f} is below {threshold:g} ({took})"


@dataclass(frozen=True)
class Judged:
    """A document and its quality."""

    document: Document
    quality: Quality


def judge(items: Iterable[Document | Issue]) -> Iterator[Judged | Issue]:
    """The same items in the same order, every document with its quality."""
    held: list[Document | Issue] = []
    characters = 0
    try:
        for item in items:
            held.append(item)
            characters += sum(map(len, item.texts)) if isinstance(item, Document) else 0
            if len(held) >= BATCH_SAMPLES or characters >= BATCH_CHARACTERS:
                yield from _judge(held)
                held, characters = [], 0
    except DataError:  # what came before the damage counts
        yield from _judge(held)
        raise
    yield from _judge(held)


def _judge(items: list[Document | Issue]) -> Iterator[Judged | Issue]:
    qualities = iter(qualities_of(["\n".join(item.texts) for item in items if isinstance(item, Document)]))
    for item in items:
        yield Judged(item, next(qualities)) if isinstance(item, Document) else item


def qualities_of(texts: list[str]) -> list[Quality]:
    """The quality of each text."""
    if not texts:
        return []
    seen = [text[:LOOKED_AT] for text in texts]
    table = _penalties(seen)
    result = []
    for row in table:
        took = {name: round(float(value), 4) for name, value in zip(PENALTIES, row, strict=True) if value > 0}
        result.append(Quality(max(0.0, 1.0 - float(row.sum())), took))
    return result


def _penalties(texts: list[str]) -> NDArray[np.float64]:
    """[texts, PENALTIES]: what each takes away."""
    raw = "\n".join(texts).encode("utf-32-le", "replace")
    codes = np.frombuffer(raw, dtype=np.uint32)
    lengths = np.array([len(text) for text in texts])
    starts = np.concatenate(([0], np.cumsum(lengths + 1)[:-1]))
    ends = starts + lengths
    classes = _classes()[codes]
    solid = (classes & _SPACE) == 0
    visible = np.maximum(1, _counted(solid, starts, ends))

    def share(flags: NDArray[Any]) -> NDArray[np.float64]:
        return _counted(flags, starts, ends) / visible

    same = np.concatenate(([False], codes[1:] == codes[:-1]))
    unbroken = solid & ((classes & _WIDE) == 0)
    return np.stack(
        [
            10 * share((classes & _DAMAGE) != 0) + np.array([10 * _misread(text) for text in texts]),
            10 * share((classes & _CONTROL) != 0),
            np.where(visible < ENOUGH, 0.0, _above(share((classes & _SYMBOL) != 0), 0.5)),
            _above(share(_in_runs(same & solid, RUN - 1)), 0.5),
            _above(np.array([_repeated_lines(text) for text in texts]), 0.5),
            np.array([_repetition(text) for text in texts]),
            _above(share(_in_runs(unbroken, WORD)), 0.5),
            np.maximum(0.0, 3 - _counted(solid, starts, ends)) / 20,
        ],
        axis=1,
    ).clip(0.0, 1.0)


def _above(share: NDArray[np.float64], tolerated: float) -> NDArray[np.float64]:
    """0 up to what is tolerated, 1 for all."""
    return np.maximum(0.0, share - tolerated) / (1 - tolerated)


def _counted(flags: NDArray[Any], starts: NDArray[Any], ends: NDArray[Any]) -> NDArray[np.float64]:
    """How many flags are set between each start and end."""
    total = np.concatenate(([0], np.cumsum(flags, dtype=np.int64)))
    counted: NDArray[np.float64] = (total[ends] - total[starts]).astype(np.float64)
    return counted


def _in_runs(flags: NDArray[Any], least: int) -> NDArray[Any]:
    """The flags that stand in a row of at least `least`."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.view(np.int8), [0]))))
    begins, stops = edges[::2], edges[1::2]
    long = stops - begins >= least
    marks = np.zeros(len(flags) + 1, dtype=np.int8)
    marks[begins[long]] = 1
    marks[stops[long]] = -1
    return np.cumsum(marks[:-1]).astype(bool)


def _misread(text: str) -> float:
    """Share of the text that is UTF-8 once read as Latin-1."""
    if text.isascii():
        return 0.0
    data = text.encode("utf-8", "replace")
    return sum(data.count(mark) for mark in _EVIDENCE) / len(text)


def _repeated_lines(text: str) -> float:
    """Share of the characters that stand in longer lines which came before."""
    lines = [line for line in text.split("\n") if len(line) >= LINE]
    return (sum(map(len, lines)) - sum(map(len, set(lines)))) / max(1, len(text))


def _repetition(text: str) -> float:
    """0 for what compresses less than ten times, as every text does that says something; 1 from thirty times on."""
    if len(text) < 400:
        return 0.0
    data = text.encode("utf-8", "replace")
    ratio = len(data) / len(zlib.compress(data, 1))
    return max(0.0, min(1.0, (ratio - 10) / 20))


@lru_cache(maxsize=1)
def _classes() -> NDArray[np.uint8]:
    """What every code point is: damage, control, symbol, space, or of a script that is written without spaces."""
    table = np.zeros(0x110000, dtype=np.uint8)
    for code in range(0x20000):
        letter = chr(code)
        category = unicodedata.category(letter)
        if code == 0xFFFD or category in ("Co", "Cs") or (code & 0xFFFE) == 0xFFFE:
            table[code] = _DAMAGE
        elif category == "Cc":
            table[code] = _SPACE if letter in "\t\n\r\f\v\x85" else _CONTROL
        elif category.startswith("Z"):
            table[code] = _SPACE
        elif category[0] in "SP" and letter not in _PLAIN_SYMBOLS and not _is_plain_punctuation(code, category):
            table[code] = _SYMBOL
        elif code >= 0x0E00:
            table[code] = _WIDE
    table[0x20000:] = _WIDE
    table[0xF0000:] = _DAMAGE
    return table


def _is_plain_punctuation(code: int, category: str) -> bool:
    """Marks of other scripts that stand in their ordinary text."""
    return code > 0x7F and category.startswith("P")
