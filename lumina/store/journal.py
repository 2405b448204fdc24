"""The journal: the truth about what was decided in a run, one fsynced line for each entry.

It knows lines, checksums and order; it must not know what an entry means to a model or a screen.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import orjson

from lumina.store import atomic
from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths
from lumina.store.line import LineSegment, Segment, index_line, line_of

ENTRY_TYPES: Final = frozenset(
    {
        "segment",
        "accepted",
        "applied",
        "refused",
        "proposal",
        "decision",
        "effect",
        "checkpoint",
        "oom_split",
        "batch_skipped",
        "end",
    }
)
_CRC_MARK: Final = b',"crc":"'
_FIELDS: Final = ("v", "seq", "segment", "step", "type", "id", "at", "doc")


@dataclass(frozen=True)
class Entry:
    """One committed line. `id` is the subject's id (command, proposal, segment ...), or None."""

    v: int
    seq: int
    segment: str
    step: int
    type: str
    id: str | None
    at: float
    doc: Mapping[str, Any]


def encode(entry: Entry) -> bytes:
    """The line of an entry: a JSON object whose last member is the CRC-32 of everything before that member.

    Non-finite numbers become null.
    """
    body = orjson.dumps(
        {name: getattr(entry, name) for name in _FIELDS}, option=orjson.OPT_SERIALIZE_NUMPY
    ).removesuffix(b"}")
    return body + _CRC_MARK + f'{zlib.crc32(body):08x}"}}\n'.encode()


def decode(line: bytes) -> Entry | None:
    """The entry of a line with its newline, or None if the line is not whole."""
    body, mark, rest = line.rpartition(_CRC_MARK)
    if not mark or rest != f'{zlib.crc32(body):08x}"}}\n'.encode():
        return None
    document = orjson.loads(body + b"}")
    return Entry(**{name: document[name] for name in _FIELDS})


@dataclass(frozen=True)
class _Parsed:
    entries: list[Entry]
    good_bytes: int
    torn_bytes: int


def _parse(data: bytes, name: str) -> _Parsed:
    """Entries up to a torn tail. A broken line with anything after it is damage, not a torn write."""
    entries: list[Entry] = []
    offset = 0
    while offset < len(data):
        end = data.find(b"\n", offset) + 1 or len(data)
        entry = decode(data[offset:end])
        number = len(entries) + 1
        if entry is None:
            if end < len(data):
                raise Refusal("corrupt", f"{name}:{number}: the line is damaged and others follow; nothing was changed")
            return _Parsed(entries, offset, len(data) - offset)
        if entry.seq != number:
            raise Refusal("corrupt", f"{name}:{number}: entry {number} expected, entry {entry.seq} found")
        entries.append(entry)
        offset = end
    return _Parsed(entries, offset, 0)


def read_entries(paths: RunPaths) -> list[Entry]:
    """All committed entries, oldest first, for readers: a torn tail is left out and left alone.

    Raises `Refusal('corrupt')` naming the line if the damage is not at the end.
    """
    try:
        data = paths.journal.read_bytes()
    except FileNotFoundError:
        return []
    return _parse(data, str(paths.journal)).entries


class Journal:
    """The journal opened for appending by the one process that holds the run's lock; for use by one thread."""

    def __init__(self, paths: RunPaths, fd: int, parsed: _Parsed) -> None:
        self._path = paths.journal
        self._fd = fd
        self._length = parsed.good_bytes
        self._broken = False
        self.entries: list[Entry] = parsed.entries
        self.torn_bytes: int = parsed.torn_bytes

    @classmethod
    def open(cls, paths: RunPaths) -> Journal:
        """Open or create the journal; cuts off a torn last line, refuses one that is damaged elsewhere."""
        fd = atomic.open_append(paths.journal)
        try:
            parsed = _parse(paths.journal.read_bytes(), str(paths.journal))
            if parsed.torn_bytes:
                atomic.truncate(fd, paths.journal, parsed.good_bytes)
        except (OSError, Refusal):
            os.close(fd)
            raise
        return cls(paths, fd, parsed)

    @property
    def last_seq(self) -> int:
        """The seq of the newest committed entry; 0 in an empty journal."""
        return len(self.entries)

    def append(
        self, type: str, segment: str, step: int, id: str | None = None, doc: Mapping[str, Any] | None = None
    ) -> Entry:
        """Commit one entry: when this returns it is durable, when it raises it did not happen.

        Raises `OSError` (disk full ...) after restoring the file's length, `ValueError` for an unknown type.
        """
        if type not in ENTRY_TYPES:
            raise ValueError(f"unknown journal entry type {type!r}")
        if self._broken:
            raise OSError(f"{self._path} could not be restored after a failed write")
        entry = Entry(1, len(self.entries) + 1, segment, step, type, id, time.time(), dict(doc or {}))
        line = encode(entry)
        try:
            atomic.append(self._fd, self._path, line)
        except OSError:
            self._take_back()
            raise
        self._length += len(line)
        # What is in memory is what a reader of the file would get (non-finite numbers as None, keys as text).
        committed = decode(line)
        assert committed is not None
        self.entries.append(committed)
        return committed

    def _take_back(self) -> None:
        self._broken = True
        atomic.truncate(self._fd, self._path, self._length)
        self._broken = False

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def segment_of(entry: Entry) -> Segment:
    """The segment that a `segment` entry opens."""
    doc = entry.doc
    return Segment(
        id=entry.segment,
        parent=doc.get("parent"),
        fork_step=doc.get("fork_step"),
        cause=str(doc.get("cause", "start")),
        cause_id=doc.get("cause_id"),
        started=entry.at,
        fork_seq=doc.get("fork_seq"),
    )


def segments_of(entries: Iterable[Entry]) -> list[Segment]:
    """The segments that the journal opens, oldest first."""
    return [segment_of(entry) for entry in entries if entry.type == "segment"]


def recorded_data(entries: Iterable[Entry]) -> dict[str, str] | None:
    """Path → digest of the files that the newest segment which says so was trained on; None where none does."""
    told = [entry.doc["data"] for entry in entries if entry.type == "segment" and "data" in entry.doc]
    return dict(told[-1]) if told else None


def current_line(entries: Sequence[Entry], head: str | None = None) -> list[LineSegment]:
    """The current line of the run, oldest segment first; `head` asks for the line that ends in another segment."""
    return line_of(segments_of(entries), head)


def entries_on_line(entries: Sequence[Entry], head: str | None = None) -> list[Entry]:
    """The entries that are in force on the line, in order."""
    line = index_line(current_line(entries, head))
    return [entry for entry in entries if entry.segment in line and line[entry.segment].decides(entry.step, entry.seq)]
