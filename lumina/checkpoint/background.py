"""Writes one checkpoint in a thread of its own while training goes on, and tidies the folder afterwards.

It knows a snapshot and where it goes; it must not know the journal, which has one writer, and that is not here.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lumina.checkpoint.retention import Keep, prune, prune_set_aside, write_overview
from lumina.checkpoint.save import discard, publish, write_files
from lumina.checkpoint.snapshot import Snapshot

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1


class Writing:
    """One checkpoint on its way to the disk. The snapshot must not be changed before `done`.

    The files are written at once; their folder gets its name only when `durable` is set (the run's points up to this
    step would survive a power cut). Then `path` is set, or `error` says why there is no checkpoint;
    `untidied` says why older ones, or the overview, are not as they should be.
    """

    def __init__(self, root: Path, step: int, snapshot: Snapshot, durable: threading.Event, keep: Keep,
                 pinned: Callable[[], frozenset[str]], about: Mapping[str, Any]) -> None:  # fmt: skip
        self.step = step
        self.path: Path | None = None
        self.error: Exception | None = None
        self.untidied: str | None = None
        self.done = threading.Event()
        self._root, self._snapshot, self._durable, self._about = root, snapshot, durable, about
        self._keep, self._pinned = keep, pinned
        self._written = threading.Event()
        self._cancelled = threading.Event()
        # A daemon: a process that was told to end now does not wait for the disk.
        self._thread = threading.Thread(target=self._work, name="lumina-checkpoint", daemon=True)
        self._thread.start()

    @property
    def only_waits_for_points(self) -> bool:
        """The files are there, and the metrics database does not take what belongs before them."""
        return self._written.is_set() and not self._durable.is_set() and not self.done.is_set()

    def cancel(self) -> None:
        """Nobody wants it any more; it may be published all the same if that has begun."""
        self._cancelled.set()

    def wait(self, seconds: float | None = None) -> bool:
        return self.done.wait(seconds)

    def _work(self) -> None:
        try:
            folder = write_files(self._root, self.step, self._snapshot, **self._about)
            self._written.set()
            while not self._durable.wait(POLL_SECONDS):
                if self._cancelled.is_set():
                    discard(folder)
                    raise TimeoutError(f"the metrics database did not take the points up to step {self.step}")
            self.path = publish(self._root, folder, self.step)
            self._tidy()
        except OSError as error:
            self.error = error
        except Exception as error:
            # A mistake of ours: the training thread raises it again, where it is seen.
            log.exception("the checkpoint of step %d failed", self.step)
            self.error = error
        finally:
            self.done.set()

    def _tidy(self) -> None:
        keep = dataclasses.replace(self._keep, pinned=self._pinned())
        try:
            prune(self._root, keep, self.path)
            prune_set_aside(self._root, keep.pinned)
            write_overview(self._root, keep.pinned)
        except OSError as error:
            self.untidied = f"{self._root} could not be tidied: {error}"
