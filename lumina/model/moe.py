"""Mixture of Experts: a float32 router and capacity over stacked experts; `experts` computes what was chosen.

It reports what it did; how often it is told to change (temperature, capacity, experts) is not its business.
"""

# N tokens   D hidden   F expert intermediate   E experts   K experts per token   M = N*K assignments
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.config.schema import MoeConfig
from lumina.model import experts
from lumina.model.knobs import Knobs
from lumina.model.layers import SwiGLU
from lumina.model.transfer import sent

LOAD_EMA = 0.95  # per step, of each expert's share
STACKED = ("router", "router_bias", "w_in", "w_out")  # parameters with a row per expert
STACKED_BUFFERS = ("born_E", "load_ema_E", "choice_bias_E")
PRUNED = 1 << 40  # added to the step in which an expert was born: live in no step, and the step is not forgotten


@dataclass
class MoEStats:
    """What one MoE layer did in one forward pass; tensors stay on the device.

    `computed_E` counts the assignments that each expert computed; `live_E` ignores expert dropout; `expert_M` and
    `weight_M` are the expert and the routing weight of each assignment, 0 for one that was dropped.
    """

    probability_E: Tensor
    share_E: Tensor
    computed_E: Tensor
    expert_M: Tensor
    weight_M: Tensor
    live_E: Tensor
    dropped: Tensor
    assignments: int
    balance_loss: Tensor
    z_loss: Tensor

    def weight_per_expert(self) -> Tensor:
        """Sum of the routing weights that each expert computed."""
        return torch.zeros(self.share_E.shape, device=self.weight_M.device).index_add(0, self.expert_M, self.weight_M)


@dataclass(frozen=True)
class Dispatch:
    """Assignments sorted by expert with first choices first (m = choice * N + token), which of them fit, and how many
    each expert was wanted for and takes."""

    order_M: Tensor
    fits_M: Tensor | None
    wanted_E: Tensor
    taken_E: Tensor


class MoE(nn.Module):
    """Top-k routed SwiGLU experts.

    logit = router(x) / temperature + offset and probability = softmax(logit), in float32; the k largest are
    renormalised to sum to one. offset is 0, or -inf until an added expert's first step, then log(steps since / ramp)
    until it is 0; it is -inf for pruned experts and, in training, for those that expert dropout leaves out of the step.
    In training an expert takes at most ceil(capacity_factor * k * N / experts that take part) tokens, first choices
    first; the others keep their residual. Evaluation drops nothing. The balance loss is n * sum_e share_e * mean
    probability_e over the n experts that take part (Fedus et al., 2021, eq. 4-6); the z-loss is the mean of
    logsumexp(logit)^2 (Zoph et al., 2022). Bias balancing (Wang et al., 2024) adds a bias to the probabilities for the
    choice alone, not to the weights; each step moves it by its rate toward an even load. Shared experts see every token
    and are added to the routed ones.
    """

    def __init__(
        self, config: MoeConfig, hidden: int, intermediate: int, slots: int, knobs: Knobs, layer: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        self.top_k, self.ramp, self.knobs = config.moe_top_k, config.expert_ramp_steps, knobs
        self.layer, self.seed = layer, seed
        self.rate, self.z_weight = config.bias_balancing_rate, config.router_z_loss_weight
        self.compute: experts.Compute = experts.one_by_one
        self.in_groups: experts.InGroups | None = None  # computes them instead
        self.router = nn.Parameter(torch.empty(slots, hidden))
        self.router_bias = nn.Parameter(torch.zeros(slots)) if config.router_init_bias is not None else None
        self.w_in = nn.Parameter(torch.empty(slots, 2 * intermediate, hidden))
        self.w_out = nn.Parameter(torch.empty(slots, hidden, intermediate))
        shared = config.num_shared_experts
        self.shared = SwiGLU(hidden, shared * intermediate) if shared else None
        self.register_buffer("born_E", torch.full((slots,), -1, dtype=torch.int64))
        self.register_buffer("load_ema_E", torch.full((slots,), 1.0 / slots))
        self.choice_bias_E: Tensor | None
        self.register_buffer("choice_bias_E", torch.zeros(slots) if config.bias_balancing else None)

    def reset(self, std: float, init_bias: float | tuple[float, ...] | None) -> None:
        """Draws new weights; the bias goes to expert 0, or is one number per expert."""
        for weight in (self.router, self.w_in, self.w_out):
            nn.init.normal_(weight, std=std)
        if self.router_bias is not None and init_bias is not None:
            values = torch.tensor(init_bias if isinstance(init_bias, tuple) else (init_bias,))
            with torch.no_grad():
                self.router_bias[: len(values)] = values

    def logit_offset(self) -> Tensor:
        """Logit offset of each expert at the current step: 0 for old ones, -inf for one not live yet or pruned."""
        born = self.get_buffer("born_E")
        age = (self.knobs.step - born).clamp(max=self.ramp).float()
        return torch.where(born < 0, torch.zeros_like(age), torch.log(age.clamp(min=0) / self.ramp))

    def is_pruned(self) -> Tensor:
        """True for the experts that were pruned; -1 is the birth of those that were there from the start."""
        return self.get_buffer("born_E") >= PRUNED - 1

    def forward(self, x_ND: Tensor) -> tuple[Tensor, MoEStats]:
        """What the chosen experts add to each of the N tokens, and how they were chosen."""
        with torch.autocast(x_ND.device.type, enabled=False):
            live_offset_E = self.logit_offset()
            offset_E = self._with_dropout(live_offset_E)
            logit_NE = F.linear(x_ND.float(), self.router.float(), self._bias()) / self.knobs.routing_temperature
            logit_NE = logit_NE + offset_E
            probability_NE = logit_NE.softmax(-1)
            weight_NK, expert_NK = self._choose(probability_NE, logit_NE, offset_E)
            z_loss = logit_NE.logsumexp(-1).square().mean() if self.z_weight else logit_NE.new_zeros(())
        shared_ND = self.shared(x_ND) if self.shared is not None else None
        taking_part = torch.isfinite(offset_E).sum()
        plan = self._dispatch(expert_NK, taking_part)
        weight_M = weight_NK.t().reshape(-1).index_select(0, plan.order_M)
        if plan.fits_M is not None:
            weight_M = weight_M * plan.fits_M
        y_ND = self._computed(x_ND, weight_M, plan)
        y_ND = y_ND if shared_ND is None else shared_ND + y_ND
        share_E, mean_E = plan.wanted_E.float() / expert_NK.numel(), probability_NE.mean(0)
        return y_ND, MoEStats(
            probability_E=mean_E.detach(),
            share_E=share_E,
            computed_E=plan.taken_E.float(),
            expert_M=expert_NK.t().reshape(-1).index_select(0, plan.order_M),
            weight_M=weight_M.detach(),
            live_E=torch.isfinite(live_offset_E),
            dropped=(plan.wanted_E - plan.taken_E).sum().float(),
            assignments=expert_NK.numel(),
            balance_loss=taking_part * (share_E * mean_E).sum(),
            z_loss=z_loss,
        )

    def _bias(self) -> Tensor | None:
        return None if self.router_bias is None else self.router_bias.float()

    def _with_dropout(self, offset_E: Tensor) -> Tensor:
        """Leaves each live expert out of the step by chance, but never so many that a token has too few to choose."""
        chance = self.knobs.expert_dropout
        if not self.training or chance == 0.0:
            return offset_E
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.knobs.step * 131 + self.layer)
        draw_E = sent(torch.rand(len(offset_E), generator=generator), offset_E.device)
        draw_E = draw_E.masked_fill(~torch.isfinite(offset_E), -1.0)
        kept_E = draw_E >= chance
        kept_E = kept_E.index_fill(0, draw_E.topk(self.top_k).indices, True)
        return offset_E.masked_fill(~kept_E, -math.inf)

    def _choose(self, probability_NE: Tensor, logit_NE: Tensor, offset_E: Tensor) -> tuple[Tensor, Tensor]:
        score_NE = logit_NE.detach()  # not the probability: that of a live expert may be as much zero as a masked one's
        if self.choice_bias_E is not None:
            score_NE = (probability_NE.detach() + self.choice_bias_E).masked_fill(torch.isinf(offset_E), -math.inf)
        expert_NK = score_NE.topk(self.top_k, dim=-1).indices
        weight_NK = probability_NE.gather(1, expert_NK)
        # Far below any probability that matters: a bias may choose experts whose probabilities are all zero.
        return weight_NK / weight_NK.sum(-1, keepdim=True).clamp(min=1e-30), expert_NK

    def _dispatch(self, expert_NK: Tensor, taking_part: Tensor) -> Dispatch:
        flat_M = expert_NK.t().reshape(-1)
        _, order_M = flat_M.sort(stable=True)
        wanted_E = F.one_hot(flat_M, self.router.shape[0]).sum(0)
        factor = self.knobs.capacity_factor
        if not self.training or factor is None:
            return Dispatch(order_M, None, wanted_E, wanted_E)
        # ceil(x / n) is ceil(ceil(x) / n) for whole n: exact on devices that have no float64.
        capacity = (math.ceil(factor * len(flat_M)) + taking_part - 1) // taking_part
        start_E = wanted_E.cumsum(0) - wanted_E
        rank_M = torch.arange(len(flat_M), device=flat_M.device) - start_E.index_select(0, flat_M[order_M])
        return Dispatch(order_M, rank_M < capacity, wanted_E, wanted_E.minimum(capacity))

    def _computed(self, x_ND: Tensor, weight_M: Tensor, plan: Dispatch) -> Tensor:
        """Sum over each token's experts of routing weight times SwiGLU."""
        order_M, count_E = plan.order_M, plan.wanted_E
        if self.in_groups is not None:
            place_M = torch.arange(len(order_M), device=order_M.device)
            row_KN = torch.empty_like(order_M).scatter_(0, order_M, place_M).view(self.top_k, -1)
            token_M = order_M % x_ND.shape[0]
            return self.in_groups(x_ND, weight_M, token_M, count_E, self.w_in, self.w_out, row_KN)
        if plan.fits_M is not None:
            # What is dropped need not be computed where its number may be asked for.
            kept = plan.fits_M.nonzero().squeeze(1)
            order_M, weight_M, count_E = order_M[kept], weight_M.index_select(0, kept), plan.taken_E
        return self.compute(x_ND, weight_M, order_M % x_ND.shape[0], count_E, self.w_in, self.w_out)

    @torch.no_grad()
    def follow(self, share_E: Tensor) -> None:
        """Takes in the shares of a step: their running mean, and the bias of bias balancing (the loss-free rule)."""
        self.get_buffer("load_ema_E").mul_(LOAD_EMA).add_(share_E, alpha=1.0 - LOAD_EMA)
        if self.choice_bias_E is not None:
            live_E = torch.isfinite(self.logit_offset())
            fair = 1.0 / live_E.sum()
            self.choice_bias_E.add_(torch.sign(fair - share_E) * live_E, alpha=self.rate)
