"""Mixture of Experts: a float32 router, capacity, and stacked experts computed one after the other.

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

LOAD_EMA = 0.95  # per step, of each expert's share


@dataclass
class Knobs:
    """Live values that every layer reads at each forward; interventions change them here and nowhere else."""

    routing_temperature: float
    capacity_factor: float | None
    load_balancing_weight: float
    mod_capacity_factor: float
    step: int = 0


@dataclass
class MoEStats:
    """What one MoE layer did in one forward pass; tensors stay on the device."""

    probability_E: Tensor
    share_E: Tensor
    live_E: Tensor
    dropped: Tensor
    assignments: int
    balance_loss: Tensor


class MoE(nn.Module):
    """Top-k routed SwiGLU experts.

    probability = softmax(router(x) / temperature + offset), in float32; the k largest are renormalised to sum to one.
    offset is 0, or -inf until an added expert's first step, then log(steps since / ramp) until it is 0.
    In training an expert takes at most ceil(capacity_factor * k * N / live) tokens, first choices first; the others
    keep their residual. Evaluation drops nothing. The balance loss is live * sum_e share_e * mean probability_e over
    live experts (Fedus et al., 2021, eq. 4-6).
    """

    def __init__(self, config: MoeConfig, hidden: int, intermediate: int, slots: int, knobs: Knobs) -> None:
        super().__init__()
        self.top_k, self.ramp, self.knobs = config.moe_top_k, config.expert_ramp_steps, knobs
        self.router = nn.Parameter(torch.empty(slots, hidden))
        self.router_bias = nn.Parameter(torch.zeros(slots)) if config.router_init_bias is not None else None
        self.w_in = nn.Parameter(torch.empty(slots, 2 * intermediate, hidden))
        self.w_out = nn.Parameter(torch.empty(slots, hidden, intermediate))
        self.register_buffer("born_E", torch.full((slots,), -1, dtype=torch.int64))
        self.register_buffer("load_ema_E", torch.full((slots,), 1.0 / slots))

    def reset(self, std: float, init_bias: float | tuple[float, ...] | None) -> None:
        """Draws new weights; the bias goes to expert 0, or is one number per expert."""
        for weight in (self.router, self.w_in, self.w_out):
            nn.init.normal_(weight, std=std)
        if self.router_bias is not None and init_bias is not None:
            values = torch.tensor(init_bias if isinstance(init_bias, tuple) else (init_bias,))
            with torch.no_grad():
                self.router_bias[: len(values)] = values

    def logit_offset(self) -> Tensor:
        """Logit offset of each expert at the current step: 0 for old ones, -inf for one that is not live yet."""
        born = self.get_buffer("born_E")
        age = (self.knobs.step - born).clamp(max=self.ramp).float()
        return torch.where(born < 0, torch.zeros_like(age), torch.log(age.clamp(min=0) / self.ramp))

    def forward(self, x_ND: Tensor) -> tuple[Tensor, MoEStats]:
        with torch.autocast(x_ND.device.type, enabled=False):
            offset_E = self.logit_offset()
            logit_NE = F.linear(x_ND.float(), self.router, self.router_bias) / self.knobs.routing_temperature
            probability_NE = (logit_NE + offset_E).softmax(-1)
            weight_NK, expert_NK = probability_NE.topk(self.top_k, dim=-1)
            weight_NK = weight_NK / weight_NK.sum(-1, keepdim=True)
        kept_M, count_E, dropped = self._dispatch(expert_NK, torch.isfinite(offset_E).sum())
        y_ND = self._combine(x_ND, weight_NK, kept_M, count_E)
        return y_ND, self._statistics(probability_NE, expert_NK, offset_E, dropped)

    def _dispatch(self, expert_NK: Tensor, live: Tensor) -> tuple[Tensor, list[int], Tensor]:
        """Assignments sorted by expert (first choices first), which of them fit, and how many each expert takes."""
        flat_M = expert_NK.t().reshape(-1)
        _, order_M = flat_M.sort(stable=True)
        count_E = F.one_hot(flat_M, self.router.shape[0]).sum(0)
        factor = self.knobs.capacity_factor
        if not self.training or factor is None:
            return order_M, count_E.tolist(), torch.zeros((), device=flat_M.device)
        capacity = math.ceil(factor * len(flat_M) / int(live))
        start_E = count_E.cumsum(0) - count_E
        rank_M = torch.arange(len(flat_M), device=flat_M.device) - start_E.index_select(0, flat_M[order_M])
        fits_M = rank_M < capacity
        taken_E = count_E.clamp(max=capacity)
        return order_M[fits_M], taken_E.tolist(), (count_E - taken_E).sum().float()

    def _combine(self, x_ND: Tensor, weight_NK: Tensor, kept_M: Tensor, count_E: list[int]) -> Tensor:
        tokens = x_ND.shape[0]
        token_M = kept_M % tokens
        gate_M = weight_NK.t().reshape(-1).index_select(0, kept_M)
        routed = torch.split(x_ND.index_select(0, token_M), count_E)
        outputs = []
        for x_CD, gate_C, w_in, w_out in zip(
            routed, torch.split(gate_M, count_E), self.w_in.unbind(0), self.w_out.unbind(0), strict=True
        ):
            gate, up = F.linear(x_CD, w_in).chunk(2, dim=-1)
            outputs.append(F.linear(F.silu(gate) * up * gate_C.unsqueeze(-1).to(up.dtype), w_out))
        y_MD = torch.cat(outputs)
        return torch.zeros(x_ND.shape, dtype=y_MD.dtype, device=x_ND.device).index_add(0, token_M, y_MD)

    def _statistics(self, probability_NE: Tensor, expert_NK: Tensor, offset_E: Tensor, dropped: Tensor) -> MoEStats:
        live_E = torch.isfinite(offset_E)
        share_E = F.one_hot(expert_NK.reshape(-1), self.router.shape[0]).sum(0).float() / expert_NK.numel()
        probability_E = probability_NE.mean(0)
        balance = live_E.sum() * (share_E * probability_E).sum()
        return MoEStats(probability_E.detach(), share_E, live_E, dropped, expert_NK.numel(), balance)
