"""Training sequences as views of stored tokens: packed one after the other, or one document each, padded.

A sequence is cut out when it is asked for; nothing is stored twice. It knows no order and no sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lumina.data.tokens import FIRST, LOSS, TokenStore

BUCKETS = 8  # lengths that padded batches are rounded up to, at most
NARROWEST = 32  # tokens of the smallest bucket


@dataclass(frozen=True)
class Rows:
    """Sequences of T + 1 tokens [count, T + 1]; `loss` is 0 where no loss is taken on a token, `document` numbers the
    documents of a row from 0 on and is -1 at padding."""

    tokens: NDArray[np.int32]
    loss: NDArray[np.bool_]
    document: NDArray[np.int32]


class Sequences(Protocol):
    """All sequences of a source."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def tokens(self) -> int:
        """Tokens that a model sees in all of them, padding left out."""

    def rows(self, index: NDArray[np.int64]) -> Rows:
        """Those of these numbers."""


@dataclass(frozen=True)
class Packed:
    """Windows over the tokens in a row, each `length` + 1 long; a window begins `stride` tokens before the last one's
    end, and loss is taken on those in the earlier one only. What is left at the end fills one more, padded."""

    store: TokenStore
    length: int
    stride: int
    pad: int
    boundaries: bool

    @property
    def count(self) -> int:
        """Windows."""
        if len(self.store) < 2:
            return 0
        return 1 + max(0, -(-(len(self.store) - 1 - self.length) // (self.length - self.stride)))

    @property
    def tokens(self) -> int:
        """All tokens but the first, and those that windows repeat."""
        return max(0, len(self.store) - 1 + max(0, self.count - 1) * self.stride)

    def rows(self, index: NDArray[np.int64]) -> Rows:
        """Windows by their number."""
        starts = index * (self.length - self.stride)
        seen = np.where(index > 0, self.stride, 0)
        return _cut(self.store, starts, starts + self.length + 1, seen, self.length + 1, self.pad, self.boundaries)


class Padded:
    """One document each, or a piece of at most `length` + 1 tokens of a longer one, padded to a common length. They are
    sorted by length, so that neighbours need little padding."""

    def __init__(self, store: TokenStore, length: int, stride: int, pad: int) -> None:
        self.store, self.length, self.stride, self.pad = store, length, stride, pad
        start, stop, seen = _pieces(store.document_lengths(), length, stride)
        order = np.argsort(stop - start, kind="stable")
        self._start, self._stop, self._seen = start[order], stop[order], seen[order]

    @property
    def count(self) -> int:
        """Documents and pieces of longer ones."""
        return len(self._start)

    @property
    def tokens(self) -> int:
        """All tokens but the first of each piece."""
        return int((self._stop - self._start - 1).sum())

    def rows(self, index: NDArray[np.int64]) -> Rows:
        """Pieces by their number, as wide as the longest of them needs."""
        start, stop, seen = self._start[index], self._stop[index], self._seen[index]
        width = bucket(int((stop - start).max(initial=2)) - 1, self.length) + 1
        return _cut(self.store, start, stop, seen, width, self.pad, True)


def bucket(tokens: int, longest: int) -> int:
    """`tokens` rounded up to one of a few lengths."""
    step = max(NARROWEST, -(-longest // BUCKETS))
    return min(longest, max(1, -(-tokens // step)) * step)


def _pieces(lengths: NDArray[np.int64], longest: int, stride: int) -> tuple[NDArray[np.int64], ...]:
    """Start and stop of each piece, and how many of its tokens after the first the piece before has already."""
    ends = lengths.cumsum()
    begins, step = ends - lengths, longest - stride
    pieces = np.where(lengths < 2, 0, 1 + np.maximum(0, -(-(lengths - 1 - longest) // step)))
    document = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(document)) - np.repeat(pieces.cumsum() - pieces, pieces)
    start = begins[document] + number * step
    stop = np.minimum(start + longest + 1, ends[document])
    return start, stop, np.where(number > 0, stride, 0)


def _cut(store: TokenStore, start: NDArray[np.int64], stop: NDArray[np.int64], seen: NDArray[np.int64], width: int,
         pad: int, boundaries: bool) -> Rows:  # fmt: skip
    tokens = np.full((len(start), width), pad, dtype=np.int32)
    flags = np.zeros((len(start), width), dtype=np.uint8)
    held = np.empty((len(start), 1), dtype=np.int64)
    for row, (first, last) in enumerate(zip(start.tolist(), stop.tolist(), strict=True)):
        ids, marks = store.window(first, last)
        held[row] = len(ids)
        tokens[row, : len(ids)], flags[row, : len(ids)] = ids, marks
    place = np.arange(width)
    opens = (flags & FIRST) > 0
    opens[:, 0] = False
    document = opens.cumsum(1, dtype=np.int32) if boundaries else np.zeros(tokens.shape, np.int32)
    document[place >= held] = -1
    loss = ((flags & LOSS) > 0) & (place > seen[:, None])
    # The first token of a document follows from nothing that its document holds.
    return Rows(tokens, loss & ~opens if boundaries else loss, document)
