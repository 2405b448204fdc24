"""How a step computes in a number format: the format of the weights, autocast, and loss scaling.
It knows formats and gradients, no layer and no schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lumina.config.schema import PrecisionConfig
from lumina.hardware import PrecisionChoice


class LossScaler:
    """Keeps float16 gradients from vanishing: the loss is multiplied by `scale`, the gradients divided by it.

    A step whose gradients overflow is skipped and divides the scale by `scale_factor`, down to `min_scale`; after
    `scale_window` steps without overflow the scale grows by the same factor.
    """

    def __init__(self, config: PrecisionConfig) -> None:
        self.scale, self.good_steps = config.init_scale, 0
        self._factor, self._window, self._least = config.scale_factor, config.scale_window, config.min_scale

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divides the gradients in place; those that overflowed stay non-finite."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, 1.0 / self.scale)

    def update(self, overflow: bool) -> None:
        """Adapts the scale to what a step was."""
        if overflow:
            self.scale, self.good_steps = max(self._least, self.scale / self._factor), 0
            return
        self.good_steps += 1
        if self.good_steps == self._window:
            self.scale, self.good_steps = self.scale * self._factor, 0

    def state(self) -> dict[str, Any]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.scale, self.good_steps = float(state["scale"]), int(state["good_steps"])


def cast_weights(model: nn.Module, precision: PrecisionChoice) -> None:
    """Keeps the parameters in the format's own; buffers (positions, running means) stay as they are."""
    dtype = dtype_of(precision.master_dtype)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def autocast(precision: PrecisionChoice, device: torch.device) -> torch.autocast:
    """Where weights are kept wider than products are computed, products are cast; else nothing is."""
    mixed = precision.compute_dtype != precision.master_dtype
    dtype = dtype_of(precision.compute_dtype) if mixed else None
    return torch.autocast(device.type, dtype=dtype, enabled=mixed)


def scaler_of(precision: PrecisionChoice, config: PrecisionConfig) -> LossScaler | None:
    """A loss scaler for the formats that need one."""
    return LossScaler(config) if precision.loss_scaling else None


def dtype_of(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def exported(tensor: Tensor) -> Tensor:
    """A float32 copy on the CPU (integers as they are), exact for every format of weights."""
    copy = tensor.detach().to("cpu", copy=True)
    return copy.float() if copy.is_floating_point() else copy
