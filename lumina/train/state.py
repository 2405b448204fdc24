"""What the training loop itself carries from step to step; all of it travels in every checkpoint.

It knows no engine: the model, the optimizer and their live values are in the engine's part of the canonical state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainState:
    """Counters and live values of the loop. `step` is the last attempted step, `position` the sequences consumed;
    `batch_size` and `autonomy` are None while they are the configuration's; `skipped` has the ranges of sequences
    [first, stop) that no step takes; `lengths` the changes of the run's length, as `Plan.last_step` wants them;
    `validation_batch_size` is what memory holds at most in validation, None while nothing is known against the step's;
    `difficulty_sampling` is None while it is the configuration's; `val_step` is the step of the newest validation."""

    step: int = 0
    position: int = 0
    tokens: int = 0
    lr_scale: float = 1.0
    batch_size: int | None = None
    validation_batch_size: int | None = None
    autonomy: str | None = None
    skipped: list[list[int]] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)
    difficulty_sampling: float | None = None
    val_loss: float | None = None
    val_step: int | None = None
    best_val_loss: float | None = None
    skipped_steps: int = 0
    windows: dict[str, list[float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> TrainState:
        return cls(**{f.name: doc[f.name] for f in dataclasses.fields(cls) if f.name in doc})
