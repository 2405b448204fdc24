"""The detectors: each looks at the signals of the last steps for one kind of trouble and says what would help.

To add one, write a small module here with a class that fits `Detector`, and list it in `all_detectors`. A detector
keeps no state and must not know about earlier proposals; the policy does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from lumina.orchestrator.detectors.router_collapse import RouterCollapse
from lumina.orchestrator.signals import Signals
from lumina.orchestrator.types import Finding, RunFacts


class Detector(Protocol):
    """Looks for one kind of trouble."""

    def find(self, signals: Signals, facts: RunFacts, hparams: Mapping[str, float]) -> Sequence[Finding]:
        """What is wrong now. A finding below the policy's threshold keeps an open proposal from being withdrawn."""


def all_detectors() -> tuple[Detector, ...]:
    """Every detector, in the order in which findings are considered."""
    return (RouterCollapse(),)
