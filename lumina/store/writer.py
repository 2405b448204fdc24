"""The store's writer: a queue that never makes the training thread wait, and the thread that empties it.

It knows batching, retrying and durability; it must not know SQL, nor what any series means.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

import numpy as np
import orjson

from lumina.store.journal import Entry
from lumina.store.layout import RunPaths
from lumina.store.line import Segment
from lumina.store.sink import Array, Event, Item, Points, Sink, Units, rebuild_projection
from lumina.store.tensorboard import EventFile

__all__ = ["StoreWriter", "rebuild_projection"]

log = logging.getLogger(__name__)

QUEUE_LIMIT: Final = 1_000_000
BATCH_LIMIT: Final = 50_000
COMMIT_SECONDS: Final = 0.25
HEARTBEAT_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 0.1
HURRY: Final = 1000  # so many waiting items are stored without gathering more
_JSON: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


class _Barrier:
    """Marks a place in the queue; `reached` is set once everything before it is durable."""

    def __init__(self) -> None:
        self.reached = threading.Event()


class StoreWriter:
    """Everything that a trainer tells its watchers goes through here; made by the holder of the run's lock.

    No call but `flush` and `close` waits for anything. A database that someone keeps locked, or a full disk, is tried
    again until it works; meanwhile at most `limit` numbers wait in memory, and what is more is counted and shown
    (meta `dropped_points`). Decisions are never dropped: the journal has them anyhow.
    """

    def __init__(self, paths: RunPaths, tensorboard: bool = True, *, limit: int = QUEUE_LIMIT) -> None:
        paths.make_folders()
        self.last_error: str | None = None
        self.dropped_points = 0
        self._paths = paths
        self._limit = limit
        self._tensorboard = tensorboard
        self._events: EventFile | None = None
        self._unshown: list[Points | Entry] = []
        self._queue: deque[tuple[int, Item | _Barrier]] = deque()
        self._accepted = 0  # numbers put into the queue: written by callers
        self._stored = 0  # numbers committed: written by the thread
        self._meta: dict[str, tuple[str, float]] = {}
        self._meta_lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._give_up_at = math.inf
        self._clean = False
        self._beat = -math.inf
        self._reported = 0
        self._thread = threading.Thread(target=self._work, name="lumina-store", daemon=True)
        self._thread.start()

    # For the training thread

    def segment(
        self,
        id: str,
        parent: str | None = None,
        fork_step: int | None = None,
        cause: str = "start",
        cause_id: str | None = None,
    ) -> None:
        """Open a segment; `entry` with the journal's segment entry does the same."""
        self._put(1, Segment(id, parent, fork_step, cause, cause_id, time.time()), always=True)

    def points(self, segment: str, step: int, values: Mapping[str, float | None]) -> None:
        """One value for each named series at a step; what is not finite is stored as NULL. Not changed afterwards."""
        self._put(len(values), Points(time.time(), segment, step, values))

    def array(self, segment: str, step: int, name: str, array: np.ndarray[Any, Any]) -> None:
        """One array at a step (expert load [layers, experts], depth [layers])."""
        item = Array(segment, step, name, array.shape, array.dtype.str, np.ascontiguousarray(array).tobytes())
        self._put(array.size, item)

    def entry(self, entry: Entry) -> None:
        """Project an entry that the journal has committed."""
        self._put(1, entry, always=True)

    def event(self, segment: str | None, step: int | None, level: str, kind: str, message: str) -> None:
        """Something to tell people that has no place in the journal; level is info, warning or critical."""
        self._put(1, Event(time.time(), segment, step, level, kind, message))

    def meta(self, key: str, value: Any) -> None:
        """Set one fact of the run (JSON-able; non-finite becomes null). The newest value wins."""
        text = orjson.dumps(value, option=_JSON).decode()
        with self._meta_lock:
            self._meta[key] = (text, time.time())

    def declare_series(self, units: Mapping[str, str]) -> None:
        """Name series before their first point, with their units."""
        self._put(1, Units(dict(units)), always=True)

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until everything told so far would survive a power cut; False if that took longer than `timeout` s."""
        reached = self.barrier()
        deadline = time.monotonic() + timeout
        while not reached.wait(min(0.2, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline or not self._thread.is_alive():
                return reached.is_set()
        return True

    def barrier(self) -> threading.Event:
        """An event that is set as soon as everything told so far would survive a power cut; waits for nothing."""
        barrier = _Barrier()
        self._queue.append((0, barrier))
        self._wake.set()
        return barrier.reached

    def close(self, timeout: float = 30.0) -> bool:
        """Store what is left and end; False if something could not be stored in time. A second call does nothing."""
        self._give_up_at = min(self._give_up_at, time.monotonic() + timeout)
        self._closing = True
        self._wake.set()
        self._thread.join(timeout + 10.0)
        return self._clean

    def _put(self, count: int, item: Item, always: bool = False) -> None:
        if not always and (self._closing or self._accepted - self._stored + count > self._limit):
            self.dropped_points += count
            return
        self._accepted += count
        self._queue.append((count, item))

    # The thread

    def _work(self) -> None:
        sink, batch = Sink(self._paths), _Batch()
        while not self._ended(batch):
            if not (self._closing or len(self._queue) > HURRY):
                self._wake.wait(COMMIT_SECONDS)
            self._wake.clear()
            self._gather(batch)
            if not batch.empty and not self._store(sink, batch):
                time.sleep(RETRY_SECONDS)
        self._clean = batch.empty and not self._queue
        if self._events is not None:
            with contextlib.suppress(OSError):  # what was left of its buffer: the store has it
                self._events.close()
        self._close_sink(sink)

    def _ended(self, batch: _Batch) -> bool:
        if not self._closing:
            return False
        return time.monotonic() >= self._give_up_at or (batch.empty and not self._queue and not self._meta)

    def _gather(self, batch: _Batch) -> None:
        # Facts before the queue: a reader that sees a fact then also sees the points told before it.
        batch.meta.update(self._take_meta())
        batch.fill(self._queue)
        now, passed = time.time(), time.monotonic()
        if passed - self._beat >= HEARTBEAT_SECONDS:  # whatever the wall clock does
            batch.meta["heartbeat"] = (repr(now), now)
            self._beat = passed
        dropped = self.dropped_points + batch.malformed
        if dropped != self._reported:
            batch.meta["dropped_points"] = (str(dropped), now)
            self._reported = dropped

    def _store(self, sink: Sink, batch: _Batch) -> bool:
        try:
            sink.commit(batch.items, batch.meta, durable=bool(batch.barriers))
        except (sqlite3.Error, OSError) as error:
            if self.last_error is None:
                log.warning("%s cannot be written, trying again: %s", self._paths.database, error)
            self.last_error = str(error)
            return False
        if self.last_error is not None:
            log.info("%s can be written again; nothing was lost", self._paths.database)
            self.last_error = None
        self._stored += batch.count
        if self._tensorboard:
            self._show(batch)
        batch.settle()
        return True

    def _show(self, batch: _Batch) -> None:
        """Shows TensorBoard what is stored. Its file is opened for the first point: its imports take a second, for
        which neither the first step nor those who watch for it should wait."""
        self._unshown += [item for item in batch.items if isinstance(item, Points) or _starts_again(item)]
        if self._events is None and not any(isinstance(item, Points) for item in self._unshown):
            return
        try:
            self._events = self._events or EventFile.open(self._paths.tensorboard)
            for item in self._unshown:
                if isinstance(item, Points):
                    self._events.scalars(item.step, item.at, item.values)
                    # One event costs some 0.2 ms of pure Python: let the training thread have the interpreter then.
                    time.sleep(0)
                else:
                    self._events.restart(item.doc["fork_step"] + 1)
            if batch.barriers:
                self._events.flush()
        except (ImportError, OSError) as error:
            log.warning("no TensorBoard files from here on: %s", error)
            self._tensorboard = False
        self._unshown.clear()

    def _take_meta(self) -> dict[str, tuple[str, float]]:
        with self._meta_lock:
            taken, self._meta = self._meta, {}
        return taken

    def _close_sink(self, sink: Sink) -> None:
        try:
            sink.close()
        except sqlite3.Error as error:
            log.warning("%s was not closed cleanly: %s", self._paths.database, error)


class _Batch:
    """What the thread has taken from the queue and not yet committed; tried again as a whole."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.barriers: list[_Barrier] = []
        self.meta: dict[str, tuple[str, float]] = {}
        self.count = 0
        self.malformed = 0

    @property
    def empty(self) -> bool:
        return not (self.items or self.barriers or self.meta)

    @property
    def full(self) -> bool:
        return self.count >= BATCH_LIMIT

    def fill(self, queue: deque[tuple[int, Item | _Barrier]]) -> None:
        """Take from the queue up to a full batch. A barrier ends it: what came later need not be durable with it."""
        while queue and not self.full:
            count, item = queue.popleft()
            self.count += count
            if isinstance(item, _Barrier):
                self.barriers.append(item)
                break
            if isinstance(item, Points):
                item = item._replace(values=self._finite(item.values))
            self.items.append(item)

    def settle(self) -> None:
        """The batch is stored: release those who wait for it, and begin an empty one."""
        for barrier in self.barriers:
            barrier.reached.set()
        self.items, self.barriers, self.meta, self.count = [], [], {}, 0

    def _finite(self, values: Mapping[str, float | None]) -> dict[str, float | None]:
        cleaned: dict[str, float | None] = {}
        for name, value in values.items():
            try:
                number = None if value is None else float(value)
            except (TypeError, ValueError):
                self.malformed += 1
                continue
            cleaned[name] = number if number is not None and math.isfinite(number) else None
        return cleaned


def _starts_again(item: Item) -> TypeGuard[Entry]:
    return isinstance(item, Entry) and item.type == "segment" and bool(item.doc.get("fork_step"))
