"""The detectors: each looks at the signals of the last steps for one kind of trouble and says what would help.

To add one, write a small module here with a class that fits `Detector`, and list it in `all_detectors`. A detector
keeps no state and must not know about earlier proposals; the policy does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lumina.config import Config
from lumina.orchestrator.detectors import divergence, gradients, nonfinite, rate
from lumina.orchestrator.detectors.course import Curriculum, TrainingLength
from lumina.orchestrator.detectors.depth import DepthDrift, OverSkipping
from lumina.orchestrator.detectors.divergence import Divergence
from lumina.orchestrator.detectors.experts import DeadExpert, ExpertImbalance, ExpertOverload, TokenDrop
from lumina.orchestrator.detectors.gradients import GradientExplosion
from lumina.orchestrator.detectors.machine import MemoryPressure, Throughput
from lumina.orchestrator.detectors.nonfinite import NonFinite
from lumina.orchestrator.detectors.overfitting import Overfitting
from lumina.orchestrator.detectors.progress import Progress
from lumina.orchestrator.detectors.rate import RateStrayed
from lumina.orchestrator.detectors.router_collapse import RouterCollapse
from lumina.orchestrator.detectors.view import View
from lumina.orchestrator.signals import Signals
from lumina.orchestrator.types import Finding

__all__ = ["Detector", "View", "all_detectors", "emergency_detectors", "looks_wrong"]


class Detector(Protocol):
    """Looks for one kind of trouble."""

    def find(self, view: View) -> Sequence[Finding]:
        """What is wrong now. A finding below the policy's threshold keeps an open proposal from being withdrawn."""


def looks_wrong(signals: Signals) -> bool:
    """A first look at the newest step: cheap, and true at every step at which an emergency could be found."""
    return gradients.peaked(signals) or divergence.left(signals) or nonfinite.failed(signals) or rate.high(signals)


def emergency_detectors() -> tuple[Detector, ...]:
    """Those that are asked at every step at which something looks wrong, not only when a check is due."""
    return (NonFinite(), RateStrayed(), GradientExplosion(), Divergence())


def all_detectors(config: Config | None = None) -> tuple[Detector, ...]:
    """Every detector (of those that a run must ask for the ones that `config` does), in the order in which findings are
    considered: what destroys the run first."""
    course: list[Detector] = []
    if config is None or config.chinchilla.adaptive_epochs:
        course.append(TrainingLength())
    if config is None or config.chinchilla.adaptive_curriculum:
        course.append(Curriculum(config.data.difficulty_sampling if config else 0.0))
    return (
        *emergency_detectors(),
        MemoryPressure(),
        RouterCollapse(),
        DeadExpert(),
        TokenDrop(),
        OverSkipping(),
        Overfitting(),
        Progress(),
        *course,
        ExpertImbalance(),
        ExpertOverload(),
        DepthDrift(),
        Throughput(),
    )
