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
