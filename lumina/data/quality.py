"""The quality of a sample, from 0 to 1: one minus what damage, noise, repetition and shortness take away.

The formula is written out in docs/data.md. It looks at characters only and knows no language.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.data.documents import Document
from lumina.data.report import Issue

LOOKED_AT = 1 << 16  # characters of a sample that are scored; the rest of a long one is taken to be alike
RUN = 24  # equal characters in a row from which they count as repeated
WORD = 120  # characters without a space from which they count as unbroken
LINE = 20  # characters from which a line that comes again counts as repeated
ENOUGH = 50  # visible characters from which the share of symbols says something
PHRASE = 1 << 13  # bytes that are looked at for phrases that come again and again
DISTINCT = 0.4  # share of distinct words from which nothing comes again and again

PENALTIES = ("damage", "control", "symbols", "repeated_characters", "repeated_lines", "repetition", "unbroken", "short")
_DAMAGE, _CONTROL, _SYMBOL, _SPACE, _WIDE = 1, 2, 3, 4, 5
_SPACES = b" \t\n\r\f\v"
_CONTROLS = bytes(code for code in (*range(32), 127) if code not in _SPACES)
_SYMBOLS = b"#$*+=^`|~\\"
_WORDS = bytes(32 if code in _SPACES else 120 for code in range(256))  # every byte of a word as x
_LONG_WORD = b"x" * WORD
_EVIDENCE = (b"\xc3\x83\xc2", b"\xc3\xa2\xe2\x82\xac")  # UTF-8 that was read as Latin-1 and saved again: "Ã.", "â€"
_ASCII = re.compile(r"[\x00-\x7f]+")


@dataclass(frozen=True)
class Quality:
    """The score, and what each penalty took, without those that took nothing."""

    score: float
    penalties: dict[str, float]

    def reason(self, threshold: float) -> str:
        """Why a sample of this quality is left out."""
        took = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in self.penalties.items())
        return f"quality {self.score:.2f} is below {threshold:g} ({took})"


@dataclass(frozen=True)
class Judged:
    """A document and its quality."""

    document: Document
    quality: Quality


PERFECT = Quality(1.0, {})


def judge(items: Iterable[Document | Issue]) -> Iterator[Judged | Issue]:
    """The same items in the same order, every document with its quality."""
    for item in items:
        yield Judged(item, quality_of("\n".join(item.texts))) if isinstance(item, Document) else item


def quality_of(text: str) -> Quality:
    """The quality of a text."""
    text = text[:LOOKED_AT]
    data = text.encode("utf-8", "replace")
    other = "" if text.isascii() else _ASCII.sub("", text)
    counts = _classes_of(other) if other else np.zeros(_WIDE + 1, dtype=np.int64)
    ascii_size = len(text) - len(other)
    visible = ascii_size - _among(data, _SPACES) + len(other) - int(counts[_SPACE])
    of = max(1, visible)
    words = data.split()
    took = (
        10 * (int(counts[_DAMAGE]) / of + _misread(data, len(text)) if other else 0.0),
        10 * (_among(data, _CONTROLS) + int(counts[_CONTROL])) / of,
        _above((_among(data, _SYMBOLS) + int(counts[_SYMBOL])) / of) if visible >= ENOUGH else 0.0,
        _above(_repeated(text, data, of, ascii_only=not other) / of),
        _above(_repeated_lines(text)),
        _repetition(data, words),
        _above(_unbroken(text, data, words, ascii_only=not other) / of),
        max(0, 3 - visible) / 20,
    )
    if not any(took):
        return PERFECT
    penalties = {name: round(min(1.0, value), 4) for name, value in zip(PENALTIES, took, strict=True) if value > 0}
    return Quality(max(0.0, 1.0 - sum(penalties.values())), penalties)


def _above(share: float) -> float:
    """0 up to one half, 1 for all."""
    return max(0.0, 2 * share - 1)


def _among(data: bytes, wanted: bytes) -> int:
    """How many bytes are among the wanted ones."""
    return len(data) - len(data.translate(None, wanted))


def _repeated(text: str, data: bytes, visible: int, *, ascii_only: bool) -> int:
    """Visible characters in a row of at least `RUN` equal ones."""
    codes: NDArray[Any] = _codes(text, data, ascii_only=ascii_only)
    same = codes[1:] == codes[:-1]
    if 2 * np.count_nonzero(same) < visible * (RUN - 1) // RUN:  # far from one half
        return 0
    edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).view(np.int8)))
    begins, sizes = edges[::2], edges[1::2] - edges[::2] + 1
    letters = [text[begin] for begin in begins] if len(begins) else []
    return sum(int(size) for size, letter in zip(sizes, letters, strict=True) if size >= RUN and not letter.isspace())


def _codes(text: str, data: bytes, *, ascii_only: bool) -> NDArray[Any]:
    if ascii_only:
        return np.frombuffer(data, dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)


def _unbroken(text: str, data: bytes, words: list[bytes], *, ascii_only: bool) -> int:
    """Characters in words of at least `WORD`, without scripts that need no spaces."""
    if _LONG_WORD not in data.translate(_WORDS):
        return 0
    if ascii_only:
        return sum(len(word) for word in words if len(word) >= WORD)
    kinds = _classes()[np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)]
    plain = (kinds != _SPACE) & (kinds != _WIDE)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], plain, [False])).view(np.int8)))
    sizes = edges[1::2] - edges[::2]
    return int(sizes[sizes >= WORD].sum())


def _misread(data: bytes, characters: int) -> float:
    """Share of the text that is UTF-8 once read as Latin-1."""
    return sum(data.count(mark) for mark in _EVIDENCE) / characters


def _repeated_lines(text: str) -> float:
    """Share of the characters that stand in longer lines which came before."""
    lines = [line for line in text.split("\n") if len(line) >= LINE]
    if len(lines) < 2:
        return 0.0
    return (sum(map(len, lines)) - sum(map(len, set(lines)))) / len(text)


def _repetition(data: bytes, words: list[bytes]) -> float:
    """0 for what compresses less than ten times, as every text does that says something; 1 from thirty times on."""
    if len(data) < 400:
        return 0.0
    if len(data) > PHRASE:
        data = data[:PHRASE]
        words = data.split()
    if len(set(words)) >= DISTINCT * len(words) and len(words) >= len(data) / 20:
        return 0.0
    ratio = len(data) / len(zlib.compress(data, 1))
    return max(0.0, min(1.0, (ratio - 10) / 20))


def _classes_of(other: str) -> NDArray[np.int64]:
    """How many of the characters beyond ASCII are of each class."""
    codes = np.frombuffer(other.encode("utf-32-le", "replace"), dtype=np.uint32)
    return np.bincount(_classes()[codes], minlength=_WIDE + 1)


@lru_cache(maxsize=1)
def _classes() -> NDArray[np.uint8]:
    """What every code point is: damage, control, symbol, space, of a script that is written without spaces, or 0."""
    table = np.zeros(0x110000, dtype=np.uint8)
    for code in range(0x20000):
        category = unicodedata.category(chr(code))
        if code == 0xFFFD or category in ("Co", "Cs") or (code & 0xFFFE) == 0xFFFE:
            table[code] = _DAMAGE
        elif category == "Cc":
            table[code] = _SPACE if chr(code).isspace() else _CONTROL
        elif category.startswith("Z"):
            table[code] = _SPACE
        elif category.startswith("S") and code > 0x7F:
            table[code] = _SYMBOL
        elif code >= 0x0E00:
            table[code] = _WIDE
    table[0x20000:] = _WIDE
    table[0xF0000:] = _DAMAGE
    return table
