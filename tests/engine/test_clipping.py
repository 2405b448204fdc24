"""A clipped step is what PyTorch's own clipping and AdamW give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lumina.engine.optimizer import AdamW


def made(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((40, 30), (17,))]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters


@pytest.mark.parametrize("largest", [0.5, 1e6])
def test_a_clipped_step_is_clipping_and_then_a_step(largest: float) -> None:
    ours, theirs = made(), made()
    options = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
    mine, torchs = AdamW(ours, fused=True, **options), torch.optim.AdamW(theirs, fused=True, **options)
    for _ in range(3):
        norm = nn.utils.get_total_norm([parameter.grad for parameter in ours if parameter.grad is not None])
        mine.step_clipped(float(norm), largest)
        nn.utils.clip_grad_norm_(theirs, largest)
        torchs.step()
        for one, other, fresh in zip(ours, theirs, made(7), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
            one.grad, other.grad = fresh.grad.clone(), fresh.grad.clone()  # type: ignore[union-attr]


def test_a_step_that_is_not_clipped_is_not_scaled_by_the_one_before() -> None:
    ours, theirs = made(), made()
    mine, torchs = (AdamW(parameters, lr=1e-2, fused=True) for parameters in (ours, theirs))
    mine.step_clipped(10.0, 1e9)
    torchs.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    mine.step_clipped(10.0, 1.0)
    assert mine.grad_scale is not None
    mine.step_clipped(10.0, 1e9)
    assert mine.grad_scale is None
