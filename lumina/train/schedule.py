"""The learning rate as a pure function of the step. It knows nothing of optimizers or interventions."""

from __future__ import annotations

import math

from lumina.config.schema import TrainingConfig


def warmup_length(training: TrainingConfig, total_steps: int) -> int:
    """Warm-up in steps; a `warmup_steps` below 1 is a fraction of the whole run."""
    wanted = training.warmup_steps
    steps = round(wanted * total_steps) if 0 < wanted < 1 else int(wanted)
    return min(steps, max(0, total_steps - 1))


def learning_rate(step: float, training: TrainingConfig, total_steps: int) -> float:
    """Learning rate of optimizer step `step` (counted from 1; between two steps where a schedule was stretched).

    Linear warm-up, then cosine, linear or constant decay that ends at `min_lr_ratio` of the peak at `total_steps`.
    """
    peak, warmup = training.learning_rate, warmup_length(training, total_steps)
    if step <= warmup:
        return peak * step / warmup
    if training.lr_schedule == "constant":
        return peak
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    shape = 0.5 * (1.0 + math.cos(math.pi * progress)) if training.lr_schedule == "cosine" else 1.0 - progress
    return peak * (training.min_lr_ratio + (1.0 - training.min_lr_ratio) * shape)
