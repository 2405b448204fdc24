"""Matrix products in other number formats than the weights': float8 on new GPUs, and weights rounded to 8 bits.
It swaps how layers multiply and knows neither routing nor training."""

# N rows   I inputs   O outputs
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lumina.model import experts
from lumina.model.matmul import Linear, linear
from lumina.model.moe import MoE

Product = Callable[[Tensor, Tensor], Tensor]
"""(x [..., I], weight [O, I]) -> [..., O]"""

BLOCK = 16  # float8 products take inner sizes in multiples of it
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


class Multiplier:
    """The product that a model's layers use now."""

    def __init__(self, product: Product) -> None:
        self.product = product

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.product(x, weight)


def use_product(model: nn.Module, product: Product) -> Multiplier:
    """Lets attention, feed-forward and experts multiply by `product`, until the returned one is given another.

    Parameters and their names stay. Routers, norms, the embedding and the output matrix are left as they are.
    """
    multiplier = Multiplier(product)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is Linear:
                setattr(module, name, _Linear(child.weight, multiplier))
        if isinstance(module, MoE):
            module.compute = partial(experts.by_product, multiplier)
    return multiplier


def is_multiplied(name: str) -> bool:
    """Whether `use_product` concerns the parameter of that name."""
    return name.endswith((".w_in", ".w_out", "_proj.weight"))


class _Linear(nn.Module):
    def __init__(self, weight: Tensor, product: Product) -> None:
        super().__init__()
        self.weight, self.product = weight, product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight)


# Weights of 8 bits


def rounded_to_int8(weight: Tensor) -> Tensor:
    """`weight` on a grid of -127 to 127 steps, symmetric, one scale for each output (all but the last dimension)."""
    scale = weight.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / 127.0
    return ((weight / scale).round() * scale).to(weight.dtype)


def int8_aware(x: Tensor, weight_OI: Tensor) -> Tensor:
    """x times the rounded weight; the gradient passes the rounding as if it were not there (Bengio et al., 2013)."""
    return linear(x, weight_OI + (rounded_to_int8(weight_OI.detach()) - weight_OI.detach()))


# Float8


def fp8(x: Tensor, weight_OI: Tensor) -> Tensor:
    """x times weight with both in e4m3, and the gradient that comes back in e5m2 (Micikevicius et al., 2022).

    One scale for each tensor, from its largest value at this very moment. The result is bfloat16.
    """
    result: Tensor = _Float8.apply(x.reshape(-1, x.shape[-1]), weight_OI)  # type: ignore[no-untyped-call]
    return result.view(*x.shape[:-1], weight_OI.shape[0])


class _Float8(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        x8, x_scale = _to_float8(x_NI, E4M3)
        weight8, weight_scale = _to_float8(weight_OI, E4M3)
        ctx.save_for_backward(x8, x_scale, weight8, weight_scale)
        ctx.dtypes = x_NI.dtype, weight_OI.dtype
        return _product(x8, x_scale, weight8, weight_scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, Tensor]:
        x8, x_scale, weight8, weight_scale = ctx.saved_tensors
        grad8, grad_scale = _to_float8(grad_NO, E5M2)
        grad_x = _product(grad8, grad_scale, weight8.t().contiguous(), weight_scale)
        grad_weight = _product(_rows_padded(grad8).t().contiguous(), grad_scale,
                               _rows_padded(x8).t().contiguous(), x_scale)  # fmt: skip
        return grad_x.to(ctx.dtypes[0]), grad_weight.to(ctx.dtypes[1])


def _to_float8(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The tensor times a scale that uses the format's range, and the reciprocal of that scale."""
    largest = torch.finfo(dtype).max
    peak = tensor.abs().amax().float() if tensor.numel() else torch.zeros((), device=tensor.device)
    scale = largest / peak.clamp(min=1e-12)
    return (tensor.float() * scale).clamp(-largest, largest).to(dtype), scale.reciprocal()


def _product(a_NI: Tensor, a_scale: Tensor, b_OI: Tensor, b_scale: Tensor) -> Tensor:
    """a times b transposed, in bfloat16."""
    if not len(a_NI):
        return a_NI.new_zeros((0, len(b_OI)), dtype=torch.bfloat16)
    return torch._scaled_mm(a_NI, b_OI.t(), scale_a=a_scale, scale_b=b_scale, out_dtype=torch.bfloat16)


def _rows_padded(tensor: Tensor) -> Tensor:
    """With rows of zeros behind, up to a multiple of a block."""
    return F.pad(tensor.view(torch.uint8), (0, 0, 0, -len(tensor) % BLOCK)).view(tensor.dtype)
