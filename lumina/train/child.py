"""What every child run has in common: it takes no decision of its own, writes no checkpoint, and obeys only its reins.

It must not know whether the child replays or rehearses.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lumina.store.inbox import Command
from lumina.train.loop import Loop
from lumina.train.oversight import Oversight
from lumina.train.saver import Saver, Told
from lumina.train.session import Session
from lumina.train.steering import Steering

REINS = frozenset({"pause", "unpause", "stop"})
FOR_EVER = 2**62  # a step that is never reached: until then nothing is decided anew


class NothingSaved(Saver):
    """A child can be made again from its parent at any time; its checkpoints would only take the space."""

    def save(self, reason: str) -> Path:
        return self.session.paths.checkpoints

    def request(self, reason: str, told: Told | None = None) -> None:
        """Nothing is saved."""


class Unwatched(Oversight):
    """No orchestrator looks on: what it thought and measured belongs to the parent."""

    def after_step(self, step: int, series: Mapping[str, float], arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Nothing is observed, proposed or measured."""

    def finish(self) -> None:
        """Nothing is measured."""


class ChildLoop(Loop):
    """The loop of every child."""

    def __init__(self, session: Session, steering: Steering, saver: Saver) -> None:
        super().__init__(session, steering, saver)
        self.oversight = Unwatched(session, steering)


class ChildSteering(Steering):
    """Pause, unpause and stop work; whatever else is asked for is refused."""

    def _take_up(self) -> None:
        """What was decided is the parent's to make."""

    def _answer(self, command: Command) -> None:
        if command.kind in REINS or command.id in self.session.answered:
            super()._answer(command)
            return
        reason = f"{self.session.paths.name} is a child run: it can be paused and stopped, and is not steered"
        self._close(command, "refused", self._receipt(command, "refused", reason=reason, code="unsupported"))
