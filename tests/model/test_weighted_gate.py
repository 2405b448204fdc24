"""The experts' activation with a backward pass of its own is the plain formula, and keeps less."""

from __future__ import annotations

import torch
from small_models import model, moe_of
from torch.nn import functional as F

from lumina.model.layers import weighted_gate


def test_its_gradients_are_those_of_the_formula() -> None:
    draw = torch.Generator().manual_seed(0)
    both = torch.randn(7, 10, generator=draw, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(7, generator=draw, dtype=torch.float64, requires_grad=True)
    gate, up = both.chunk(2, dim=-1)
    torch.testing.assert_close(weighted_gate(both, weight), F.silu(gate) * up * weight.unsqueeze(-1))
    assert torch.autograd.gradcheck(weighted_gate, (both, weight))


def test_an_expert_without_tokens_is_no_special_case() -> None:
    both, weight = torch.zeros(0, 10, requires_grad=True), torch.zeros(0, requires_grad=True)
    weighted_gate(both, weight).sum().backward()
    assert both.grad is not None
    assert both.grad.shape == (0, 10)


def test_an_expert_keeps_three_widths_per_assignment() -> None:
    built, kept = model(use_mod=False, capacity_factor=None), 0
    built.eval()  # all assignments are computed

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() if tensor.ndim == 2 and tensor.shape[1] in (24, 48) else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        moe_of(built)(torch.randn(50, 32, requires_grad=True))
    down_projections = 8 * 24 * 32  # saved as they are, shared with the model
    assert kept == 3 * 24 * 2 * 50 + down_projections
