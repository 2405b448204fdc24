"""Mixture of Experts and of Depths written as plainly as they can be: every expert sees every token, masks decide.
The oracles of the parity tests: slow, obvious, and sharing no routing code with the product."""

# N tokens   T tokens of a sequence   E experts   K choices
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.model.layers import rotate
from lumina.model.moe import MoE
from lumina.model.transformer import Layer


@dataclass
class PlainMoE:
    """What the oracle computed: `wanted` assignments per expert, of which `taken` fit."""

    y: Tensor
    wanted: list[int]
    taken: list[int]
    balance_loss: Tensor

    @property
    def dropped(self) -> int:
        return sum(self.wanted) - sum(self.taken)


def plain_moe(moe: MoE, x: Tensor, *, capacity_factor: float | None, temperature: float = 1.0) -> PlainMoE:
    """The layer `moe` on tokens [N, D], token by token."""
    experts, top_k = len(moe.router), moe.top_k
    probability = torch.softmax((x @ moe.router.t()) / temperature, dim=1)
    preferred = probability.detach() + (0.0 if moe.choice_bias_E is None else moe.choice_bias_E)
    ranked = preferred.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    chosen_weight = torch.stack([probability[n, ranked[n]] for n in range(len(x))])
    weight = chosen_weight / chosen_weight.sum(1, keepdim=True)
    capacity = math.inf if capacity_factor is None else math.ceil(capacity_factor * top_k * len(x) / experts)
    wanted, taken = [0] * experts, [0] * experts
    share = torch.zeros(len(x), experts)
    for choice in range(top_k):
        for token in range(len(x)):
            expert = int(ranked[token, choice])
            wanted[expert] += 1
            if taken[expert] < capacity:
                taken[expert] += 1
                mask = torch.zeros(len(x), experts)
                mask[token, expert] = 1.0
                share = share + mask * weight[token, choice]
    y = torch.zeros_like(x)
    for expert in range(experts):
        gate, up = (x @ moe.w_in[expert].t()).chunk(2, dim=1)
        y = y + share[:, expert : expert + 1] * ((F.silu(gate) * up) @ moe.w_out[expert].t())
    if moe.shared is not None:
        gate, up = x @ moe.shared.gate_proj.weight.t(), x @ moe.shared.up_proj.weight.t()
        y = y + (F.silu(gate) * up) @ moe.shared.down_proj.weight.t()
    fraction = torch.tensor(wanted, dtype=torch.float32) / (top_k * len(x))
    return PlainMoE(y, wanted, taken, experts * (fraction * probability.mean(0)).sum())


def plain_depth_layer(layer: Layer, x: Tensor, *, capacity: float, capacity_factor: float | None) -> Tensor:
    """A layer with learned Mixture of Depths on [B, T, D] in training: full attention, skipped tokens hidden."""
    assert layer.mod is not None
    tokens = x.shape[1]
    unit = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + layer.mod.eps)
    score = unit @ layer.mod.score
    chosen = torch.zeros(x.shape[:2], dtype=torch.bool)
    for row in range(len(x)):
        best = sorted(range(tokens), key=lambda t, r=row: -float(score[r, t].detach()))[: math.ceil(capacity * tokens)]  # type: ignore[misc]
        chosen[row, best] = True
    attended = plain_attention(layer, x, chosen) if layer.scope == "layer" else torch.zeros_like(x)
    entered = layer.post_norm(x + attended)
    if layer.moe is None:
        assert layer.ffn is not None
        fed = layer.ffn(entered)
    else:
        rows = plain_moe(layer.moe, entered[chosen], capacity_factor=capacity_factor).y
        fed = torch.zeros_like(x).masked_scatter(chosen.unsqueeze(-1), rows)
    gate = (2.0 * torch.sigmoid(score) * chosen).unsqueeze(-1)
    return x + gate * (attended + fed)


def plain_attention(layer: Layer, x: Tensor, visible: Tensor) -> Tensor:
    """Attention in which every token sees the earlier ones that are `visible` [B, T]."""
    attention, tokens = layer.attention, x.shape[1]
    cos, sin = layer.rotary(torch.arange(tokens).unsqueeze(0))
    normed = layer.input_norm(x)

    def heads(projection: torch.nn.Linear, count: int) -> Tensor:
        return projection(normed).view(len(x), tokens, count, -1).transpose(1, 2)

    group = attention.heads // attention.kv_heads
    q = rotate(heads(attention.q_proj, attention.heads), cos, sin)
    k = rotate(heads(attention.k_proj, attention.kv_heads), cos, sin).repeat_interleave(group, dim=1)
    v = heads(attention.v_proj, attention.kv_heads).repeat_interleave(group, dim=1)
    allowed = torch.ones(tokens, tokens, dtype=torch.bool).tril() & visible[:, None, None, :]
    allowed = allowed | torch.eye(tokens, dtype=torch.bool)  # a skipped token sees itself; its row is not used
    score = (q @ k.transpose(-1, -2)) / math.sqrt(attention.head_dim)
    y = score.masked_fill(~allowed, -math.inf).softmax(-1) @ v
    return attention.o_proj(y.transpose(1, 2).reshape(len(x), tokens, -1))
