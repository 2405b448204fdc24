"""The loss in chunks is torch's cross-entropy, with its gradients, and counts what was predicted right."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lumina.model.loss import CHUNK, IGNORED, cross_entropy


@pytest.mark.parametrize("tokens", [1, 7, CHUNK, CHUNK + 5])
@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0])
def test_chunks_are_the_whole(tokens: int, ignored: float) -> None:
    draw = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, 12, generator=draw, requires_grad=True)
    weight = torch.randn(31, 12, generator=draw, requires_grad=True)
    label = torch.randint(0, 31, (tokens,), generator=draw)
    label = label.masked_fill(torch.rand(tokens, generator=draw) < ignored, IGNORED)
    loss, correct, count, each = cross_entropy(x, weight, label)
    logit = x @ weight.t()
    expected = F.cross_entropy(logit, label, ignore_index=IGNORED, reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(each, F.cross_entropy(logit, label, ignore_index=IGNORED, reduction="none"))
    assert count.item() == int((label != IGNORED).sum())
    assert correct.item() == int((logit.argmax(1) == label).sum())
    ours, theirs = (torch.autograd.grad(2.0 * value, (x, weight)) for value in (loss, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_large_logits_do_not_overflow() -> None:
    x = torch.full((3, 4), 100.0, requires_grad=True)
    weight = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) * 50
    loss, _, _, _ = cross_entropy(x, weight, torch.tensor([0, 1, 2]))
    assert bool(loss.isfinite())
    assert loss.item() == pytest.approx(
        F.cross_entropy(x @ weight.t(), torch.tensor([0, 1, 2]), reduction="sum").item()
    )
