"""Batches by position. The position is the number of sequences consumed since the start; beside the losses that
difficulty sampling remembers, it is the only state. It knows no files and no steps."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.data.difficulty import LossHistory
from lumina.data.mix import Mixture
from lumina.data.order import Index, Order
from lumina.data.sequences import Rows, Sequences

NO_LOSS = -100
THREAD_NAME = "lumina-data"


@dataclass(frozen=True)
class Batch:
    """Tokens [count, T]; the next token of each position [count, T], or -100 where no loss is taken; the document of
    each position, None where every row is one document; and a number for each sequence."""

    tokens: NDArray[np.int32]
    labels: NDArray[np.int64]
    documents: NDArray[np.int32] | None
    ids: Index


class Loader:
    """Reads the sequences of a mixture of sources, each in its own order.

    Of `world` ranks, number `rank` gets every `world`-th sequence of a batch. `workers` threads read the batches that
    come next while nothing jumps; with a history they have nothing to do, since a choice waits for the losses before.
    """

    def __init__(self, sources: Sequence[tuple[Sequences, Order]], mixture: Mixture, *, rank: int = 0, world: int = 1,
                 workers: int = 0, history: LossHistory | None = None, epoch: int | None = None) -> None:  # fmt: skip
        self.sequences_per_epoch = epoch or sum(one.count for one, _ in sources)
        self._sources, self._mixture = list(sources), mixture
        self._rank, self._world = rank, world
        self.history = history
        self._start = np.concatenate([[0], np.cumsum([one.count for one, _ in sources])]).astype(np.int64)
        self._ahead: dict[tuple[int, int], Future[Batch]] = {}
        self._workers = workers if history is None else 0
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=THREAD_NAME) if self._workers else None

    def epoch_of(self, position: int) -> int:
        """Completed epochs."""
        return position // self.sequences_per_epoch

    def batch(self, position: int, count: int) -> Batch:
        """This rank's part of the `count` sequences from `position` on; a batch may reach into the next epoch."""
        if self._pool is None:
            return self._read(position, count)
        ready = self._ahead.pop((position, count), None)
        expected = [(position + count * (1 + number), count) for number in range(2 * self._workers)]
        for key in [key for key in self._ahead if key not in expected]:
            self._ahead.pop(key).cancel()
        for key in expected:
            if key not in self._ahead:
                self._ahead[key] = self._pool.submit(self._read, *key)
        return self._read(position, count) if ready is None else ready.result()

    def record(self, ids: Index, losses: NDArray[Any]) -> None:
        """Takes in the losses of the sequences of a step, where difficulty sampling wants them."""
        if self.history is not None:
            self.history.record(ids, losses)

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def locate(self, position: int, count: int) -> tuple[NDArray[np.int64], Index]:
        """Source and row of this rank's sequences of a batch."""
        at = np.arange(position + self._rank, position + count, self._world)
        source, nth = self._mixture.locate(at)
        row = np.empty_like(nth)
        for one in np.unique(source):
            here = source == one
            row[here] = self._sources[one][1].rows(nth[here])
            if self.history is not None:
                row[here] = self.history.choose(int(one), row[here], at[here])
        return source, row

    def _read(self, position: int, count: int) -> Batch:
        source, row = self.locate(position, count)
        present = np.unique(source) if len(source) else [0]  # a rank's part of a small batch may be empty
        parts = [(source == one, self._sources[one][0].rows(row[source == one])) for one in present]
        rows = parts[0][1] if len(parts) == 1 else _together(parts, len(row))
        labels = np.where(rows.loss[:, 1:], rows.tokens[:, 1:], NO_LOSS).astype(np.int64)
        document = rows.document[:, :-1]
        plain = not document.any()  # every position is of its row's first document
        return Batch(
            np.ascontiguousarray(rows.tokens[:, :-1]), labels, None if plain else np.ascontiguousarray(document),
            self._start[source] + row,
        )  # fmt: skip


def _together(parts: list[tuple[NDArray[Any], Rows]], count: int) -> Rows:
    """Rows of several sources in their places, the shorter ones padded."""
    width = max(rows.tokens.shape[1] for _, rows in parts)
    tokens, loss = np.zeros((count, width), np.int32), np.zeros((count, width), np.bool_)
    document = np.full((count, width), -1, np.int32)
    for here, rows in parts:
        own = rows.tokens.shape[1]
        tokens[here, :own], loss[here, :own], document[here, :own] = rows.tokens, rows.loss, rows.document
    return Rows(tokens, loss, document)
