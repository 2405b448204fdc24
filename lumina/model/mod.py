"""Mixture of Depths: which tokens go through a layer, how they are gathered and put back.

It chooses and moves tokens; what the layer does with them is a function that it is handed.
"""

# B sequences   T tokens   C chosen tokens   D hidden
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.model.layers import unit_rms
from lumina.model.moe import Knobs

Body = Callable[[Tensor, Tensor], Tensor]  # (x [B, C, D], positions [B, C]) -> what the layer adds [B, C, D]


@dataclass
class ModStats:
    """What one MoD layer did; `agreement` is the predictor's share of tokens judged as the top-k choice did."""

    chosen: Tensor
    tokens: int
    agreement: Tensor
    predictor_loss: Tensor


class DepthRouter(nn.Module):
    """Chooses the tokens of a layer (Raposo et al., 2024).

    learned: score = w · x/rms(x). Training takes the ceil(capacity * T) highest scores of each sequence; since that
    looks at later tokens, evaluation takes the tokens with v · x/rms(x) > 0, where v is trained by binary
    cross-entropy on the top-k choice with x detached. What the layer adds is scaled by 2 * sigmoid(score), which is 1
    at the start. static: every token at which floor((t + 1) * capacity) rises. random: a new draw for each step.
    """

    def __init__(self, kind: str, hidden: int, eps: float, layer: int, knobs: Knobs, seed: int) -> None:
        super().__init__()
        self.kind, self.eps, self.layer, self.knobs, self.seed = kind, eps, layer, knobs, seed
        self.by_topk = False  # evaluation with the training-time choice, for comparison
        if kind == "learned":
            self.score = nn.Parameter(torch.zeros(hidden))
            self.predictor = nn.Parameter(torch.zeros(hidden))

    def reset(self, std: float) -> None:
        if self.kind == "learned":
            nn.init.normal_(self.score, std=std)
            nn.init.normal_(self.predictor, std=std)

    def forward(self, x_BTD: Tensor, body: Body) -> tuple[Tensor, ModStats]:
        """x plus what `body` adds to the chosen tokens, and what was chosen."""
        B, T, _ = x_BTD.shape
        capacity = math.ceil(self.knobs.mod_capacity_factor * T)
        zero = torch.zeros((), device=x_BTD.device)
        gate_BT, agreement, predictor_loss = None, zero, zero
        if self.kind == "learned":
            with torch.autocast(x_BTD.device.type, enabled=False):
                unit_BTD = unit_rms(x_BTD, self.eps)
                score_BT = unit_BTD @ self.score
                likely_BT = unit_BTD.detach() @ self.predictor
                gate_BT = 2.0 * torch.sigmoid(score_BT)
            top_BT = top_mask(score_BT.detach(), capacity)
            predictor_loss = F.binary_cross_entropy_with_logits(likely_BT, top_BT.float())
            agreement = ((likely_BT.detach() > 0) == top_BT).float().mean()
            mask_BT = top_BT if self.training or self.by_topk else likely_BT > 0
        else:
            mask_BT = self._fixed(B, T, capacity, x_BTD.device)
        width = capacity if self.training or self.by_topk or self.kind != "learned" else int(mask_BT.sum(1).max())
        stats = ModStats(mask_BT.sum().float(), B * T, agreement, predictor_loss)
        if width == 0:
            return x_BTD, stats
        return self._through(x_BTD, mask_BT, gate_BT, width, body), stats

    def _through(self, x_BTD: Tensor, mask_BT: Tensor, gate_BT: Tensor | None, width: int, body: Body) -> Tensor:
        B, T, D = x_BTD.shape
        # Chosen tokens first, in order; a shorter row is filled with others behind them, whose output is dropped.
        position_BC = (~mask_BT).to(torch.uint8).sort(dim=1, stable=True).indices[:, :width]
        flat = (position_BC + torch.arange(B, device=x_BTD.device).unsqueeze(1) * T).reshape(-1)
        chosen_BCD = x_BTD.reshape(B * T, D).index_select(0, flat).view(B, width, D)
        added = body(chosen_BCD, position_BC).reshape(-1, D).float()
        keep = mask_BT.reshape(-1).index_select(0, flat).float()
        if gate_BT is not None:
            keep = keep * gate_BT.reshape(-1).index_select(0, flat)
        return x_BTD + torch.zeros_like(x_BTD.reshape(-1, D)).index_add(
            0, flat, (added * keep.unsqueeze(1)).to(x_BTD.dtype)
        ).view(B, T, D)

    def _fixed(self, B: int, T: int, capacity: int, device: torch.device) -> Tensor:
        if self.kind == "static":
            edge = torch.arange(T + 1, dtype=torch.float64) * (capacity / T) + 1e-9
            return (edge[1:].floor() > edge[:-1].floor()).to(device).expand(B, T)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.knobs.step * 131 + self.layer)
        return top_mask(torch.rand(B, T, generator=generator).to(device), capacity)


def top_mask(score_BT: Tensor, count: int) -> Tensor:
    """True at the `count` highest scores of each row; the earlier token wins a tie."""
    order = score_BT.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(score_BT, dtype=torch.bool).scatter(1, order, True)
