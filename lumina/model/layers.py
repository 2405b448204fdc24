"""The dense parts of a layer: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

They follow the Llama layout (no biases) and know nothing of routing.
"""

# B sequences   T tokens   D hidden   H heads   G key/value heads   d head width   F intermediate
from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lumina.accounting import SHORT_SEQUENCE, query_blocks


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
    first, second = x_BHTd.chunk(2, dim=-1)
    return (x_BHTd * cos + torch.cat((-second, first), dim=-1) * sin).to(x_BHTd.dtype)


def positions_of(document_BT: Tensor) -> Tensor:
    """Place of each token in its document; `document_BT` numbers the documents of a row, -1 is padding behind them."""
    place_T = torch.arange(document_BT.shape[1], device=document_BT.device)
    first_BT = torch.ones_like(document_BT, dtype=torch.bool)
    first_BT[:, 1:] = document_BT[:, 1:] != document_BT[:, :-1]
    return place_T - (place_T * first_BT).cummax(dim=1).values


class Attention(nn.Module):
    """Causal grouped-query attention. Tokens come in the order of their positions, so causal is lower-triangular; with
    `document_BT` a token sees its own document only, as if that were alone."""

    def __init__(self, hidden: int, heads: int, kv_heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.fused = heads, kv_heads, hidden // heads, fused
        self.q_proj = nn.Linear(hidden, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, hidden, bias=False)

    def forward(self, x_BTD: Tensor, cos: Tensor, sin: Tensor, document_BT: Tensor | None = None) -> Tensor:
        B, T, _ = x_BTD.shape
        q = rotate(self.q_proj(x_BTD).view(B, T, self.heads, -1).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x_BTD).view(B, T, self.kv_heads, -1).transpose(1, 2), cos, sin)
        v = self.v_proj(x_BTD).view(B, T, self.kv_heads, -1).transpose(1, 2)
        if self.fused and (x_BTD.device.type != "cpu" or T > SHORT_SEQUENCE):
            shared = self.heads != self.kv_heads
            if document_BT is None:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shared)
            else:
                seen = ~_hidden(T, document_BT, q.device).unsqueeze(1)
                y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=shared)
        else:
            y = self._plain(q, k, v, document_BT)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(B, T, -1))
        return out

    def _plain(self, q_BHTd: Tensor, k_BGTd: Tensor, v_BGTd: Tensor, document_BT: Tensor | None = None) -> Tensor:
        """By matrix products, a block of queries at a time: what comes after the block is not computed."""
        B, H, T, d = q_BHTd.shape
        q = (q_BHTd * (1.0 / math.sqrt(d))).view(B, self.kv_heads, H // self.kv_heads, T, d)
        k, v, hidden = k_BGTd.unsqueeze(2), v_BGTd.unsqueeze(2), _hidden(T, document_BT, q.device)
        hidden = hidden if document_BT is None else hidden.view(B, 1, 1, T, T)
        blocks = []
        for start, end in query_blocks(T):
            score = q[..., start:end, :] @ k[..., :end, :].transpose(-1, -2)
            first = start if document_BT is None else 0  # what lies before the block is seen by all of it
            score[..., first:].masked_fill_(hidden[..., start:end, first:end], float("-inf"))
            weight = score.softmax(-1, dtype=torch.float32).to(v.dtype)
            blocks.append(weight @ v[..., :end, :])
        return torch.cat(blocks, dim=-2).view(B, H, T, d)


def _hidden(T: int, document_BT: Tensor | None, device: torch.device) -> Tensor:
    """True where a token (row) must not look (column): later ones [T, T], and with documents other ones [B, T, T]."""
    future_TT = torch.ones(T, T, dtype=torch.bool, device=device).triu(1)
    if document_BT is None:
        return future_TT
    return future_TT | (document_BT.unsqueeze(2) != document_BT.unsqueeze(1))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, 2020)."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y
