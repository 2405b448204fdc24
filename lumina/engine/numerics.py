"""How a step computes in a number format: the format of the weights, autocast, and loss scaling.
It knows formats and gradients, no layer and no schedule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lumina.config.schema import PrecisionConfig
from lumina.hardware import PrecisionChoice
from lumina.model.matmul import linear
from lumina.model.products import Product, fp8, int8_aware, is_multiplied, rounded_to_int8, use_product


def be_deterministic(*, compiled: bool) -> None:
    """From here on PyTorch refuses what differs from run to run. Compiled code needs a flag of the compiler's for that,
    too, and setting it imports the compiler, over a second at each start."""
    if compiled:
        torch.use_deterministic_algorithms(True)
    else:
        torch.set_deterministic_debug_mode("error")
    # Whatever is allocated would be filled with NaN first; nothing here reads memory that was not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class LossScaler:
    """Keeps float16 gradients from vanishing: the loss is multiplied by `scale`, the gradients divided by it.

    A step whose gradients overflow is skipped and divides the scale by `scale_factor`, down to `min_scale`; after
    `scale_window` steps without overflow the scale grows by the same factor. Without `dynamic_loss_scaling` it stays.
    """

    def __init__(self, config: PrecisionConfig) -> None:
        self.scale, self.good_steps, self._dynamic = config.init_scale, 0, config.dynamic_loss_scaling
        self._factor, self._window, self._least = config.scale_factor, config.scale_window, config.min_scale

    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Divides the gradients in place; those that overflowed stay non-finite."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, 1.0 / self.scale)

    def update(self, overflow: bool) -> None:
        """Adapts the scale to what a step was."""
        if not self._dynamic:
            return
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


class Weights:
    """The weights that the optimizer updates, by their parameters' names: the model's own, or copies of another format
    that the model's follow."""

    def __init__(self, model: nn.Module, precision: PrecisionChoice) -> None:
        """Casts the model's parameters to `weight_dtype`; buffers (positions, running means) stay as they are."""
        held, master = dtype_of(precision.weight_dtype), dtype_of(precision.master_dtype)
        self.by_name: dict[str, Tensor] = {}
        self._copied: list[tuple[nn.Parameter, Tensor]] = []
        for name, parameter in model.named_parameters():
            wide = parameter.data.to(master)
            parameter.data = parameter.data.to(held)
            self.by_name[name] = parameter if held == master else wide.requires_grad_()
            if held != master:
                self._copied.append((parameter, wide))

    def gather_gradients(self) -> None:
        """Adds the gradients of one backward pass to those of the copies."""
        for parameter, wide in self._copied:
            if parameter.grad is not None:
                grad, parameter.grad = parameter.grad.to(wide.dtype), None
                wide.grad = grad if wide.grad is None else wide.grad.add_(grad)

    @torch.no_grad()
    def publish(self) -> None:
        """Lets the model's parameters follow the copies."""
        for parameter, wide in self._copied:
            parameter.copy_(wide)


@contextmanager
def weights_for_inference(model: nn.Module, training: PrecisionChoice, wanted: PrecisionChoice) -> Iterator[None]:
    """Within it the model's parameters are as `wanted` has them; after it they are the same bits as before."""
    rounded, dtype = wanted.products == "int8", dtype_of(wanted.weight_dtype)
    if not rounded and wanted.weight_dtype == training.weight_dtype:
        yield
        return
    kept = {name: parameter.data for name, parameter in model.named_parameters()}
    try:
        for name, parameter in model.named_parameters():
            converted = rounded_to_int8(parameter.data) if rounded and is_multiplied(name) else parameter.data
            parameter.data = converted.to(dtype)
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.data = kept[name]


class Multiplication:
    """How a model's layers multiply, where training or inference does not use torch's own product."""

    def __init__(self, model: nn.Module, config: PrecisionConfig, training: PrecisionChoice,
                 inference: PrecisionChoice) -> None:  # fmt: skip
        self.training: Product = fp8 if training.products == "fp8" else linear
        if config.quantization_aware_training:
            self.training = int8_aware
        self.inference = self.training if inference is training else _inference_product(inference)
        special = self.training is not linear or self.inference is not linear
        self._multiplier = use_product(model, self.training) if special else None

    @property
    def is_plain(self) -> bool:
        return self._multiplier is None

    @contextmanager
    def for_inference(self) -> Iterator[None]:
        """Within it layers multiply as inference does."""
        if self._multiplier is None:
            yield
            return
        self._multiplier.product = self.inference
        try:
            yield
        finally:
            self._multiplier.product = self.training


def _inference_product(inference: PrecisionChoice) -> Product:
    # Weights that were rounded to 8 bits before need no product of their own.
    return fp8 if inference.products == "fp8" else linear


def autocast(precision: PrecisionChoice, device: torch.device) -> torch.autocast:
    """Where weights are held wider than products are computed, products are cast; else nothing is."""
    mixed = precision.compute_dtype != precision.weight_dtype
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
