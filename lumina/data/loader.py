"""Batches by position. The position is the number of sequences consumed since the start, and the only state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.data.sequences import SequenceSet

NO_LOSS = -100


@dataclass(frozen=True)
class Batch:
    """Tokens [count, T] and the next token of each position [count, T], or -100 where no loss is taken."""

    tokens: NDArray[np.int32]
    labels: NDArray[np.int64]


class Loader:
    """Reads sequences in an order that is a new permutation for each epoch; `seed` None keeps the stored order."""

    def __init__(self, sequences: SequenceSet, seed: int | None) -> None:
        self._sequences = sequences
        self._seed = seed
        self._order: tuple[int, NDArray[Any]] | None = None

    @property
    def sequences_per_epoch(self) -> int:
        return self._sequences.count

    def epoch_of(self, position: int) -> int:
        """Completed passes over the data."""
        return position // self.sequences_per_epoch

    def batch(self, position: int, count: int) -> Batch:
        """The `count` sequences from `position` on; a batch may reach into the next epoch."""
        rows = np.array([self._row(position + offset) for offset in range(count)])
        tokens = self._sequences.tokens[rows]
        labels = tokens[:, 1:].astype(np.int64)
        if self._sequences.mask is not None:
            labels[self._sequences.mask[rows][:, 1:] == 0] = NO_LOSS
        return Batch(np.ascontiguousarray(tokens[:, :-1]), labels)

    def _row(self, position: int) -> int:
        epoch, index = divmod(position, self.sequences_per_epoch)
        if self._seed is None:
            return index
        if self._order is None or self._order[0] != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(self.sequences_per_epoch)
            self._order = (epoch, order)
        return int(self._order[1][index])
