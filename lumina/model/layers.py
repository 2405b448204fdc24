"""The dense parts of a layer: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

They follow the Llama layout (no biases) and know nothing of routing.
"""

# B sequences   T tokens   D hidden   H heads   G key/value heads   d head width   F intermediate
from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHORT_SEQUENCE = 1024  # up to here plain matrix products beat fused attention on CPUs


class RMSNorm(nn.Module):
    """x / rms(x) * weight, in float32 (Zhang & Sennrich, 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * unit_rms(x, self.eps).to(x.dtype)


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


class Attention(nn.Module):
    """Causal grouped-query attention. Tokens come in the order of their positions, so causal is lower-triangular."""

    def __init__(self, hidden: int, heads: int, kv_heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.fused = heads, kv_heads, hidden // heads, fused
        self.q_proj = nn.Linear(hidden, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, hidden, bias=False)

    def forward(self, x_BTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, _ = x_BTD.shape
        q = rotate(self.q_proj(x_BTD).view(B, T, self.heads, -1).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x_BTD).view(B, T, self.kv_heads, -1).transpose(1, 2), cos, sin)
        v = self.v_proj(x_BTD).view(B, T, self.kv_heads, -1).transpose(1, 2)
        if self.fused and (x_BTD.device.type != "cpu" or T > SHORT_SEQUENCE):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        else:
            y = self._plain(q, k, v)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(B, T, -1))
        return out

    def _plain(self, q_BHTd: Tensor, k_BGTd: Tensor, v_BGTd: Tensor) -> Tensor:
        B, H, T, d = q_BHTd.shape
        q = (q_BHTd * (1.0 / math.sqrt(d))).view(B, self.kv_heads, H // self.kv_heads, T, d)
        score = q @ k_BGTd.unsqueeze(2).transpose(-1, -2)
        future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
        weight = score.masked_fill(future, float("-inf")).softmax(-1, dtype=torch.float32).to(v_BGTd.dtype)
        return (weight @ v_BGTd.unsqueeze(2)).view(B, H, T, d)


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
