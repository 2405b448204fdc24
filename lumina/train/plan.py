"""How long a run is and why, and the learning rate that follows from it. Torch-free arithmetic on the configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lumina.config import Config
from lumina.train import schedule


@dataclass(frozen=True)
class Plan:
    """The length of a run: `total_steps` optimizer steps of `sequences_per_step` sequences."""

    config: Config
    total_steps: int
    reason: str
    sequences_per_step: int

    @property
    def seed(self) -> int:
        return self.config.training.seed

    def learning_rate(self, step: int) -> float:
        """Scheduled rate of optimizer step `step` (from 1), before interventions."""
        return schedule.learning_rate(step, self.config.training, self.total_steps)


def make_plan(config: Config, *, sequences_per_epoch: int, automatic_epochs: int, steps: int | None = None) -> Plan:
    """`steps` (or training.max_steps) beats automatic epochs, which beat num_epochs; the reason says which one held."""
    training = config.training
    per_step = training.batch_size * training.gradient_accumulation_steps
    steps = steps if steps is not None else training.max_steps
    if steps is not None:
        return Plan(config, steps, f"{steps:,} steps as asked for", per_step)
    automatic = config.chinchilla.auto_epoch_scaling
    epochs = automatic_epochs if automatic else training.num_epochs
    total = math.ceil(epochs * sequences_per_epoch / per_step)
    source = "automatic epochs from the Chinchilla budget" if automatic else "num_epochs"
    return Plan(config, max(1, total), f"{total:,} steps = {epochs} epochs ({source})", per_step)
