"""How much of the validation data is in the training data, too: whole documents, and runs of tokens.

Memory is bounded by a sketch of the validation data; the training data passes by once. It knows tokens only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lumina.data.order import scramble
from lumina.data.tokens import DOCUMENTS_FILE, FIRST, TokenStore, view

GRAM = 12  # tokens of a run
SKETCH = 1 << 19  # runs of the validation data that are looked for
NEAR = 0.8  # share of a document's runs from which it counts as a near duplicate
WINDOW = 1 << 17  # tokens hashed at once, which takes about a hundred bytes each
FILTER = 1 << 23
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Overlap:
    """Validation documents: all, those that are in the training data word for word, and those with at least 80% of
    their runs of 12 tokens in it; and the share of all such runs."""

    documents: int
    exact: int
    near: int
    runs: float


def measure(train: list[TokenStore], held: list[TokenStore]) -> Overlap:
    """Exact repeats by the hashes of the documents, near ones by hashed runs (a FracMinHash sketch: the runs with the
    smallest hashes; Irber et al., 2022)."""
    exact = _exact(train, held)
    runs, document, documents = _sketch(held)
    found = _found(train, runs)
    whole = np.bincount(document, minlength=documents)
    seen = np.bincount(document[found], minlength=documents)
    near = int(((whole > 0) & (seen >= NEAR * whole)).sum())
    return Overlap(documents, exact, near, float(found.mean()) if len(found) else 0.0)


def _exact(train: list[TokenStore], held: list[TokenStore]) -> int:
    wanted = np.concatenate([np.zeros(0, np.uint64), *(hashes for store in held for hashes in _hashes(store))])
    seen = np.zeros(len(wanted), dtype=bool)
    for store in train:
        for hashes in _hashes(store):
            seen |= np.isin(wanted, hashes)
    return int(seen.sum())


def _hashes(store: TokenStore) -> Iterator[Hashes]:
    """Content hashes of the documents that lie wholly in this part, a batch at a time."""
    end = 0
    with pa.memory_map(str(store.folder / DOCUMENTS_FILE)) as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            lengths = view(batch["tokens"])
            ends = end + lengths.cumsum()
            inside = (ends - lengths >= store.start) & (ends <= store.stop)
            end = int(ends[-1])
            yield view(batch["hash"])[inside]


def _sketch(held: list[TokenStore]) -> tuple[Hashes, NDArray[np.int64], int]:
    """The smallest hashes of runs, the document of each, and the number of documents."""
    tokens = sum(map(len, held))
    limit = np.uint64(2**64 - 1) if tokens <= SKETCH else np.uint64((2**64 - 1) * (SKETCH / tokens))
    found: list[Hashes] = [np.zeros(0, np.uint64)]
    document: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    documents = 0
    for store in held:
        for ids, flags, fresh in _windows(store):
            number = documents - 1 + ((flags & FIRST) > 0).cumsum()
            runs = hashed_runs(ids)
            inside = (runs <= limit) & (number[: len(runs)] == number[GRAM - 1 :])
            found.append(runs[inside])
            document.append(number[: len(runs)][inside])
            documents += int(((flags[:fresh] & FIRST) > 0).sum())
    flat = np.concatenate(document)
    flat -= min(0, int(flat.min(initial=0)))  # a part may begin inside a document
    return np.concatenate(found), flat, max(documents, int(flat.max(initial=-1)) + 1)


def _found(train: list[TokenStore], runs: Hashes) -> NDArray[np.bool_]:
    """Which of the runs occur in the training data."""
    wanted, back = np.unique(runs, return_inverse=True)
    seen = np.zeros(len(wanted), dtype=bool)
    possible = np.zeros(FILTER, dtype=bool)
    possible[wanted & np.uint64(FILTER - 1)] = True
    top = wanted[-1] if len(wanted) else np.uint64(0)
    for store in train if len(wanted) else []:
        for ids, _, _ in _windows(store):
            here = hashed_runs(ids)
            here = here[possible[here & np.uint64(FILTER - 1)] & (here <= top)]
            at = np.searchsorted(wanted, here)
            seen[at[wanted[at] == here]] = True
    return seen[back]


def hashed_runs(ids: NDArray[np.uint32]) -> Hashes:
    """A hash of each run of `GRAM` = 8 + 4 tokens, by doubling."""
    if len(ids) < GRAM:
        return np.zeros(0, np.uint64)
    with np.errstate(over="ignore"):
        one = scramble(ids.astype(np.uint64))
        two = one[:-1] * np.uint64(0x9E3779B97F4A7C15) + one[1:]
        four = two[:-2] * np.uint64(0xC2B2AE3D27D4EB4F) + two[2:]
        eight = four[:-4] * np.uint64(0x165667B19E3779F9) + four[4:]
        return scramble(eight[:-4] * np.uint64(0x27D4EB2F165667C5) + four[8:])


def _windows(store: TokenStore) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint8], int]]:
    """Ids and flags in windows that share GRAM - 1 tokens, and how many of a window's tokens the next has not."""
    step = WINDOW - GRAM + 1
    for start in range(0, len(store), step):
        ids, flags = store.window(start, start + WINDOW)
        last = start + WINDOW >= len(store)
        yield ids, flags, len(ids) if last else step
        if last:
            return
