"""Flash attention on GPUs: the kernels of the package flash_attn where it is installed, else PyTorch's own.
It knows which kernels there are and how they are called; whether a GPU can run them is the hardware's to say."""

# B sequences   T tokens   N tokens of all sequences   H heads   G key/value heads   S documents   d head width
from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

HALVES = (torch.bfloat16, torch.float16)  # what the kernels take

Whole = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q [B, T, H, d], k [B, T, G, d], v [B, T, G, d]) -> [B, T, H, d], each row one causal sequence"""
Packed = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""(q [N, H, d], k [N, G, d], v [N, G, d], starts [S + 1] in int32, longest) -> [N, H, d], each document causal"""


@dataclass(frozen=True)
class Flash:
    """Kernels by one name; without `whole`, scaled_dot_product_attention finds PyTorch's by itself."""

    name: str
    packed: Packed
    whole: Whole | None = None


def flash_kernels() -> Flash:
    """The kernels of this machine; to be asked for only where the GPU can run them."""
    try:
        from flash_attn import flash_attn_func, flash_attn_varlen_func
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):
            log.warning("flash_attn is installed and does not load (%s); PyTorch's own kernels are used", error)
        return _of_torch()

    def packed(q: Tensor, k: Tensor, v: Tensor, start_S1: Tensor, longest: int) -> Tensor:
        y: Tensor = flash_attn_varlen_func(q, k, v, start_S1, start_S1, longest, longest, causal=True)
        return y

    def whole(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y: Tensor = flash_attn_func(q, k, v, causal=True)
        return y

    return Flash("flash_attn", packed, whole)


def _of_torch() -> Flash:
    from torch.nn.attention import varlen

    varlen_attn: Callable[..., Tensor] = varlen.varlen_attn  # type: ignore[assignment]  # a tuple only if asked for one
    known = inspect.signature(varlen_attn).parameters
    # PyTorch 2.10 says is_causal; up to 2.11 the kernels share key/value heads without being told.
    named: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}

    def packed(q: Tensor, k: Tensor, v: Tensor, start_S1: Tensor, longest: int) -> Tensor:
        shared = {"enable_gqa": True} if "enable_gqa" in known and q.shape[1] != k.shape[1] else {}
        return varlen_attn(q, k, v, start_S1, start_S1, longest, longest, **named, **shared)

    return Flash("PyTorch", packed)
