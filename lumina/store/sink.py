"""The writing side of `run.sqlite`: one connection, whole batches, all or nothing.

It knows rows and transactions; it must not know threads or queues, and it never retries on its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import orjson

from lumina.store import projection, rollup
from lumina.store.errors import Refusal
from lumina.store.journal import Entry, read_entries
from lumina.store.layout import RunPaths
from lumina.store.line import Segment
from lumina.store.lock import RunLock
from lumina.store.schema import connect_writer, filesystem_type, is_network

log = logging.getLogger(__name__)

LEAVE_WAL_SECONDS = 3.0
LOST = "Decisions are all there; metrics recorded before are not in the journal and are missing"


class Points(NamedTuple):
    at: float
    segment: str
    step: int
    values: Mapping[str, float | None]


class Array(NamedTuple):
    segment: str
    step: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    data: bytes


class Event(NamedTuple):
    at: float
    segment: str | None
    step: int | None
    level: str
    kind: str
    message: str


class Units(NamedTuple):
    units: Mapping[str, str]


Item = Points | Array | Event | Units | Segment | Entry
Meta = Mapping[str, tuple[str, float]]
"""Key → (JSON text, time)."""


class Sink:
    """The open database. Every method may raise `sqlite3.Error`; the caller decides when to try again."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # device and number of the file that is open
        self._damage: str | None = None  # what was found wrong with the file at the path
        self._segments: dict[str, int] = {}
        self._series: dict[str, int] = {}
        self._last: dict[tuple[int, int], int | None] = {}

    def open(self) -> None:
        """Connect; a damaged file is moved aside, and missing rows are made from the journal.

        A file that was taken from under the open connection is made again.
        """
        if self._db is not None and not self._taken_away():
            return
        kind = filesystem_type(self._paths.root)
        mode = "DELETE" if is_network(kind) else "WAL"
        db, notes = self._connect(mode)
        if mode == "DELETE":
            notes.append(
                f"{self._paths.root} is on a network file system ({kind}): the store avoids write-ahead logging"
            )
        try:
            with _transaction(db):
                _catch_up(db, self._paths)
                for note in notes:
                    log.warning("%s", note)
                    _put_event(db, Event(time.time(), None, None, "warning", "store", note))
        except sqlite3.Error:
            db.close()
            raise
        self._db, self._file = db, _identity(self._paths)

    def _connect(self, mode: str) -> tuple[sqlite3.Connection, list[str]]:
        """A connection to an intact database, and what people should know of how it came to be."""
        notes = []
        if self._db is not None:
            self._abandon()
            notes.append(f"run.sqlite was removed; the new one was made from the journal. {LOST}")
        try:
            if self._damage is not None:
                raise sqlite3.DatabaseError(self._damage)
            db = connect_writer(self._paths.database, mode)
            try:
                _check(db)
            except sqlite3.Error:
                db.close()
                raise
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            aside = _move_aside(self._paths)
            self._damage = None
            notes.append(f"run.sqlite was damaged ({error}) and is kept as {aside}; made anew from the journal. {LOST}")
            db = connect_writer(self._paths.database, mode)
        return db, notes

    def _taken_away(self) -> bool:
        # With the whole folder gone there is no place for a new file; the lock tells the trainer.
        return self._paths.root.is_dir() and _identity(self._paths) != self._file

    def _look(self) -> None:
        """Read the file as others do: damage under an open connection hides behind the pages that it remembers."""
        address = f"{self._paths.database.resolve().as_uri()}?mode=ro"
        with (
            contextlib.suppress(sqlite3.OperationalError),  # locked, or gone: neither is damage
            contextlib.closing(sqlite3.connect(address, uri=True)) as db,
        ):
            for table in ("meta", "segment", "series"):
                db.execute(f"SELECT * FROM {table}").fetchall()

    def _abandon(self) -> None:
        """Forget the connection and the numbers that were handed out over it."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db = None
        self._segments, self._series, self._last = {}, {}, {}

    def commit(self, items: Sequence[Item], meta: Meta, *, durable: bool) -> None:
        """Store everything or nothing. With `durable` it survives a power cut, and so does all that came before."""
        self.open()
        db = self._db
        assert db is not None
        try:
            if durable:
                db.execute("PRAGMA synchronous=FULL")
            with _transaction(db):
                self._write(db, items)
                db.executemany(
                    "INSERT OR REPLACE INTO meta VALUES (?,?,?)", [(key, *value) for key, value in meta.items()]
                )
            if durable:
                self._look()
        except sqlite3.Error as error:
            # The numbers handed out in the transaction went with it.
            self._segments, self._series, self._last = {}, {}, {}
            if is_damage(error):
                self._damage = str(error)
                self._abandon()
            raise
        finally:
            if durable and self._db is not None:
                db.execute("PRAGMA synchronous=NORMAL")

    def reproject(self, entries: Iterable[Entry]) -> None:
        """Make every projected row anew."""
        self.open()
        assert self._db is not None
        with _transaction(self._db):
            projection.reproject(self._db, entries)

    def close(self) -> None:
        """Close; the file is left in DELETE mode, so that a read-only folder can be read, unless readers hold on.

        A file that is found damaged now is made anew; the next start would find it, but readers come earlier.
        """
        if self._db is None:
            return
        try:
            _check(self._db)
            self._look()
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                self._damage = str(error)
                self._abandon()
                self.open()
        deadline = time.monotonic() + LEAVE_WAL_SECONDS
        self._db.execute("PRAGMA busy_timeout=200")
        while not _leave_wal(self._db) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._db.close()
        self._db = None

    def _write(self, db: sqlite3.Connection, items: Iterable[Item]) -> None:
        rows: list[tuple[int, int, int, float | None]] = []
        first: dict[tuple[int, int], int] = {}
        newest: dict[tuple[int, int], int] = {}
        for item in items:
            if isinstance(item, Points):
                segment = self._segment(db, item.segment)
                for name, value in item.values.items():
                    key = (segment, self._number(db, name))
                    rows.append((*key, item.step, value))
                    first[key] = min(item.step, first.get(key, item.step))
                    newest[key] = max(item.step, newest.get(key, item.step))
            else:
                self._write_other(db, item)
        for key in first:
            if key not in self._last:
                self._last[key] = rollup.last_step(db, *key)
        db.executemany("INSERT OR REPLACE INTO point VALUES (?,?,?,?)", rows)
        for key, step in first.items():
            previous = self._last[key]
            last = newest[key] if previous is None else max(previous, newest[key])
            rollup.update(db, *key, first=step, previous=previous, last=last)
            self._last[key] = last

    def _write_other(self, db: sqlite3.Connection, item: Array | Event | Units | Segment | Entry) -> None:
        if isinstance(item, Array):
            db.execute(
                "INSERT OR REPLACE INTO array VALUES (?,?,?,?,?,?)",
                (
                    self._segment(db, item.segment),
                    item.name,
                    item.step,
                    orjson.dumps(item.shape).decode(),
                    item.dtype,
                    item.data,
                ),
            )
        elif isinstance(item, Event):
            _put_event(db, item)
        elif isinstance(item, Segment):
            projection.put_segment(db, item)
        elif isinstance(item, Entry):
            projection.project(db, item)
        else:
            for name, unit in item.units.items():
                db.execute("UPDATE series SET unit=? WHERE id=?", (unit, self._number(db, name)))

    def _segment(self, db: sqlite3.Connection, id: str) -> int:
        if id not in self._segments:
            row = db.execute("SELECT num FROM segment WHERE id=?", (id,)).fetchone()
            if row is None:
                projection.put_segment(db, Segment(id))
                row = db.execute("SELECT num FROM segment WHERE id=?", (id,)).fetchone()
            self._segments[id] = row[0]
        return self._segments[id]

    def _number(self, db: sqlite3.Connection, name: str) -> int:
        if name not in self._series:
            db.execute("INSERT OR IGNORE INTO series(name) VALUES (?)", (name,))
            self._series[name] = db.execute("SELECT id FROM series WHERE name=?", (name,)).fetchone()[0]
        return self._series[name]


def rebuild_projection(paths: RunPaths) -> None:
    """Make every projected row of a run that nobody is training anew from its journal.

    Raises `Refusal`: locked, corrupt (the journal itself).
    """
    with RunLock.acquire(paths, {"doing": "rebuilding run.sqlite"}):
        entries = read_entries(paths)
        sink = Sink(paths)
        sink.reproject(entries)
        sink.close()


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken (corrupt, or no database), which trying again does not mend."""
    # SQLite's "malformed" and "not a database" come as this very class; what passes comes as a subclass of it.
    return type(error) is sqlite3.DatabaseError


def _check(db: sqlite3.Connection) -> None:
    """Look at every page. Raises `sqlite3.DatabaseError` when one is not what it should be."""
    found = [row[0] for row in db.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise sqlite3.DatabaseError(str(found[0]).splitlines()[-1])


def _identity(paths: RunPaths) -> tuple[int, int] | None:
    try:
        found = os.stat(paths.database)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class _transaction:  # noqa: N801 - used as a statement
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK when anything is raised."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            try:
                self._db.execute("COMMIT")
                return
            except sqlite3.Error:
                self._roll_back()
                raise
        self._roll_back()

    def _roll_back(self) -> None:
        # A full disk or an I/O error has rolled back already.
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("ROLLBACK")


def _catch_up(db: sqlite3.Connection, paths: RunPaths) -> None:
    """Project what the journal holds and the database does not: the last moments before a crash, or everything."""
    db.execute(
        "INSERT OR IGNORE INTO meta VALUES ('store', ?, ?)", (orjson.dumps(uuid.uuid4().hex[:8]).decode(), time.time())
    )
    try:
        entries = read_entries(paths)
    except Refusal as refusal:
        log.error("%s", refusal.message)
        return
    row = db.execute("SELECT value FROM meta WHERE key='projected_seq'").fetchone()
    projected = 0 if row is None else int(orjson.loads(row[0]))
    if projected == 0 or projected > len(entries):
        projection.reproject(db, entries)
        return
    for entry in entries[projected:]:
        projection.project(db, entry)


def _put_event(db: sqlite3.Connection, event: Event) -> None:
    doc = orjson.dumps({"at": event.at, "kind": event.kind, "message": event.message}).decode()
    db.execute(
        "INSERT INTO event(segment, step, state, doc) VALUES (?,?,?,?)", (event.segment, event.step, event.level, doc)
    )


def _move_aside(paths: RunPaths) -> str:
    name = f"{paths.database.name}.damaged-{time.time_ns()}"
    os.replace(paths.database, paths.root / name)
    for suffix in ("-wal", "-shm", "-journal"):
        paths.database.with_name(paths.database.name + suffix).unlink(missing_ok=True)
    return name


def _leave_wal(db: sqlite3.Connection) -> bool:
    try:
        return bool(db.execute("PRAGMA journal_mode=DELETE").fetchone()[0] == "delete")
    except sqlite3.OperationalError:
        return False
