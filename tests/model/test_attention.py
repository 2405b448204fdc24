"""Attention by matrix products is PyTorch's own attention: results and gradients, over blocks, groups and documents."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.accounting import query_blocks
from lumina.model.attention import by_products


def projected(length: int, heads: int, groups: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [2, heads, length, 8] laid out as a projection gives them."""
    generator = torch.Generator().manual_seed(seed)

    def one(count: int) -> Tensor:
        return torch.randn(2, length, count, 8, generator=generator).transpose(1, 2).requires_grad_()

    return one(heads), one(groups), one(groups)


def two_documents(length: int) -> Tensor:
    return (torch.arange(length) > torch.tensor([[length // 3], [length // 2]])).long()


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("length", [20, 300])
@pytest.mark.parametrize("documents", [False, True])
def test_products_give_what_fused_attention_gives(heads: int, groups: int, length: int, documents: bool) -> None:
    assert len(query_blocks(300)) == 3
    document_BT = two_documents(length) if documents else None
    ours, theirs = projected(length, heads, groups), projected(length, heads, groups)
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    if document_BT is not None:
        seen = (seen & (document_BT.unsqueeze(2) == document_BT.unsqueeze(1))).unsqueeze(1)
    y = by_products(*ours, document_BT)
    expected = F.scaled_dot_product_attention(*theirs, attn_mask=seen, enable_gqa=heads != groups)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y.backward(slope)
    expected.backward(slope)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("documents", [False, True])
def test_nothing_of_the_size_of_all_pairs_is_kept_for_the_backward_pass(documents: bool) -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    q, k, v = projected(300, 4, 2)
    document_BT = two_documents(300) if documents else None
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        by_products(q, k, v, document_BT)
    assert sum(kept) == q.numel() + k.numel() + v.numel() + (2 * 300 if documents else 0)


def test_half_precision_loses_what_its_format_loses() -> None:
    wide = projected(300, 4, 2)
    narrow = [tensor.detach().bfloat16().requires_grad_() for tensor in wide]
    exact, rounded = by_products(*wide), by_products(*narrow)
    assert rounded.dtype == torch.bfloat16
    slope = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    exact.backward(slope)
    rounded.backward(slope.bfloat16())
    torch.testing.assert_close(rounded.float(), exact, atol=2e-2, rtol=2e-2)
    for full, half in zip(wide, narrow, strict=True):
        assert full.grad is not None
        assert half.grad is not None
        far = (half.grad.float() - full.grad).norm() / full.grad.norm()
        assert far < 1e-2
