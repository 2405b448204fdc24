"""Tokens on disk: one Arrow file of tokens in a row and one of documents, written as a stream and memory-mapped.

It knows documents as lengths and hashes; what a sequence is, and who reads it when, is not its business.
"""

from __future__ import annotations

import mmap
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

LOSS, FIRST = 1, 2  # flags of a token: it carries loss; it is the first of a document
BATCH = 1 << 20  # tokens in a record batch, so that token i is in batch i >> 20
DOCUMENTS = 1 << 16
TOKENS_FILE, DOCUMENTS_FILE = "tokens.arrow", "documents.arrow"
AROUND = 1 << 18  # tokens whose pages the system may map with a single window
KEPT_MAPPED = 1 << 23  # tokens mapped before their pages are given back (the file cache keeps them)

Ids = NDArray[np.uint32]
Flags = NDArray[np.uint8]


def view(column: Any) -> NDArray[Any]:
    """An Arrow column of numbers without nulls, as it lies in memory (`to_numpy` would import pandas for it)."""
    values: NDArray[Any] = np.frombuffer(column.buffers()[1], dtype=column.type.to_pandas_dtype())
    return values[column.offset : column.offset + len(column)]


def column_of(values: NDArray[Any]) -> Any:
    """Numbers as an Arrow column over the same memory (`pa.array` would import pandas for it)."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


class TokenWriter:
    """Writes a folder's tokens; memory is one record batch. Ids below 65,536 take two bytes each, others four."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        folder.mkdir(parents=True)
        dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32
        self._ids: NDArray[Any] = np.empty(BATCH, dtype=dtype)
        self._flags: Flags = np.empty(BATCH, dtype=np.uint8)
        self._held = 0
        self._schema = pa.schema([("token", pa.from_numpy_dtype(dtype)), ("flags", pa.uint8())])
        self._tokens = pa.ipc.new_file(str(folder / TOKENS_FILE), self._schema)
        self._documents_schema = pa.schema([("tokens", pa.int64()), ("hash", pa.uint64())])
        self._documents = pa.ipc.new_file(str(folder / DOCUMENTS_FILE), self._documents_schema)
        self._rows: list[tuple[int, int]] = []
        self.counts: NDArray[np.int64] = np.zeros(vocab_size, dtype=np.int64)
        self.tokens = self.documents = 0
        self.last_document = 0  # tokens of the newest document

    def add(self, ids: NDArray[Any], flags: Flags) -> None:
        """Appends tokens; the first of a document must carry FIRST."""
        self.tokens += len(ids)
        at = 0
        while at < len(ids):
            taken = min(BATCH - self._held, len(ids) - at)
            self._ids[self._held : self._held + taken] = ids[at : at + taken]
            self._flags[self._held : self._held + taken] = flags[at : at + taken]
            self._held, at = self._held + taken, at + taken
            if self._held == BATCH:
                self._write_tokens()

    def end_document(self, tokens: int, hash: int) -> None:
        """Notes that the newest `tokens` tokens were one document with that content hash."""
        self.documents, self.last_document = self.documents + 1, tokens
        self._rows.append((tokens, hash))
        if len(self._rows) == DOCUMENTS:
            self._write_documents()

    def _write_tokens(self) -> None:
        self.counts += np.bincount(self._ids[: self._held], minlength=len(self.counts))
        columns = [column_of(self._ids[: self._held]), column_of(self._flags[: self._held])]
        self._tokens.write_batch(pa.record_batch(columns, schema=self._schema))
        self._held = 0

    def _write_documents(self) -> None:
        lengths, hashes = zip(*self._rows, strict=True)
        columns = [column_of(np.array(lengths, np.int64)), column_of(np.array(hashes, np.uint64))]
        self._documents.write_batch(pa.record_batch(columns, schema=self._documents_schema))
        self._rows.clear()

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held:
            self._write_tokens()
        if self._rows:
            self._write_documents()
        self._tokens.close()
        self._documents.close()


class TokenStore:
    """A written folder, or the part of it from token `start` up to `stop`; opening it reads nothing but the index."""

    def __init__(self, folder: Path, start: int, stop: int) -> None:
        self.folder, self.start, self.stop = folder, start, stop
        self._map: mmap.mmap | None = None
        self._batches: dict[int, tuple[NDArray[Any], Flags]] = {}
        self._mapped = 0
        self._opening = threading.Lock()  # several threads read ahead

    def __len__(self) -> int:
        return self.stop - self.start

    def window(self, start: int, stop: int) -> tuple[Ids, Flags]:
        """Copies of ids and flags of the tokens from `start` up to `stop`, counted from the part's own start."""
        first, last = self.start + start, self.start + min(stop, len(self))
        ids, flags = np.empty(max(0, last - first), np.uint32), np.empty(max(0, last - first), np.uint8)
        at = first
        while at < last:
            batch_ids, batch_flags = self._batch(at >> 20)
            inside = at & (BATCH - 1)
            taken = min(BATCH - inside, last - at)
            ids[at - first : at - first + taken] = batch_ids[inside : inside + taken]
            flags[at - first : at - first + taken] = batch_flags[inside : inside + taken]
            at += taken
        self._mapped += last - first + AROUND
        if self._mapped > KEPT_MAPPED:
            self._give_back()
        return ids, flags

    def document_lengths(self) -> NDArray[np.int64]:
        """Tokens of each document in this part; a document that the part cuts counts with what is inside."""
        with pa.memory_map(str(self.folder / DOCUMENTS_FILE)) as file:
            reader = pa.ipc.open_file(file)
            batches = [view(reader.get_batch(number)["tokens"]) for number in range(reader.num_record_batches)]
            lengths = np.concatenate([np.zeros(0, np.int64), *batches])
        ends = lengths.cumsum()
        begin, end = np.clip(ends - lengths, self.start, self.stop), np.clip(ends, self.start, self.stop)
        inside: NDArray[np.int64] = (end - begin)[end > begin]
        return inside

    def _batch(self, index: int) -> tuple[NDArray[Any], Flags]:
        found = self._batches.get(index)
        if found is None:
            with self._opening:
                batch = self._reader().get_batch(index)
            found = self._batches[index] = (view(batch["token"]), view(batch["flags"]))
        return found

    def _reader(self) -> Any:
        if self._map is None:
            with (self.folder / TOKENS_FILE).open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._file = pa.ipc.open_file(pa.py_buffer(self._map))
        return self._file

    def _give_back(self) -> None:
        self._mapped = 0
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
