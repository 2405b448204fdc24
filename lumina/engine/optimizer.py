"""The AdamW that an engine updates its weights with. It knows tensors only."""

from __future__ import annotations

import inspect

import torch
from torch.optim import Adam, Optimizer


class AdamW(torch.optim.AdamW):
    """PyTorch's own, which never meets the compiler.

    PyTorch marks these methods for its compiler, and imports that compiler for the mark: over a second at each start.
    Nobody compiles an optimizer here, so that the same methods do without the mark.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    step = torch.no_grad()(inspect.unwrap(Adam.step))

    def step_clipped(self, norm: float, largest: float) -> None:
        """A step with gradients whose total `norm` is brought down to `largest` where it is above it.

        The fused update divides each gradient as it reads it; clipping them first would go through all of them once
        more.
        """
        device = self.param_groups[0]["params"][0].device
        # Of the mixed-precision protocol of torch's fused optimizers: what the gradients have been multiplied by.
        self.grad_scale = torch.full((), norm / largest, device=device) if norm > largest else None
        self.step()
