"""How hard sequences are: before training by how rare their tokens are, during it by the losses that they had.

The first orders a curriculum, the second lets harder sequences come more often. It knows no model and no steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.data.order import Index, draws, key_of
from lumina.data.sequences import Sequences
from lumina.store import atomic

CHUNK = 512  # sequences scored at once
TABLE = "loss_history"


def surprisal(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """-log of each token's share of the training tokens, in nats; unseen tokens count as seen once."""
    share = np.maximum(counts, 1) / max(1, counts.sum())
    nats: NDArray[np.float32] = (-np.log(share)).astype(np.float32)
    return nats


def easiest_first(sequences: Sequences, nats_of: NDArray[np.float32], remembered: Path) -> Index:
    """Sequences by the mean surprisal of the tokens that carry loss, kept in the file `remembered`."""
    if not remembered.exists():
        score = np.empty(sequences.count, dtype=np.float32)
        for start in range(0, len(score), CHUNK):
            rows = sequences.rows(np.arange(start, min(start + CHUNK, len(score))))
            nats = nats_of[rows.tokens] * rows.loss
            score[start : start + CHUNK] = nats.sum(1) / np.maximum(1, rows.loss.sum(1))
        remembered.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_file(remembered, np.argsort(score, kind="stable").astype(np.int64).tobytes())
    found: Index = np.memmap(remembered, dtype=np.int64, mode="r")
    return found


class LossHistory:
    """The newest loss of every sequence, and the choice that follows from it.

    With chance `strength` a sequence gets a rival, drawn from the same source, and gives way to it when both have been
    seen and the rival's loss is higher. So no sequence is ever ruled out, and one that was not seen yet stands.
    """

    def __init__(self, sizes: list[int], strength: float, seed: int) -> None:
        self.strength, self._seed = strength, seed
        self._start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._loss = np.full(int(self._start[-1]), np.nan, dtype=np.float32)

    def choose(self, source: int, row: Index, position: Index) -> Index:
        """The sequences to take where the order has `row` at `position`."""
        first, last = self._start[source], self._start[source + 1]
        chance = (draws(position, key_of(self._seed, 8)) >> np.uint64(11)) * 2.0**-53
        challenged = chance < self.strength
        rival = (draws(position, key_of(self._seed, 9)) % np.uint64(last - first)).astype(np.int64)
        with np.errstate(invalid="ignore"):
            harder = self._loss[first + rival] > self._loss[first + row]  # False while either is unknown
        return np.where(challenged & harder, rival, row)

    def ids(self, source: int, row: Index) -> Index:
        """One number for each sequence over all sources."""
        number: Index = self._start[source] + row
        return number

    def record(self, ids: Index, losses: NDArray[Any]) -> None:
        """Takes in the losses of a step; those that are not finite are left out."""
        known = np.isfinite(losses)
        self._loss[ids[known]] = losses[known]

    def state(self) -> dict[str, NDArray[np.float32]]:
        """A copy of the table, for the checkpoint."""
        return {TABLE: self._loss.copy()}

    def restore(self, tables: dict[str, NDArray[np.float32]]) -> None:
        """Takes over a stored table, or forgets everything where there is none."""
        self._loss[:] = tables.get(TABLE, np.float32(np.nan))
