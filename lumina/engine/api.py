"""What the trainer knows of an engine. Arrays that cross this line are numpy; states are canonical."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lumina.checkpoint import CanonicalState

VALIDATION = "validation"  # the phase of an `OutOfMemory` that no step of training met


@dataclass(frozen=True)
class MicroBatch:
    """Token ids [sequences, tokens], and the next token of each position, or -100 where no loss is taken.

    `documents` numbers the documents of each sequence from 0 on, where they must not see each other; -1 is padding.
    """

    tokens: NDArray[np.integer[Any]]
    labels: NDArray[np.integer[Any]]
    documents: NDArray[np.integer[Any]] | None = None

    @property
    def real_tokens(self) -> int:
        """Tokens that are no padding."""
        return self.tokens.size if self.documents is None else int((self.documents >= 0).sum())


@dataclass(frozen=True)
class StepStats:
    """One optimizer step. Losses in nats per token, `sequence_losses` those of each sequence in the order of the
    micro-batches; `skipped` means that nothing was updated (non-finite)."""

    step: int
    loss: float
    total_loss: float
    accuracy: float
    grad_norm: float
    learning_rate: float
    tokens: int
    skipped: bool
    series: Mapping[str, float]
    arrays: Mapping[str, NDArray[Any]]
    sequence_losses: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class EvalStats:
    """Sums over one batch; `loss_topk_sum` is with MoD's training-time choice of tokens."""

    loss_sum: float
    loss_topk_sum: float
    correct: int
    tokens: int


@dataclass(frozen=True)
class LayerExperts:
    """Experts of one layer: live ones, ones being ramped in, the busiest of both by a running mean of its share, and
    the indices of the pruned ones."""

    live: int
    ramping: int
    busiest: int
    pruned: tuple[int, ...] = ()


@dataclass(frozen=True)
class EngineDescription:
    """The shape of the live model."""

    layers: int
    mod_layers: tuple[int, ...]
    top_k: int
    parameters: int
    experts: Mapping[int, LayerExperts]

    def to_json(self) -> dict[str, Any]:
        return {
            "count": self.layers,
            "moe": list(self.experts),
            "mod": list(self.mod_layers),
            "experts": {str(layer): count.live + count.ramping for layer, count in self.experts.items()},
            "top_k": self.top_k,
            "parameters": self.parameters,
        }


class OutOfMemory(Exception):
    """A step that did not fit; nothing was changed by it, and its gradients are dropped. `phase` says where."""

    def __init__(self, phase: str, message: str) -> None:
        super().__init__(f"out of memory in {phase}: {message}")
        self.phase, self.message = phase, message


class TornUpdate(Exception):
    """Memory ran out when a part of the parameters was updated already: this state is not to be saved or used."""


class Engine(Protocol):
    """Owns the model and the optimizer. The same state, step, batches and rate give the same bits on a CPU."""

    def train_step(self, step: int, microbatches: Sequence[MicroBatch], learning_rate: float) -> StepStats:
        """Raises `OutOfMemory` when the step did not fit, `TornUpdate`."""
        ...

    def eval_step(self, batch: MicroBatch) -> EvalStats: ...

    def set_hparams(self, **values: float | None) -> None: ...

    def get_hparams(self) -> dict[str, float | None]: ...

    def live_state(self) -> CanonicalState:
        """The state itself, not a copy: good until the next call of anything else."""
        ...

    def export_state(self) -> CanonicalState: ...

    def restore_state(self, state: CanonicalState) -> None: ...

    def rebuild(self, state: CanonicalState) -> None: ...

    def describe(self) -> EngineDescription: ...

    def close(self) -> None: ...
