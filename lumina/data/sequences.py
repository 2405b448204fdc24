"""Packed sequences on disk: fixed-length rows of token ids, read through a memory map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SequenceSet:
    """Rows [count, T + 1] of token ids, and a mask of the same shape (0: no loss), or None for all."""

    tokens: NDArray[np.int32]
    mask: NDArray[np.uint8] | None

    @property
    def count(self) -> int:
        return len(self.tokens)


def pack(documents: Iterable[tuple[list[int], list[int]]], length: int, pad: int) -> SequenceSet:
    """Joins (ids, mask) documents and cuts them into rows of `length` + 1; neighbours share one token.

    What is left at the end fills one more row, padded without loss, so that no token is lost.
    """
    ids: list[int] = []
    mask: list[int] = []
    for document, flags in documents:
        ids += document
        mask += flags
    rows = max(1, -(-(len(ids) - 1) // length))
    tokens = np.full(rows * length + 1, pad, dtype=np.int32)
    flags_all = np.zeros(rows * length + 1, dtype=np.uint8)
    tokens[: len(ids)] = ids
    flags_all[: len(ids)] = mask
    starts = np.arange(rows)[:, None] * length + np.arange(length + 1)[None, :]
    return SequenceSet(tokens[starts], flags_all[starts])


def store(sequences: SequenceSet, stem: Path) -> None:
    """Writes `<stem>.tokens.npy` and `<stem>.mask.npy`."""
    np.save(stem.with_suffix(".tokens.npy"), sequences.tokens)
    np.save(stem.with_suffix(".mask.npy"), sequences.mask)  # type: ignore[arg-type]


def load(stem: Path) -> SequenceSet:
    """Memory-mapped rows written by `store`."""
    tokens: NDArray[Any] = np.load(stem.with_suffix(".tokens.npy"), mmap_mode="r", allow_pickle=False)
    mask: NDArray[Any] = np.load(stem.with_suffix(".mask.npy"), mmap_mode="r", allow_pickle=False)
    return SequenceSet(tokens, mask)
