"""Mixture of Depths: which tokens go through a layer, how they are gathered and put back.

It chooses and moves tokens; what the layer does with them is a function that it is handed.
"""

# B sequences   T tokens   C chosen tokens   D hidden
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.accounting import ROUNDING, chosen_tokens
from lumina.model.knobs import Knobs
from lumina.model.layers import unit_rms
from lumina.model.transfer import sent

# (x [B, C, D], positions [B, C], which of them were chosen [B, C] or None for all) -> what the layer adds [B, C, D]
Body = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass
class ModStats:
    """What one MoD layer did; `agreement` is the predictor's share of tokens judged as the top-k choice did, `gate` the
    mean factor on what the layer adds to the chosen tokens."""

    mask_BT: Tensor
    chosen: Tensor
    tokens: int
    gate: Tensor
    agreement: Tensor
    predictor_loss: Tensor


class DepthRouter(nn.Module):
    """Chooses the tokens of a layer (Raposo et al., 2024).

    learned: score = w · x/rms(x). Training takes the ceil(capacity * T) highest scores of each sequence; since that
    looks at later tokens, evaluation takes the tokens with v · x/rms(x) > 0, where v is trained by binary
    cross-entropy on the top-k choice with x detached. What the layer adds is scaled by the gate, 2 * sigmoid(score /
    temperature), which is 1 at the start. A layer that the collapse guard holds open takes every token with a gate of
    1, whose gradient is that of the true gate.
    static: every token t at which ceil((t + 1) * capacity) rises. random: a new draw for each step; evaluation draws
    for each token by itself, so that a choice does not depend on how many tokens follow.
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

    def forward(self, x_BTD: Tensor, body: Body, real_BT: Tensor | None = None) -> tuple[Tensor, ModStats]:
        """x plus what `body` adds to the chosen tokens, and what was chosen; where `real_BT` is False is padding, which
        is never chosen and does not count in a sequence's share."""
        if self.kind == "learned":
            return self._learned(x_BTD, body, real_BT)
        mask_BT = self._fixed(x_BTD.shape[0], x_BTD.shape[1], x_BTD.device)
        mask_BT = mask_BT if real_BT is None else mask_BT & real_BT
        zero, one = torch.zeros((), device=x_BTD.device), torch.ones((), device=x_BTD.device)
        stats = ModStats(mask_BT, mask_BT.sum().float(), mask_BT.numel(), one, zero, zero)
        width = int(mask_BT.sum(1).max()) if self.kind == "random" and not self.training else self._count(x_BTD)
        return self._through(x_BTD, mask_BT, None, width, body, real_BT is not None), stats

    def _learned(self, x_BTD: Tensor, body: Body, real_BT: Tensor | None) -> tuple[Tensor, ModStats]:
        opened, count = self.layer in self.knobs.opened and self.training, self._count(x_BTD)
        with torch.autocast(x_BTD.device.type, enabled=False):
            unit_BTD = unit_rms(x_BTD, self.eps)
            score_BT = unit_BTD @ self.score.float()
            likely_BT = unit_BTD.detach() @ self.predictor.float()
            gate_BT = 2.0 * torch.sigmoid(score_BT / self.knobs.mod_routing_temperature)
        top_BT = self._highest(score_BT.detach(), count, real_BT)
        missed_BT = F.binary_cross_entropy_with_logits(likely_BT, top_BT.float(), reduction="none")
        predictor_loss = _mean(missed_BT, real_BT)
        agreement = _mean(((likely_BT.detach() > 0) == top_BT).float(), real_BT)
        mask_BT, width = (top_BT, count) if self.training or self.by_topk else (likely_BT > 0, -1)
        mask_BT = mask_BT if real_BT is None else mask_BT & real_BT
        true_gate = (gate_BT.detach() * mask_BT).sum() / mask_BT.sum().clamp(min=1)
        if opened:
            mask_BT = torch.ones_like(mask_BT) if real_BT is None else real_BT
            width = x_BTD.shape[1]
            gate_BT = 1.0 + gate_BT - gate_BT.detach()
        stats = ModStats(mask_BT, mask_BT.sum().float(), mask_BT.numel(), true_gate, agreement, predictor_loss)
        width = int(mask_BT.sum(1).max()) if width < 0 else width
        return self._through(x_BTD, mask_BT, gate_BT, width, body, real_BT is not None), stats

    def _highest(self, score_BT: Tensor, count: int, real_BT: Tensor | None) -> Tensor:
        """The highest scores of each sequence; of one with padding, a share of the tokens that are none."""
        if real_BT is None:
            return top_mask(score_BT, count)
        wanted_T = torch.ceil(
            torch.arange(real_BT.shape[1] + 1, dtype=torch.float64) * self.knobs.mod_capacity - ROUNDING
        )
        wanted_B = sent(wanted_T.long(), score_BT.device).index_select(0, real_BT.sum(1))
        return top_mask(score_BT.masked_fill(~real_BT, float("-inf")), count, wanted_B)

    def _count(self, x_BTD: Tensor) -> int:
        return chosen_tokens(self.knobs.mod_capacity, x_BTD.shape[1])

    def _through(
        self, x_BTD: Tensor, mask_BT: Tensor, gate_BT: Tensor | None, width: int, body: Body, padded: bool
    ) -> Tensor:
        B, T, D = x_BTD.shape
        if width == 0:
            return x_BTD
        # Chosen tokens first, in order; a shorter row is filled with others behind them, whose output is dropped.
        position_BC = (~mask_BT).to(torch.uint8).sort(dim=1, stable=True).indices[:, :width]
        flat = (position_BC + torch.arange(B, device=x_BTD.device).unsqueeze(1) * T).reshape(-1)
        chosen_BCD = x_BTD.reshape(B * T, D).index_select(0, flat).view(B, width, D)
        added = body(chosen_BCD, position_BC, mask_BT.gather(1, position_BC) if padded else None)
        added = added.reshape(-1, D).float()
        keep = mask_BT.reshape(-1).index_select(0, flat).float()
        if gate_BT is not None:
            keep = keep * gate_BT.reshape(-1).index_select(0, flat)
        return x_BTD + torch.zeros_like(x_BTD.reshape(-1, D)).index_add(
            0, flat, (added * keep.unsqueeze(1)).to(x_BTD.dtype)
        ).view(B, T, D)

    def _fixed(self, B: int, T: int, device: torch.device) -> Tensor:
        capacity = self.knobs.mod_capacity
        if self.kind == "static":
            count = torch.ceil(torch.arange(T + 1, dtype=torch.float64) * capacity - ROUNDING)
            return sent(count[1:] > count[:-1], device).expand(B, T)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.knobs.step * 131 + self.layer)
        if self.training or self.by_topk:
            return sent(top_mask(torch.rand(B, T, generator=generator), chosen_tokens(capacity, T)), device)
        return sent(torch.rand(T, B, generator=generator).t() < capacity, device)


def _mean(x_BT: Tensor, real_BT: Tensor | None) -> Tensor:
    return x_BT.mean() if real_BT is None else (x_BT * real_BT).sum() / real_BT.sum()


def top_mask(score_BT: Tensor, count: int, wanted_B: Tensor | None = None) -> Tensor:
    """True at the `count` highest scores of each row, or at the first `wanted_B` of those; the earlier token wins a
    tie."""
    order = score_BT.sort(dim=1, descending=True, stable=True).indices[:, :count]
    nothing = torch.zeros_like(score_BT, dtype=torch.bool)
    if wanted_B is None:
        return nothing.scatter(1, order, True)
    taken = torch.arange(count, device=order.device) < wanted_B.unsqueeze(1)
    return nothing.scatter(1, order, taken)
