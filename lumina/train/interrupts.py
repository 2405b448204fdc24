"""Signals as wishes that the loop reads at a step boundary. SIGTERM and SIGINT stop with a save, SIGUSR1 saves."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from types import FrameType


class StoppedEarly(Exception):
    """The run was asked to stop before its first step; the text says by whom and when."""


@dataclass
class Interrupts:
    """What the signals received so far ask for. Any number of one kind asks for one thing, but SIGINT twice means now:
    `KeyboardInterrupt`, wherever the main thread is."""

    stop: str | None = None
    save: bool = False
    presses: int = 0

    def install(self) -> None:
        """Registers the handlers; only the main thread of a process may do so."""
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, self._on_save)

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        self.stop = self.stop or signal.Signals(number).name
        if number == signal.SIGINT:
            self.presses += 1
            if self.presses == 2:
                raise KeyboardInterrupt

    def _on_save(self, _number: int, _frame: FrameType | None) -> None:
        self.save = True
