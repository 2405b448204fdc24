"""How long a run is and why, and the learning rate that follows from it. Torch-free arithmetic on the configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lumina.config import Config
from lumina.data import Program
from lumina.train import schedule


@dataclass(frozen=True)
class Plan:
    """The length of a run: `total_steps` optimizer steps of `sequences_per_step` sequences.

    `horizon` is the length in sequences that the run was configured with; an extension does not move it, so that what
    was trained on stays what it was. From sequence `boundary` on it is in the second phase of hybrid_sequential.
    """

    config: Config
    total_steps: int
    reason: str
    sequences_per_step: int
    horizon: int = 0
    boundary: int | None = None
    asked: int = 0  # how often a person gave the number of steps on the command line; a change of length ends with it

    @property
    def seed(self) -> int:
        return self.config.training.seed

    def last_step(self, changes: Sequence[Sequence[int]] = ()) -> int:
        """The length in force after `changes`: rows (step after which, new length, the plan's `asked` then)."""
        return next((total for _, total, asked in reversed(changes) if asked == self.asked), self.total_steps)

    def place(self, step: int, changes: Sequence[Sequence[int]] = ()) -> float:
        """Where a step lies in the planned schedule: each change stretches what was left of it over the steps left."""
        held = [(since, total) for since, total, asked in changes if asked == self.asked and since < step]
        place: float = min((since for since, _ in held), default=step)
        for number, (since, total) in enumerate(held):
            until = held[number + 1][0] if number + 1 < len(held) else step
            place += (until - since) * (self.total_steps - place) / (total - since)
        return place

    def learning_rate(self, step: int, changes: Sequence[Sequence[int]] = ()) -> float:
        """Scheduled rate of optimizer step `step` (from 1), before interventions on the rate itself."""
        rate = schedule.learning_rate(self.place(step, changes), self.config.training, self.total_steps)
        rewarming = self.config.data.phase_warmup_steps
        if self.boundary is None or not rewarming:
            return rate
        since = step - self.boundary // self.sequences_per_step  # steps that have seen the second phase
        return rate * min(1.0, since / rewarming) if since > 0 else rate


def make_plan(config: Config, *, program: Program, automatic_epochs: int, steps: int | None = None,
              asked: int = 0) -> Plan:  # fmt: skip
    """`steps` (or training.max_steps) beats automatic epochs, which beat num_epochs; the reason says which one held."""
    training = config.training
    per_step = training.batch_size * training.gradient_accumulation_steps
    automatic = config.chinchilla.auto_epoch_scaling
    epochs = automatic_epochs if automatic else training.num_epochs
    by_epochs = max(1, math.ceil(program.sequences(epochs) / per_step))
    planned = training.max_steps or by_epochs
    limit = None if training.max_steps is None else planned * per_step
    source = "automatic epochs from the Chinchilla budget" if automatic else "num_epochs"
    reason = f"{by_epochs:,} steps = {program.describe(epochs)} ({source})"
    total = steps if steps is not None else planned
    if steps is not None or training.max_steps is not None:
        reason = f"{total:,} steps as asked for"
    return Plan(config, total, reason, per_step, planned * per_step, program.boundary(epochs, limit), asked)
