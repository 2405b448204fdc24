"""The dense parts of a layer beside attention: RMSNorm, rotary positions, SwiGLU.

They follow the Llama layout (no biases) and know nothing of routing.
"""

# B sequences   T tokens   D hidden   H heads   d head width   F intermediate
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lumina.model.matmul import Linear


class RMSNorm(nn.Module):
    """x / rms(x) * weight, in float32 (Zhang & Sennrich, 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return y


class _RMSNorm(torch.autograd.Function):
    """Keeps x alone, and one number for each token.

    With u = x / rms(x) and g = gradient * weight, the gradient of x is (g - u mean(g u)) / rms(x).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        unit, wide = x.float() * scale, grad.float()
        to_weight = (wide * unit).flatten(0, -2).sum(0).to(weight.dtype)
        to_unit = wide * weight
        to_x = unit.mul_((to_unit * unit).mean(-1, keepdim=True)).neg_().add_(to_unit).mul_(scale)
        return to_x.to(x.dtype), to_weight, None


def unit_rms(x: Tensor, eps: float) -> Tensor:
    """x scaled to a root mean square of one over the last dimension, float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


class Rotary(nn.Module):
    """Rotary position embedding (Su et al., 2021), half-split layout as in Llama."""

    def __init__(self, head_dim: int, length: int, theta: float) -> None:
        super().__init__()
        frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angle_Td = torch.outer(torch.arange(length, dtype=torch.float32), frequency).repeat(1, 2)
        self.register_buffer("cos_Td", angle_Td.cos(), persistent=False)
        self.register_buffer("sin_Td", angle_Td.sin(), persistent=False)

    def forward(self, position_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [B, 1, T, d] of the given original positions."""
        shape = (*position_BT.shape, -1)
        flat = position_BT.reshape(-1)
        cos = self.get_buffer("cos_Td").index_select(0, flat).view(shape)
        sin = self.get_buffer("sin_Td").index_select(0, flat).view(shape)
        return cos.unsqueeze(1), sin.unsqueeze(1)


def rotate(x_BHTd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair of channels by the angle of its position."""
    y: Tensor = _Rotation.apply(x_BHTd, cos, sin)  # type: ignore[no-untyped-call]
    return y


class _Rotation(torch.autograd.Function):
    """Its gradient is turned back by the same angle: nothing of x is kept."""

    @staticmethod
    def forward(ctx: Any, x_BHTd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x_BHTd, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHTd: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad_BHTd, cos, -sin), None, None


def _rotated(x_BHTd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x_BHTd.shape[-1] // 2
    first, second = x_BHTd[..., :half], x_BHTd[..., half:]
    y = x_BHTd * cos
    y[..., :half].addcmul_(second, sin[..., :half], value=-1.0)
    y[..., half:].addcmul_(first, sin[..., half:])
    return y.to(x_BHTd.dtype)


def positions_of(document_BT: Tensor) -> Tensor:
    """Place of each token in its document; `document_BT` numbers the documents of a row, -1 is padding behind them."""
    place_T = torch.arange(document_BT.shape[1], device=document_BT.device)
    first_BT = torch.ones_like(document_BT, dtype=torch.bool)
    first_BT[:, 1:] = document_BT[:, 1:] != document_BT[:, :-1]
    return place_T - (place_T * first_BT).cummax(dim=1).values


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, 2020)."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden, intermediate)
        self.up_proj = Linear(hidden, intermediate)
        self.down_proj = Linear(intermediate, hidden)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y
