"""The one list of interventions and queries: forms, command line, docs and receipts are made from it.

To add one, write its class in the module of its theme and name it in `ACTIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.config.problems import did_you_mean
from lumina.interventions.api import Declaration, Intervention, Risk
from lumina.interventions.batch import AdjustBatchSize, AdjustDifficultySampling
from lumina.interventions.depth import AdjustModCapacity, AdjustModSchedule
from lumina.interventions.experts import AddExpert, PruneExpert
from lumina.interventions.optimizer import (
    AdjustGradientClip,
    AdjustLearningRate,
    AdjustWeightDecay,
    EmergencyLrReduction,
)
from lumina.interventions.routing import (
    AdjustCapacityFactor,
    AdjustLoadBalancingWeight,
    AdjustRoutingTemperature,
    EnableExpertDropout,
)
from lumina.interventions.run import (
    AdjustTrainingLength,
    Checkpoint,
    EarlyStop,
    Pause,
    RollbackSteps,
    SetAutonomy,
    SkipDataRange,
)
from lumina.store.errors import Refusal

ACTIONS: dict[str, type[Intervention]] = {
    action.declaration.method: action
    for action in (
        AdjustRoutingTemperature,
        AdjustCapacityFactor,
        AdjustLoadBalancingWeight,
        EnableExpertDropout,
        AdjustModCapacity,
        AdjustModSchedule,
        AddExpert,
        PruneExpert,
        AdjustBatchSize,
        AdjustDifficultySampling,
        AdjustWeightDecay,
        AdjustGradientClip,
        AdjustLearningRate,
        EmergencyLrReduction,
        RollbackSteps,
        SkipDataRange,
        AdjustTrainingLength,
        Checkpoint,
        Pause,
        EarlyStop,
        SetAutonomy,
    )
}

QUERIES = (
    Declaration(
        "get_current_metrics", "query", "Loss, rate, gradient norm, throughput of now.", Risk.ROUTINE, "nothing"
    ),
    Declaration("get_expert_statistics", "query", "Utilisation, entropy, balance, drops.", Risk.ROUTINE, "nothing"),
    Declaration("get_mod_statistics", "query", "Capacity, depth, tokens, compute savings.", Risk.ROUTINE, "nothing"),
)


def catalogue() -> dict[str, Declaration]:
    """Method name → declaration, actions first."""
    listed = [action.declaration for action in ACTIONS.values()] + [*QUERIES]
    return {declaration.method: declaration for declaration in listed}


def build(method: str, args: Mapping[str, Any]) -> Intervention:
    """A checked, ready intervention.

    Raises `Refusal`: unknown_method, bad_argument, out_of_range.
    """
    known = catalogue()
    if method not in known:
        hint = did_you_mean(method, known) or f"available: {', '.join(ACTIONS)}"
        raise Refusal("unknown_method", f"there is no intervention {method!r}; {hint}")
    declaration = known[method]
    if declaration.kind == "query":
        raise Refusal("bad_argument", f"{method} is a query, not an intervention; ask it with lumina query")
    return ACTIONS[method](**declaration.parse(args))


def validate_args(method: str, args: Mapping[str, Any]) -> dict[str, float | int]:
    """Checked arguments with defaults filled in; the same refusals as `build`, without applying anything."""
    build(method, args)
    return catalogue()[method].parse(args)
