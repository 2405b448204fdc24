"""Products of float32 matrices on a CPU, by whichever of PyTorch's two libraries uses all of the processor.

PyTorch leaves them to MKL, which computes 256 bits at once on AMD's processors; Zen 5 can do 512. oneDNN does, and is
about twice as fast there, but PyTorch asks it for 16-bit numbers only. It knows no layer.
"""

# N rows   I inputs   O outputs
from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lumina.hardware import mkl_is_narrow


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of two matrices, or of many, without gradients."""
    return _onednn(a, b.t()) if a.ndim == 2 and takes_onednn(a, b) else a @ b


def product_into(result: Tensor, a: Tensor, b: Tensor) -> None:
    """result = a @ b, rounded to the result's format, without gradients."""
    if result.dtype != a.dtype or takes_onednn(a, b):
        result.copy_(product(a, b))
    else:
        torch.mm(a, b, out=result)


def linear(x: Tensor, weight_OI: Tensor) -> Tensor:
    """x [..., I] times the transposed weight: `torch.nn.functional.linear` with gradients of its own."""
    if torch.is_autocast_enabled(x.device.type) or not takes_onednn(x, weight_OI):
        return F.linear(x, weight_OI)
    y: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight_OI)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], len(weight_OI))


class Linear(nn.Linear):
    """A projection without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return _onednn(x_NI, weight_OI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, Tensor]:
        x_NI, weight_OI = ctx.saved_tensors
        return product(grad_NO, weight_OI), product(grad_NO.t(), x_NI)


def takes_onednn(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN multiplies these two."""
    return (
        not torch.compiler.is_compiling()  # its compiler knows this product only of weights that never change
        and a.dtype == b.dtype == torch.float32
        and a.device.type == "cpu"
        and _onednn_is_faster()
        and bool(torch.backends.mkldnn.enabled)
        and a.numel() > 0 < b.numel()
        # What counts operations or replaces tensors knows PyTorch's own products.
        and torch._C._len_torch_dispatch_stack() == 0
    )


@cache
def _onednn_is_faster() -> bool:
    both = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return both and mkl_is_narrow()


def _onednn(a_NI: Tensor, b_OI: Tensor) -> Tensor:
    """a times b transposed; a is copied where its rows do not follow each other."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(a_NI, _without_gaps(b_OI), None, "none", [], "")
    return y


def _without_gaps(b: Tensor) -> Tensor:
    """b or a copy: oneDNN reads a transposed matrix as it lies, but a part of a larger one number by number. That takes
    a thousand times as long as the product."""
    return b if b.is_contiguous() or b.t().is_contiguous() else b.contiguous()
