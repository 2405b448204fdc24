"""A rehearsal as programs see it: how far it is, what it says, and how to end it. It only reads, and sends a stop."""

from __future__ import annotations

import getpass
import math
import time
from dataclasses import dataclass
from typing import Any

from lumina import views
from lumina.store import inbox
from lumina.store.inbox import Command
from lumina.store.layout import RunPaths, new_id
from lumina.store.lock import is_locked

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Rehearsal:
    """An intervention being tried out; `paths` is the child without the change."""

    paths: RunPaths
    via: str = "api"

    def status(self) -> dict[str, Any]:
        """State, progress, both curves, and the difference of loss with its interval; see `views.rehearsal`."""
        return views.rehearsal(self.paths)

    def wait(self, timeout: float | None = None) -> dict[str, Any]:
        """The status when it has ended, or after `timeout` seconds."""
        deadline = time.monotonic() + timeout if timeout is not None else math.inf
        while is_locked(self.paths) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return self.status()

    def stop(self) -> None:
        """Ends it; the run that it is of goes on."""
        author = {"name": getpass.getuser(), "via": self.via}
        for name in self.status()["children"]:
            child = RunPaths(self.paths.root.parent / name)
            if is_locked(child):
                inbox.send(child, Command(new_id(), "stop", author=author))
