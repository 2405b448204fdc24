"""Products give the same figures by either of PyTorch's two libraries, and go by oneDNN only where they can."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lumina.model import matmul
from lumina.model.matmul import Linear, linear, product, product_into, takes_onednn

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture(params=[pytest.param(True, marks=needs_onednn, id="onednn"), pytest.param(False, id="mkl")])
def by_onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this machine is one where oneDNN is the faster of the two."""
    monkeypatch.setattr(matmul, "_onednn_is_faster", lambda: request.param)
    return bool(request.param)


def laid_out(rows: int, columns: int, how: str) -> Tensor:
    whole = torch.randn(3 * rows, 3 * columns, generator=torch.Generator().manual_seed(rows + columns))
    part = whole[:rows, :columns]
    return {
        "plain": part.contiguous(),
        "transposed": part.t().contiguous().t(),
        "slice": part,
        "steps": whole[::3, ::3],
        "repeated": part[:1].expand(rows, columns),
    }[how]


@pytest.mark.parametrize("b_is", ["plain", "transposed", "slice", "steps", "repeated"])
@pytest.mark.parametrize("a_is", ["plain", "transposed", "slice", "steps", "repeated"])
def test_a_product_is_the_product_however_its_factors_lie_in_memory(by_onednn: bool, a_is: str, b_is: str) -> None:
    a, b = laid_out(33, 48, a_is), laid_out(48, 20, b_is)
    assert takes_onednn(a, b) == by_onednn
    wanted = (a.double() @ b.double()).float()
    torch.testing.assert_close(product(a, b), wanted, atol=2e-5, rtol=1e-5)
    result = torch.full((33, 20), torch.nan)
    product_into(result, a, b)
    torch.testing.assert_close(result, wanted, atol=2e-5, rtol=1e-5)


def test_only_a_factor_with_gaps_is_copied_for_onednn() -> None:
    dense, whole = torch.randn(30, 20), torch.randn(90, 60)
    assert matmul._without_gaps(dense) is dense
    turned = dense.t()
    assert matmul._without_gaps(turned) is turned
    for part in (whole[:30, :20], whole[:30, :20].t(), whole[::3, ::3], dense[:1].expand(30, 20)):
        copy = matmul._without_gaps(part)
        assert copy.is_contiguous()
        assert torch.equal(copy, part)


@pytest.mark.parametrize("shape", [(2, 7, 16), (5, 16), (0, 16), (3, 0, 16)])
def test_a_projection_and_its_gradients_are_torchs(by_onednn: bool, shape: tuple[int, ...]) -> None:
    layer, x = Linear(16, 24), torch.randn(shape, requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    given, weight = x.detach().clone().requires_grad_(), layer.weight.detach().clone().requires_grad_()
    wanted = F.linear(given, weight)
    wanted.square().sum().backward()
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(x.grad, given.grad)
    torch.testing.assert_close(layer.weight.grad, weight.grad)


@pytest.mark.usefixtures("by_onednn")
def test_a_row_that_is_not_finite_stays_so_and_spoils_no_other() -> None:
    a = torch.randn(6, 16)
    a[2, 3], a[4, 0] = torch.nan, torch.inf
    finite = linear(a, torch.randn(8, 16)).isfinite().all(1)
    assert finite.tolist() == [True, True, False, True, False, True]


@needs_onednn
@pytest.mark.parametrize("by_onednn", [True], indirect=True)
def test_what_onednn_is_not_asked_for(by_onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(8, 16), torch.randn(16, 4)
    assert takes_onednn(a, b)
    assert not takes_onednn(a.double(), b.double())
    assert not takes_onednn(a.bfloat16(), b.bfloat16())  # PyTorch itself gives it those
    assert not takes_onednn(a[:0], b)
    assert not takes_onednn(a.to("meta"), b.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(a, b.t()).dtype == torch.bfloat16
    with FlopCounterMode(display=False) as counter:
        linear(a, b.t())
    assert counter.get_total_flops() == 2 * 8 * 16 * 4, "who counts operations sees the product"
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not takes_onednn(a, b), "PyTorch's own switch holds"
