"""Small stored tokens and sequences for the tests of the data pipeline, made without files or tokenizers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from lumina.data.loader import Loader
from lumina.data.mix import Mixture
from lumina.data.order import Order, Shuffled
from lumina.data.sequences import Packed, Padded, Sequences
from lumina.data.tokens import FIRST, LOSS, TokenStore, TokenWriter

PAD = 0


def stored(lengths: list[int], first_id: int = 1, vocab: int = 200_000) -> TokenStore:
    """Documents of these lengths; every token of them has an id of its own, counted up from `first_id`."""
    folder = Path(tempfile.mkdtemp()) / "tokens"
    with TokenWriter(folder, vocab) as writer:
        for number, length in enumerate(lengths):
            flags = np.full(length, LOSS, dtype=np.uint8)
            flags[0] |= FIRST
            writer.add(np.arange(first_id + writer.tokens, first_id + writer.tokens + length), flags)
            writer.end_document(length, number)
    return TokenStore(folder, 0, writer.tokens)


def packed(lengths: list[int], length: int = 8, stride: int = 0, boundaries: bool = True, first_id: int = 1) -> Packed:
    return Packed(stored(lengths, first_id), length, stride, PAD, boundaries)


def padded(lengths: list[int], length: int = 8, stride: int = 0) -> Padded:
    return Padded(stored(lengths), length, stride, PAD)


def loader(parts: list[Sequences], mixture: Mixture, orders: list[Order] | None = None, **more: int) -> Loader:
    orders = orders or [Shuffled(part.count, 5) for part in parts]
    return Loader(list(zip(parts, orders, strict=True)), mixture, **more)
