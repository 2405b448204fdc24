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
from lumina.model.crew import run_all
from lumina.model.flash import HALVES, Flash
from lumina.model.layers import rotate
from lumina.model.matmul import Linear, product, takes_onednn

FEWEST_ROWS = 256  # of a product by oneDNN that is worth a call of its own


class Attention(nn.Module):
    """Causal grouped-query attention. Tokens come in the order of their positions, so causal is lower-triangular; with
    `document_BT` a token sees its own document only, as if that were alone. Where each document begins, `start_S1`, and
    the length that none exceeds are for kernels of `flash`, which compute no other pairs."""

    def __init__(self, hidden: int, heads: int, kv_heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.fused = heads, kv_heads, hidden // heads, fused
        self.flash: Flash | None = None
        self.q_proj = Linear(hidden, heads * self.head_dim)
        self.k_proj = Linear(hidden, kv_heads * self.head_dim)
        self.v_proj = Linear(hidden, kv_heads * self.head_dim)
        self.o_proj = Linear(heads * self.head_dim, hidden)

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
        y: Tensor = _ByProducts.apply(q_BHTd, k_BGTd, v_BGTd, document_BT)  # type: ignore[no-untyped-call]
    return y


class _ByProducts(torch.autograd.Function):
    """A block of queries at a time, so that what comes after the block is not computed. The probabilities are computed
    again in the backward pass: to keep those of all layers takes more memory than anything else of attention.

    The R query heads of one key/value head stand below each other in one product: beside each other, each would need
    its own copy of keys and values. Keys carry the 1/sqrt(d). Gradients of keys and values are summed over the blocks
    in float32, transposed, so that of their products' factors it is the short one that is turned.
    """

    @staticmethod
    def forward(ctx: Any, q_BHTd: Tensor, k_BGTd: Tensor, v_BGTd: Tensor, document_BT: Tensor | None) -> Tensor:
        T, d = q_BHTd.shape[-2:]
        k, v = (k_BGTd * (1.0 / math.sqrt(d))).contiguous(), v_BGTd.contiguous()
        y_BTHd = torch.empty_like(q_BHTd.transpose(1, 2), memory_format=torch.contiguous_format)
        alone = document_BT is None

        def attend(k: Tensor, v: Tensor, q: Tensor, y: Tensor, hidden: Tensor) -> None:
            for start, end in query_blocks(T):
                weight = _weights(q, k, hidden, start, end, alone)
                part = y[..., start:end, :]
                part.copy_(product(weight, v[..., :end, :]).view(part.shape))

        q, y = _of_groups(q_BHTd, k), _of_groups(y_BTHd.transpose(1, 2), k)
        ctx.apart = takes_onednn(q, k) and q.shape[2] * query_blocks(T)[0][1] >= FEWEST_ROWS
        pieces = _pieces(ctx.apart, k, v, q, y, _mask(k, document_BT))
        run_all(attend, pieces, len(pieces), q.device)
        ctx.save_for_backward(q_BHTd, k, v, document_BT)
        return y_BTHd.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHTd: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_BHTd, k, v, document_BT = ctx.saved_tensors
        T, d = q_BHTd.shape[-2:]
        alone = document_BT is None
        to_q_BTHd = torch.empty_like(q_BHTd.transpose(1, 2), memory_format=torch.contiguous_format)
        to_k_BGdT, to_v_BGdT = (torch.zeros(*k.shape[:2], d, T, device=k.device) for _ in range(2))

        def trace(k: Tensor, v: Tensor, q: Tensor, grad_y: Tensor, to_q: Tensor, to_k: Tensor, to_v: Tensor,
                  hidden: Tensor) -> None:  # fmt: skip
            for start, end in query_blocks(T):
                weight = _weights(q, k, hidden, start, end, alone)
                grad = _rows(grad_y, start, end)
                to_v[..., :end] += product(grad.transpose(-2, -1), weight)
                # Hidden pairs have a probability of zero, so that nothing comes through them.
                to_weight = product(grad, v[..., :end, :].transpose(-2, -1))
                to_score = torch._softmax_backward_data(to_weight, weight, -1, weight.dtype)
                to_k[..., :end] += product(_rows(q, start, end).transpose(-2, -1), to_score)
                part = to_q[..., start:end, :]
                part.copy_(product(to_score, k[..., :end, :]).view(part.shape))

        heads = (_of_groups(x_BHTd, k) for x_BHTd in (q_BHTd, grad_BHTd, to_q_BTHd.transpose(1, 2)))
        pieces = _pieces(ctx.apart, k, v, *heads, to_k_BGdT, to_v_BGdT, _mask(k, document_BT))
        run_all(trace, pieces, len(pieces), k.device)
        to_k, to_v = (x.transpose(2, 3).to(k.dtype) for x in (to_k_BGdT.mul_(1.0 / math.sqrt(d)), to_v_BGdT))
        return to_q_BTHd.transpose(1, 2), to_k, to_v, None


def _of_groups(x_BHTd: Tensor, k_BGTd: Tensor) -> Tensor:
    """The heads of each key/value head [B, G, R, T, d]."""
    B, H, T, d = x_BHTd.shape
    G = k_BGTd.shape[1]
    return x_BHTd.view(B, G, H // G, T, d)


def _pieces(apart: bool, *parts: Tensor) -> list[tuple[Tensor, ...]]:
    """What is computed at a time, of tensors [B, G, ...]: one key/value head of one sequence, or all of them."""
    if not apart:
        return [parts]
    B, G = parts[0].shape[:2]
    return [tuple(part[sequence, group] for part in parts) for sequence in range(B) for group in range(G)]


def _mask(k_BGTd: Tensor, document_BT: Tensor | None) -> Tensor:
    """What `_hidden` says, for the heads of each key/value head [B, G, 1, T, T]."""
    B, G, T, _ = k_BGTd.shape
    return _hidden(T, document_BT, k_BGTd.device).view(-1, 1, 1, T, T).expand(B, G, 1, T, T)


def _weights(q: Tensor, k: Tensor, hidden: Tensor, start: int, end: int, alone: bool) -> Tensor:
    """The probabilities of a block of queries: softmax over the keys up to its end [..., R * C, end]."""
    score = product(_rows(q, start, end), k[..., :end, :].transpose(-2, -1))
    first = start if alone else 0  # without documents all of a block sees what lies before it
    seen = score.view(*q.shape[:-2], end - start, end)[..., first:]
    seen.masked_fill_(hidden[..., start:end, first:end], -math.inf)
    return score.softmax(-1)


def _rows(x: Tensor, start: int, end: int) -> Tensor:
    """The tokens of a block, with the heads of a group below each other [..., R * C, d]."""
    return x[..., start:end, :].flatten(-3, -2)


def _hidden(T: int, document_BT: Tensor | None, device: torch.device) -> Tensor:
    """True where a token (row) must not look (column): later ones [T, T], and with documents other ones [B, T, T]."""
    future_TT = torch.ones(T, T, dtype=torch.bool, device=device).triu(1)
    if document_BT is None:
        return future_TT
    return future_TT | (document_BT.unsqueeze(2) != document_BT.unsqueeze(1))
