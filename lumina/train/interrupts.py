"""Signals as wishes that the loop reads at a step boundary. SIGTERM and SIGINT stop with a save, SIGUSR1 saves."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from types import FrameType


class StoppedEarly(Exception):
    """The run was asked to stop before its first step; the text says by whom and when."""


@dataclass
class Interrupts:
    """What the signals received so far ask for."""

    stop: str | None = None
    save: bool = False

    def install(self) -> None:
        """Registers the handlers; only the main thread of a process may do so."""
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, self._on_save)

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        if self.stop is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C means now, without a save
        self.stop = signal.Signals(number).name

    def _on_save(self, _number: int, _frame: FrameType | None) -> None:
        self.save = True
