"""Reading a run: read-only, in short transactions, from before the database exists until long after the run.

It knows rows and the current line; it must not know what a screen shows, and it never writes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from lumina.store import rollup
from lumina.store.cursor import Cursor
from lumina.store.layout import RunPaths
from lumina.store.line import LineSegment, Segment, line_of
from lumina.store.rollup import Bar, Stretch
from lumina.store.schema import connect_reader, reader_refusal

FARTHEST = 2**62

# (database, connection) that the calls inside a `StoreReader.connected` block share.
_shared: ContextVar[tuple[Path, sqlite3.Connection | None] | None] = ContextVar("shared", default=None)


@dataclass(frozen=True)
class Delta:
    """What is new in some series. `full`: forget what you have, this is everything."""

    cursor: str
    full: bool
    series: dict[str, dict[str, list[Any]]]


@dataclass(frozen=True)
class Fact:
    """A fact of the run (meta) and when it was told, UTC seconds."""

    value: Any
    at: float


@dataclass(frozen=True)
class Row:
    """A proposal, receipt, effect or event: its columns, and its document."""

    id: Any
    journal_seq: int | None
    segment: str | None
    step: int | None
    state: str
    doc: dict[str, Any]


@dataclass(frozen=True)
class _Line:
    """The current line with the database's numbers of its segments."""

    segments: list[LineSegment]
    numbers: dict[str, int]
    head: int


class StoreReader:
    """All questions to a run's store. Each call connects anew, save in a `connected` block: a reader that stays
    connected would keep the writer from leaving WAL mode. Every call may raise `Refusal`: corrupt, busy."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths

    # Facts and documents

    def facts(self) -> dict[str, Fact]:
        """Every fact with its time; empty before the database exists."""
        with self._open() as db:
            rows = [] if db is None else db.execute("SELECT key, value, at FROM meta").fetchall()
        return {key: Fact(orjson.loads(value), at) for key, value, at in rows}

    def meta(self) -> dict[str, Any]:
        """Every fact of the run by its key."""
        return {key: fact.value for key, fact in self.facts().items()}

    def proposals(self, limit: int = 200) -> list[Row]:
        """Every open proposal, and the newest `limit` of all, newest first."""
        query = (
            "SELECT id, journal_seq, segment, step, state, doc FROM proposal WHERE state='open' OR id IN"
            " (SELECT id FROM proposal ORDER BY journal_seq DESC LIMIT ?) ORDER BY journal_seq DESC"
        )
        return self._query(query, limit)

    def receipts(self, limit: int = 500) -> list[Row]:
        """Receipts, newest first."""
        return self._rows("receipt", limit)

    def effects(self, limit: int = 500) -> list[Row]:
        """Measured effects, newest first; `id` is the receipt's."""
        return self._rows("effect", limit)

    def events(self, after_id: int = 0, limit: int = 60) -> list[Row]:
        """The newest `limit` events after `after_id`, oldest first."""
        query = "SELECT id, journal_seq, segment, step, state, doc FROM event WHERE id > ? ORDER BY id DESC LIMIT ?"
        with self._open() as db:
            rows = [] if db is None else db.execute(query, (after_id, limit)).fetchall()
        return [_row(row) for row in rows[::-1]]

    def _rows(self, table: str, limit: int) -> list[Row]:
        return self._query(
            f"SELECT id, journal_seq, segment, step, state, doc FROM {table} ORDER BY journal_seq DESC LIMIT ?", limit
        )

    def _query(self, query: str, limit: int) -> list[Row]:
        with self._open() as db:
            rows = [] if db is None else db.execute(query, (limit,)).fetchall()
        return [_row(row) for row in rows]

    # Segments

    def segments(self) -> list[Segment]:
        """Every segment, in the order in which they were opened."""
        with self._open() as db:
            return [] if db is None else [segment for _, segment in _segments(db)]

    def line(self) -> list[LineSegment]:
        """The current line, oldest segment first."""
        return line_of(self.segments())

    # Series

    def series_names(self) -> dict[str, str | None]:
        """Every series that has been named, with its unit."""
        with self._open() as db:
            rows = [] if db is None else db.execute("SELECT name, unit FROM series ORDER BY id").fetchall()
        return dict(rows)

    def series(
        self, names: Sequence[str] | None = None, *, max_points: int | None = 2000, all_segments: bool = False,
        head: str | None = None, after: int | None = None,
    ) -> dict[str, dict[str, list[Any]]]:  # fmt: skip
        """Series by name (None: all) as {"step", "value"}, each of at most `max_points` positions (None: all points).

        Where positions stand for several points, "value" is their mean, and "min" and "max" are there too. With
        `all_segments` abandoned stretches are included, and "segment" tells the segment of each position. `head` asks
        for the line that ends in that segment instead of the current one, `after` for the steps beyond one.
        """
        with self._open() as db:
            if db is None:
                return {}
            line = _line(db, all_segments, head)
            drawn: dict[str, dict[str, list[Any]]] = {}
            for name, number in _numbers(db, names).items():
                stretches = _stretches(db, line, number, after)
                bars = rollup.read(db, [stretch for _, stretch in stretches], max_points)
                ids = [id for id, _ in stretches]
                if any(bars) or names is not None:
                    drawn[name] = _columns(bars, ids if all_segments else None)
            return drawn

    def delta(self, names: Sequence[str] | None, cursor: str | None, max_points: int = 2000) -> Delta:
        """What `series` would say beyond the cursor; everything (`full`) if the cursor is none, stale or of another
        line. Deltas joined one to the next are the whole series."""
        with self._open() as db:
            if db is None:
                return Delta("", True, {})
            line = _line(db, all_segments=False)
            numbers = _numbers(db, names)
            named = db.execute("SELECT value FROM meta WHERE key='store'").fetchone()
            if named is None:  # the tables were made a moment ago, and nothing is in them yet
                return Delta("", True, {})
            store = orjson.loads(named[0])
            newest = {number: _newest(db, line, number) for number in numbers.values()}
            seen = Cursor.decode(cursor)
            if seen is not None and not _valid(seen, store, line, newest):
                seen = None
            last = dict(seen.last) if seen is not None else {}
            fresh: dict[str, dict[str, list[Any]]] = {}
            for name, number in numbers.items():
                stretches = [stretch for _, stretch in _stretches(db, line, number, after=last.get(number))]
                bars = rollup.read(db, stretches, max_points)
                if any(bars):
                    fresh[name] = _columns(bars, None)
                    last[number] = max(stretch.last for stretch in stretches)
            return Delta(Cursor(store, line.head, last).encode(), seen is None, fresh)

    def latest(self, names: Iterable[str]) -> dict[str, tuple[int, float | None]]:
        """(step, value) of the newest point of each series that has one on the current line."""
        found: dict[str, tuple[int, float | None]] = {}
        with self._open() as db:
            if db is None:
                return found
            line = _line(db, all_segments=False)
            for name, number in _numbers(db, list(names)).items():
                for _, stretch in _stretches(db, line, number, after=None)[::-1]:
                    row = db.execute(
                        "SELECT step, value FROM point WHERE segment=? AND series=? AND step=?",
                        (stretch.segment, stretch.series, stretch.last),
                    ).fetchone()
                    found[name] = (row[0], row[1])
                    break
        return found

    def recent(self, name: str, count: int) -> list[float]:
        """The last `count` finite values of a series in the newest segment, oldest first."""
        query = "SELECT value FROM point WHERE segment=? AND series=? AND value IS NOT NULL ORDER BY step DESC LIMIT ?"
        with self._open() as db:
            numbers = {} if db is None else _numbers(db, [name])
            if db is None or not numbers:
                return []
            rows = db.execute(query, (_line(db, all_segments=False).head, numbers[name], count)).fetchall()
        return [value for (value,) in rows[::-1]]

    # Arrays

    def array(self, name: str, step: int | None = None) -> tuple[int, np.ndarray[Any, Any]] | None:
        """(step, array) of the newest array of that name on the current line, at or before `step` if given."""
        history = self.array_history(name, limit=1, until=step)
        return history[-1] if history else None

    def array_history(
        self, name: str, limit: int = 60, until: int | None = None
    ) -> list[tuple[int, np.ndarray[Any, Any]]]:
        """The newest `limit` arrays of that name on the current line, oldest first."""
        query = (
            "SELECT step, shape, dtype, blob FROM array"
            " WHERE segment=? AND name=? AND step > ? AND step <= ? ORDER BY step DESC LIMIT ?"
        )
        found: list[tuple[int, np.ndarray[Any, Any]]] = []
        with self._open() as db:
            if db is None:
                return []
            line = _line(db, all_segments=False)
            for part in line.segments[::-1]:
                bound = min(_or(part.until, FARTHEST), _or(until, FARTHEST))
                parameters = (line.numbers[part.id], name, _or(part.after, -1), bound, limit - len(found))
                for at, shape, dtype, blob in db.execute(query, parameters).fetchall():
                    found.append((at, np.frombuffer(blob, dtype=np.dtype(dtype)).reshape(orjson.loads(shape))))
                if len(found) >= limit:
                    break
        return found[::-1]

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Answers all questions to this run's store inside the block over one connection, whoever asks them."""
        db = connect_reader(self._paths.database)
        token = _shared.set((self._paths.database, db))
        try:
            yield
        finally:
            _shared.reset(token)
            if db is not None:
                db.close()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        shared = _shared.get()
        mine = shared is None or shared[0] != self._paths.database
        db = connect_reader(self._paths.database) if mine or shared is None else shared[1]
        try:
            yield db
        except sqlite3.DatabaseError as error:
            raise reader_refusal(self._paths.database, error) from error
        finally:
            if mine and db is not None:
                db.close()


def _row(row: tuple[Any, ...]) -> Row:
    id, journal_seq, segment, step, state, doc = row
    return Row(id, journal_seq, segment, step, state, orjson.loads(doc))


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _segments(db: sqlite3.Connection) -> list[tuple[int, Segment]]:
    rows = db.execute(
        "SELECT num, id, parent, fork_step, cause, cause_id, started, fork_seq FROM segment ORDER BY num"
    ).fetchall()
    return [(row[0], Segment(*row[1:])) for row in rows]


def _line(db: sqlite3.Connection, all_segments: bool, head: str | None = None) -> _Line:
    numbered = _segments(db)
    numbers = {segment.id: number for number, segment in numbered}
    every = [segment for _, segment in numbered]
    segments = [LineSegment(segment.id) for segment in every] if all_segments else line_of(every, head)
    return _Line(segments, numbers, numbered[-1][0] if numbered else 0)


def _numbers(db: sqlite3.Connection, names: Sequence[str] | None) -> dict[str, int]:
    known = dict(db.execute("SELECT name, id FROM series ORDER BY id").fetchall())
    return known if names is None else {name: known[name] for name in names if name in known}


def _stretches(db: sqlite3.Connection, line: _Line, series: int, after: int | None) -> list[tuple[str, Stretch]]:
    """Where the series has points beyond step `after` on the line: (segment id, steps that end at a real point)."""
    found = []
    for part in line.segments:
        first = max(_or(part.after, -1), _or(after, -1)) + 1
        bound = _or(part.until, FARTHEST)
        if first > bound:
            continue
        last = db.execute(
            "SELECT max(step) FROM point WHERE segment=? AND series=? AND step BETWEEN ? AND ?",
            (line.numbers[part.id], series, first, bound),
        ).fetchone()[0]
        if last is not None:
            found.append((part.id, Stretch(line.numbers[part.id], series, first, last)))
    return found


def _newest(db: sqlite3.Connection, line: _Line, series: int) -> int | None:
    for part in line.segments[::-1]:
        last = db.execute(
            "SELECT max(step) FROM point WHERE segment=? AND series=? AND step BETWEEN ? AND ?",
            (line.numbers[part.id], series, _or(part.after, -1) + 1, _or(part.until, FARTHEST)),
        ).fetchone()[0]
        if last is not None:
            return int(last)
    return None


def _valid(cursor: Cursor, store: str, line: _Line, newest: Mapping[int, int | None]) -> bool:
    """Whether everything that the cursor's owner has seen is still there, and still on the line."""
    if cursor.store != store or cursor.segment != line.head:
        return False
    return all(_or(newest.get(number), -1) >= step for number, step in cursor.last.items() if number in newest)


def _columns(bars: list[list[Bar]], ids: list[str] | None) -> dict[str, list[Any]]:
    joined = [bar for each in bars for bar in each]
    columns: dict[str, list[Any]] = {
        "step": [bar.step for bar in joined],
        "value": [bar.value for bar in joined],
    }
    if any(bar.n > 1 for bar in joined):
        columns["min"] = [bar.low for bar in joined]
        columns["max"] = [bar.high for bar in joined]
    if ids is not None:
        columns["segment"] = [id for id, each in zip(ids, bars, strict=True) for _ in each]
    return columns
