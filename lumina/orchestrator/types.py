"""What the orchestrator's parts hand to each other: facts of the run, findings of detectors, proposals to people.
They hold data only and know nothing of how it is measured or applied."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lumina.accounting import EpochAdvice, TokenBudget


@dataclass(frozen=True)
class RunFacts:
    """What does not change while a run trains. Layers are indices into the model.

    `flops_per_token` counts forward and backward; `run` only enters the ids of proposals, so that two runs need not
    share them. `memory_bytes` is what the device has (0: unknown). `total_steps` is the length that is planned now;
    where `automatic`, the budget of tokens chose it, and no person.
    """

    moe_layers: tuple[int, ...]
    mod_layers: tuple[int, ...]
    num_experts: int
    top_k: int
    params_total: int
    params_active: int
    flops_per_token: float
    tokens_optimal: TokenBudget
    total_steps: int
    run: str = ""
    tokens_per_epoch: float = 0.0
    epochs: EpochAdvice | None = None
    extended: bool = False  # a person gave it more steps than it was planned with
    num_layers: int = 0
    warmup_steps: int = 0
    sequences_per_step: int = 1
    memory_bytes: float = 0.0
    automatic: bool = False


@dataclass(frozen=True)
class Act:
    """One intervention of a remedy: a method of the catalogue and its arguments."""

    method: str
    args: Mapping[str, float | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What one detector sees now: the cause, how sure it is (0 to 1), and what would help.

    `severity` is info, warning or critical. `method` is None where nothing that exists would help (any more); the
    finding then only counts for health. `then` follows `method`, in that order. `watches` names the live values whose
    change makes the finding, and every proposal made from it, out of date. An `emergency` does not wait for the next
    check. `clock` marks what depends on the machine and the hour, which no state may remember.
    """

    cause: str
    confidence: float
    severity: str
    evidence: Mapping[str, Any]
    method: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    watches: tuple[str, ...] = ()
    then: tuple[Act, ...] = ()
    emergency: bool = False
    clock: bool = False


@dataclass(frozen=True)
class Attempt:
    """An intervention that was made for a proposal: the cause, the step after which, by whom (`alone`: nobody was
    asked), whether the run went back by it, and where in the data the trouble began (None: nowhere in particular)."""

    cause: str
    step: int
    method: str
    alone: bool
    rewound: bool
    position: int | None = None


@dataclass(frozen=True)
class Proposal:
    """One intervention put to a person (or, in autonomy `auto`, to the run itself).

    `evidence` has `summary` (a sentence), `numbers`, `window` {first_step, last_step} and `threshold`. `then` lists the
    interventions that follow the first one, in order: {method, args} each.
    """

    id: str
    step: int
    method: str
    args: Mapping[str, Any]
    cause: str
    evidence: Mapping[str, Any]
    confidence: float
    expires_step: int
    default_at_expiry: str = "no change"
    then: tuple[Act, ...] = ()
    emergency: bool = False

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "then": [dataclasses.asdict(act) for act in self.then]}
