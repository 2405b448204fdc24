"""What is compared: nothing, two ways to clip, a rate that follows the validation loss, and the orchestrator.

Each acts through the trainer as anybody could; none of them knows a fault or a scenario.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from lumina.train.trainer import Trainer

UNCLIPPED = 1e12


class Method:
    """Does nothing. `acts` has the steps at which a method changed something."""

    settings: ClassVar[dict[str, Any]] = {"use_adaptive_training": False, "gradient_clip_val": UNCLIPPED}

    def __init__(self) -> None:
        self.acts: list[int] = []

    def before_step(self, step: int, engine: Any) -> None:
        """Called before each optimizer step, with the live engine."""

    def after_step(self, trainer: Trainer, val_loss: float | None) -> None:
        """Called between steps; `val_loss` is given when the step ended in a validation."""


class Clip(Method):
    """The trainer's own clipping to a fixed norm; nobody watches."""

    settings: ClassVar[dict[str, Any]] = {"use_adaptive_training": False}


class Auto(Method):
    """The trainer as shipped, the orchestrator free to act."""

    settings: ClassVar[dict[str, Any]] = {"use_adaptive_training": True, "autonomy": "auto"}


class Plateau(Method):
    """A rate that is cut to a tenth when the validation loss has not improved (`ReduceLROnPlateau` of torch), on top of
    the schedule and of clipping. Torch's defaults but for the patience, since its ten epochs would be a whole run."""

    settings: ClassVar[dict[str, Any]] = {"use_adaptive_training": False}
    FACTOR, THRESHOLD, PATIENCE = 0.1, 1e-4, 3

    def __init__(self) -> None:
        super().__init__()
        self.best, self.bad = math.inf, 0

    def after_step(self, trainer: Trainer, val_loss: float | None) -> None:
        if val_loss is None:
            return
        if val_loss < self.best * (1.0 - self.THRESHOLD):
            self.best, self.bad = val_loss, 0
            return
        self.bad += 1
        if self.bad > self.PATIENCE:
            self.bad = 0
            trainer.emergency_lr_reduction(1.0 / self.FACTOR)
            self.acts.append(trainer.step)


class ZClip(Method):
    """Adaptive clipping by z-score (Kumar et al., 2025, arXiv:2504.02507), in place of the fixed norm.

    m and v are running mean and variance (decay 0.97) of the norms, from the first 25 on. A norm g with z = (g - m) /
    sqrt(v) > 2.5 is scaled down to m + 2.5^2 sqrt(v) / z, the paper's reciprocal clipping, and that is what the running
    figures see of it.
    """

    DECAY, Z, WARMUP, LARGEST, EPSILON = 0.97, 2.5, 25, 1.0, 1e-6

    def __init__(self) -> None:
        super().__init__()
        self._first: list[float] = []
        self._mean = self._variance = 0.0
        self._optimizer: Any = None
        self._step = 0

    def before_step(self, step: int, engine: Any) -> None:
        self._step = step
        if engine.optimizer is not self._optimizer:  # surgery and rewinds build a new one
            self._optimizer = engine.optimizer
            self._optimizer.register_step_pre_hook(self._clip)

    def _clip(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt())
        scale = min(self.limit(norm), self.LARGEST) / (norm + self.EPSILON)
        if scale < 1.0:
            for gradient in gradients:
                gradient.mul_(scale)

    def limit(self, norm: float) -> float:
        """What a gradient of this norm is scaled down to, and the norm into the running figures."""
        if len(self._first) < self.WARMUP:
            self._first.append(norm)
            if len(self._first) == self.WARMUP:
                self._mean = sum(self._first) / self.WARMUP
                self._variance = sum((value - self._mean) ** 2 for value in self._first) / self.WARMUP
            return norm
        deviation = math.sqrt(self._variance)
        z = (norm - self._mean) / (deviation + self.EPSILON)
        kept = norm
        if z > self.Z:
            kept = self._mean + self.Z**2 * deviation / z
            self.acts.append(self._step)
        self._mean = self.DECAY * self._mean + (1 - self.DECAY) * kept
        self._variance = self.DECAY * self._variance + (1 - self.DECAY) * (kept - self._mean) ** 2
        return kept


METHODS: dict[str, Callable[[], Method]] = {
    "none": Method,
    "clip": Clip,
    "plateau": Plateau,
    "zclip": ZClip,
    "auto": Auto,
}
"""By name, in the order of the published table; `none` is what damage is measured by, `clip` without a fault is the
healthy run."""
