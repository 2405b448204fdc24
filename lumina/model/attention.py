"""Causal grouped-query attention: fused where that is faster, and by matrix products where those are.

It knows neither norms nor what a layer does with the result.
"""

# B sequences   T tokens   D hidden   H heads   G key/value heads   R = H / G   d head width   C tokens of a block
# S documents
from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lumina.accounting import SHORT_SEQUENCE, query_blocks
from lumina.model.flash import HALVES, Flash
from lumina.model.layers import rotate


class Attention(nn.Module):
    """Causal grouped-query attention. Tokens come in the order of their positions, so causal is lower-triangular; with
    `document_BT` a token sees its own document only, as if that were alone. Where each document begins, `start_S1`, and
    the length that none exceeds are for kernels of `flash`, which compute no other pairs."""

    def __init__(self, hidden: int, heads: int, kv_heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.fused = heads, kv_heads, hidden // heads, fused
        self.flash: Flash | None = None
        self.q_proj = nn.Linear(hidden, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, hidden, bias=False)

    def forward(
        self, x_BTD: Tensor, cos: Tensor, sin: Tensor, document_BT: Tensor | None = None,
        start_S1: Tensor | None = None, longest: int = 0,
    ) -> Tensor:  # fmt: skip
        """What attention adds to each token [B, T, D]; `cos` and `sin` [B or 1, 1, T, d] are of their positions."""
        B, T, _ = x_BTD.shape
        q = rotate(self.q_proj(x_BTD).view(B, T, self.heads, -1).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x_BTD).view(B, T, self.kv_heads, -1).transpose(1, 2), cos, sin)
        v = self.v_proj(x_BTD).view(B, T, self.kv_heads, -1).transpose(1, 2)
        flash = self.flash if q.dtype in HALVES else None
        if flash is not None and start_S1 is not None:
            q_NHd, k_NGd, v_NGd = (x.transpose(1, 2).reshape(B * T, -1, self.head_dim) for x in (q, k, v))
            y_BTHd = flash.packed(q_NHd, k_NGd, v_NGd, start_S1, longest)
        elif flash is not None and flash.whole is not None and document_BT is None:
            y_BTHd = flash.whole(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        elif self.fused and (x_BTD.device.type != "cpu" or T > SHORT_SEQUENCE):
            y_BTHd = self._fused(q, k, v, document_BT, flash is not None).transpose(1, 2)
        else:
            y_BTHd = by_products(q, k, v, document_BT).transpose(1, 2)
        out: Tensor = self.o_proj(y_BTHd.reshape(B, T, -1))
        return out

    def _fused(self, q_BHTd: Tensor, k_BGTd: Tensor, v_BGTd: Tensor, document_BT: Tensor | None, flash: bool) -> Tensor:
        shared = self.heads != self.kv_heads
        if shared and q_BHTd.is_cuda and (document_BT is not None or not flash):
            # Of the kernels for GPUs only flash attention shares keys and values, and it takes no mask; without copies
            # PyTorch would fall back to one that keeps every score.
            k_BGTd, v_BGTd = (x.repeat_interleave(self.heads // self.kv_heads, 1) for x in (k_BGTd, v_BGTd))
            shared = False
        if document_BT is None:
            return F.scaled_dot_product_attention(q_BHTd, k_BGTd, v_BGTd, is_causal=True, enable_gqa=shared)
        seen = ~_hidden(q_BHTd.shape[2], document_BT, q_BHTd.device).unsqueeze(1)
        return F.scaled_dot_product_attention(q_BHTd, k_BGTd, v_BGTd, attn_mask=seen, enable_gqa=shared)


def by_products(q_BHTd: Tensor, k_BGTd: Tensor, v_BGTd: Tensor, document_BT: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over what each query may see, by matrix products [B, H, T, d]."""
    with torch.autocast(q_BHTd.device.type, enabled=False):
        hidden = _hidden(q_BHTd.shape[2], document_BT, q_BHTd.device)
        hidden = hidden if document_BT is None else hidden[:, None, None]
        y: Tensor = _ByProducts.apply(q_BHTd, k_BGTd, v_BGTd, hidden)  # type: ignore[no-untyped-call]
    return y


class _ByProducts(torch.autograd.Function):
    """A block of queries at a time, so that what comes after the block is not computed; keeps the probabilities.

    The R query heads of one key/value head stand below each other in one product: beside each other, each would need
    its own copy of keys and values. Keys carry the 1/sqrt(d). Their gradients, and those of the values, are summed over
    the blocks in float32.
    """

    @staticmethod
    def forward(ctx: Any, q_BHTd: Tensor, k_BGTd: Tensor, v_BGTd: Tensor, hidden: Tensor) -> Tensor:
        B, H, T, d = q_BHTd.shape
        G = k_BGTd.shape[1]
        k, v = (k_BGTd * (1.0 / math.sqrt(d))).reshape(B * G, T, d), v_BGTd.reshape(B * G, T, d)
        y_BTHd, weights = q_BHTd.new_empty(B, T, H, d), []
        y = y_BTHd.view(B, T, G, H // G, d).permute(0, 2, 3, 1, 4)
        for start, end in query_blocks(T):
            score = _rows_of(q_BHTd, G, start, end) @ k[:, :end].transpose(1, 2)
            first = start if hidden.ndim == 2 else 0  # without documents all of the block sees what lies before it
            seen = score.view(B, G, -1, end - start, end)[..., first:]
            seen.masked_fill_(hidden[..., start:end, first:end], -math.inf)
            weight = score.softmax(-1)
            y[..., start:end, :] = (weight @ v[:, :end]).view(B, G, -1, end - start, d)
            weights.append(weight)
        ctx.save_for_backward(q_BHTd, k, v, *weights)
        return y_BTHd.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHTd: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_BHTd, k, v, *weights = ctx.saved_tensors
        B, H, T, d = q_BHTd.shape
        G = len(k) // B
        to_q_BTHd = q_BHTd.new_empty(B, T, H, d)
        to_q = to_q_BTHd.view(B, T, G, H // G, d).permute(0, 2, 3, 1, 4)
        to_k, to_v = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
        for (start, end), weight in zip(query_blocks(T), weights, strict=True):
            grad = _rows_of(grad_BHTd, G, start, end)
            to_v[:, :end] += weight.transpose(1, 2) @ grad
            # Hidden pairs have a probability of zero, so that nothing comes through them.
            to_score = torch._softmax_backward_data(grad @ v[:, :end].transpose(1, 2), weight, -1, weight.dtype)
            to_k[:, :end] += to_score.transpose(1, 2) @ _rows_of(q_BHTd, G, start, end)
            to_q[..., start:end, :] = (to_score @ k[:, :end]).view(B, G, -1, end - start, d)
        to_k, to_v = (grad.to(k.dtype).view(B, G, T, d) for grad in (to_k / math.sqrt(d), to_v))
        return to_q_BTHd.transpose(1, 2), to_k, to_v, None


def _rows_of(x_BHTd: Tensor, groups: int, start: int, end: int) -> Tensor:
    """The tokens of a block, with the heads of a group below each other [B * G, R * C, d]."""
    return x_BHTd[:, :, start:end].reshape(len(x_BHTd) * groups, -1, x_BHTd.shape[-1])


def _hidden(T: int, document_BT: Tensor | None, device: torch.device) -> Tensor:
    """True where a token (row) must not look (column): later ones [T, T], and with documents other ones [B, T, T]."""
    future_TT = torch.ones(T, T, dtype=torch.bool, device=device).triu(1)
    if document_BT is None:
        return future_TT
    return future_TT | (document_BT.unsqueeze(2) != document_BT.unsqueeze(1))
