"""Output projection and cross-entropy in one pass over chunks of tokens, so that the full logits never exist."""

# N tokens   D hidden   V vocabulary
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lumina.model.matmul import product

CHUNK = 512  # tokens; eight times as many on a GPU, which small products leave idle
IGNORED = -100


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, label_N: Tensor, needed: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kind = x_ND.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_ND.dtype
        weight, chunk = weight_VD.to(dtype), CHUNK if kind == "cpu" else 8 * CHUNK
        grad_x = torch.empty_like(x_ND) if needed else None
        grad_w = torch.zeros_like(weight_VD) if needed else None
        loss = torch.zeros((), device=x_ND.device)
        correct = torch.zeros((), device=x_ND.device)
        each_N = torch.empty(len(x_ND), device=x_ND.device)
        for start in range(0, len(x_ND), chunk):
            x, label = x_ND[start : start + chunk].to(dtype), label_N[start : start + chunk]
            logit = product(x, weight.t()).float()
            valid = (label != IGNORED).unsqueeze(1)
            target = label.clamp(min=0).unsqueeze(1)
            # Few passes over the logits, all in place: they are the largest thing of a step with a large vocabulary.
            peak, aimed = logit.amax(1, keepdim=True), logit.gather(1, target)
            power = logit.sub_(peak).exp_()
            total = power.sum(1, keepdim=True)
            nats = (total.log() + peak - aimed) * valid
            loss, each_N[start : start + chunk] = loss + nats.sum(), nats.squeeze(1)
            correct = correct + ((aimed == peak) & valid).sum()
            if grad_x is not None and grad_w is not None:
                slope = power.mul_(valid / total)
                slope = slope.scatter_add_(1, target, -valid.to(slope.dtype)).to(dtype)
                grad_x[start : start + chunk] = product(slope, weight)
                grad_w += product(slope.t(), x)
        ctx.save_for_backward(grad_x, grad_w)
        tokens = (label_N != IGNORED).sum().float()
        ctx.mark_non_differentiable(correct, tokens, each_N)
        return loss, correct, tokens, each_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_x, grad_w = ctx.saved_tensors
        # In place: they were made for this one pass.
        return grad_x.mul_(grads[0]), grad_w.mul_(grads[0]), None, None


def cross_entropy(x_ND: Tensor, weight_VD: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Summed loss (nats) over labels that are not -100, how many were predicted right, how many there are, and the
    loss of each (0 where there is none; without gradient)."""
    # Asked here: inside the function gradients are always off, and its own record does not know of no_grad.
    needed = torch.is_grad_enabled() and (x_ND.requires_grad or weight_VD.requires_grad)
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _ChunkedCrossEntropy.apply(x_ND, weight_VD, label_N, needed)  # type: ignore[no-untyped-call]
    return result
