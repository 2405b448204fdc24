"""Which interventions get into each other's way, and which finding comes first. It knows methods by name only.

Two remedies conflict when they change the same live value, when both change the experts of a layer, or when one of
them takes the whole run back or ends it. The order: emergencies, critical findings, warnings, the rest; within these
the surer one; then the order in which the detectors are listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from lumina.orchestrator.types import Finding

EVERYTHING: Final = "the run"
CHANGES: Final[Mapping[str, str]] = {
    "adjust_routing_temperature": "routing",
    "adjust_load_balancing_weight": "routing",
    "enable_expert_dropout": "routing",
    "adjust_capacity_factor": "capacity",
    "add_expert": "experts",
    "prune_expert": "experts",
    "adjust_mod_capacity": "depth",
    "adjust_mod_schedule": "depth",
    "adjust_batch_size": "batch",
    "adjust_difficulty_sampling": "data",
    "adjust_weight_decay": "decay",
    "adjust_gradient_clip": "clip",
    "adjust_learning_rate": "rate",
    "emergency_lr_reduction": "rate",
    "skip_data_range": "data",
    "adjust_training_length": "rate",
    "rollback_steps": EVERYTHING,
    "early_stop": EVERYTHING,
    "pause": EVERYTHING,
    "checkpoint": "nothing",
    "set_autonomy": "nothing",
}
ALSO: Final[Mapping[str, frozenset[str]]] = {
    "add_expert": frozenset({"capacity", "routing"}),  # the capacity factor follows, and loads move
    "prune_expert": frozenset({"capacity", "routing"}),
}
STRUCTURAL: Final = frozenset({"add_expert", "prune_expert"})
_SEVERITY: Final = {"critical": 1, "warning": 2, "info": 3}


def conflict(first: Iterable[str], second: Iterable[str]) -> bool:
    """Whether two remedies, each a list of methods, must not be made at once."""
    one, other = _changed(first), _changed(second)
    return bool(one and other and (EVERYTHING in one | other or one & other))


def rank(finding: Finding) -> tuple[int, float]:
    """Sort key: the lowest comes first."""
    return (0 if finding.emergency else _SEVERITY[finding.severity], -finding.confidence)


def _changed(methods: Iterable[str]) -> frozenset[str]:
    found: set[str] = set()
    for method in methods:
        found |= {CHANGES.get(method, method)} | ALSO.get(method, frozenset())
    return frozenset(found - {"nothing"})
