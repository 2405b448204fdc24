"""The tables of `run.sqlite`, and how the one writer and the many readers connect to it.

It knows SQLite and file systems; it must not know what the rows say.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Final

from lumina.store.errors import Refusal

SCHEMA_VERSION: Final = 1
BUSY_SECONDS: Final = 2.0

TABLES: Final = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment(
  num INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, parent TEXT, fork_step INTEGER,
  cause TEXT NOT NULL, cause_id TEXT, started REAL, fork_seq INTEGER);
CREATE TABLE IF NOT EXISTS series(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, unit TEXT);
CREATE TABLE IF NOT EXISTS point(
  segment INTEGER NOT NULL, series INTEGER NOT NULL, step INTEGER NOT NULL, value REAL,
  PRIMARY KEY(segment, series, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rollup(
  segment INTEGER NOT NULL, series INTEGER NOT NULL, level INTEGER NOT NULL, bucket INTEGER NOT NULL,
  n INTEGER NOT NULL, min REAL, max REAL, sum REAL,
  PRIMARY KEY(segment, series, level, bucket)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS array(
  segment INTEGER NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL,
  shape TEXT NOT NULL, dtype TEXT NOT NULL, blob BLOB NOT NULL, PRIMARY KEY(segment, name, step));
CREATE TABLE IF NOT EXISTS proposal(
  id TEXT PRIMARY KEY, journal_seq INTEGER NOT NULL, segment TEXT, step INTEGER, state TEXT, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS receipt(
  id TEXT PRIMARY KEY, journal_seq INTEGER NOT NULL, segment TEXT, step INTEGER, state TEXT, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS effect(
  id TEXT PRIMARY KEY, journal_seq INTEGER NOT NULL, segment TEXT, step INTEGER, state TEXT, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS event(
  id INTEGER PRIMARY KEY AUTOINCREMENT, journal_seq INTEGER UNIQUE, segment TEXT, step INTEGER,
  state TEXT NOT NULL, doc TEXT NOT NULL);
"""

# WAL needs shared memory between processes, which these do not give (https://sqlite.org/wal.html, "same host").
_NETWORK_TYPES: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "vboxsf",
        "virtiofs",
        "drvfs",
    }
)
_LOCAL_FUSE: Final = frozenset({"fuseblk", "fuse.ext2", "fuse.ntfs-3g", "fuse.fuse-overlayfs"})


def connect_writer(path: Path, journal_mode: str) -> sqlite3.Connection:
    """The one connection that may write; creates the database. Its transactions are begun and ended by hand.

    Raises `sqlite3.Error`, among them `DatabaseError` when the file is no database.
    """
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.executescript("BEGIN IMMEDIATE;" + TABLES + f"PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection | None:
    """A read-only connection, or None before the database exists and is filled in.

    Raises `Refusal`: corrupt, busy (locked by someone for longer than readers wait).
    """
    if not path.is_file() or path.stat().st_size == 0:
        return None
    try:
        try:
            return _open_reader(path, "mode=ro")
        except sqlite3.OperationalError as error:
            if _is_busy(error):
                raise  # an immutable connection would read past the lock, into a half-written file
            # A copy in a folder that may not be written, taken while in WAL mode: SQLite cannot make its shared
            # memory there. Without a log beside it the file itself is complete.
            wal = path.with_name(path.name + "-wal")
            if wal.is_file() and wal.stat().st_size > 0:
                raise
            return _open_reader(path, "mode=ro&immutable=1")
    except sqlite3.DatabaseError as error:
        raise reader_refusal(path, error) from error


def _open_reader(path: Path, mode: str) -> sqlite3.Connection | None:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
    try:
        connection.execute("PRAGMA query_only=ON")
        if connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
            return connection
    except sqlite3.Error:
        connection.close()
        raise
    connection.close()
    return None


def reader_refusal(path: Path, error: sqlite3.Error) -> Refusal:
    """What to tell a reader whose database call failed."""
    if _is_busy(error):
        return Refusal("busy", f"{path} is locked by another program; the run itself is not affected")
    return Refusal("corrupt", f"{path}: {error}; the next resume rebuilds it from journal.jsonl")


def _is_busy(error: sqlite3.Error) -> bool:
    return isinstance(error, sqlite3.OperationalError) and ("locked" in str(error) or "busy" in str(error))


def filesystem_type(path: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The type of the file system that holds `path` (ext4, nfs4 ...), or None where it cannot be told."""
    try:
        table = mounts.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    target = path.resolve()
    best: tuple[int, str] | None = None
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1]))
        # Later lines hide earlier ones that are mounted on the same place.
        if (target == point or point in target.parents) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), fields[2])
    return None if best is None else best[1]


def is_network(kind: str | None) -> bool:
    """Whether a file system of that type may be shared between machines."""
    if kind is None:
        return False
    return kind in _NETWORK_TYPES or (kind.startswith("fuse") and kind not in _LOCAL_FUSE)
