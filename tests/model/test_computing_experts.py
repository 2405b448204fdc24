"""The ways of computing experts give the figures of the plain formula, and the one for GPUs never asks for a number."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import model, moe_of
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.nn import functional as F

from lumina.model import experts
from lumina.model.crew import run_all

HIDDEN, WIDTH = 16, 24

IN_GROUPS = (experts.grouped, experts.grouped_and_cleared)


def plain(x_ND: Tensor, weight_M: Tensor, token_M: Tensor, count_E: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    """One assignment after the other."""
    y_ND = torch.zeros_like(x_ND)
    expert_M = torch.repeat_interleave(torch.arange(len(count_E)), count_E)
    for weight, token, expert in zip(weight_M, token_M.tolist(), expert_M.tolist(), strict=True):
        gate, up = (w_in[expert] @ x_ND[token]).chunk(2)
        y_ND = y_ND.index_add(0, torch.tensor([token]), (weight * (w_out[expert] @ (F.silu(gate) * up)))[None])
    return y_ND


def inputs(counts: list[int], tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(sum(counts) + tokens)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(dtype).requires_grad_()

    taken = torch.randint(0, tokens, (sum(counts),), generator=draw)
    weight = torch.rand(sum(counts), generator=draw).requires_grad_()
    slots = len(counts)
    return (
        random(tokens, HIDDEN), weight, taken, torch.tensor(counts), random(slots, 2 * WIDTH, HIDDEN),
        random(slots, HIDDEN, WIDTH),
    )  # fmt: skip


def results(compute: experts.Compute, given: tuple[Tensor, ...]) -> list[Tensor]:
    """The output, and the gradients of tokens, weights and projections."""
    fresh = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in given]
    y_ND = compute(*fresh)
    (y_ND * torch.linspace(-1, 1, y_ND.numel()).view_as(y_ND)).sum().backward()
    return [y_ND.detach()] + [tensor.grad for tensor in fresh if tensor.grad is not None]


def routed(tokens: int, top_k: int, slots: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """Inputs in which every token has as many assignments, and where each token's stand."""
    draw = torch.Generator().manual_seed(tokens)
    expert_M = torch.rand(tokens, slots, generator=draw).topk(top_k).indices.t().reshape(-1)
    order_M = expert_M.argsort(stable=True)
    x_ND, weight_M, _, count_E, w_in, w_out = inputs(expert_M.bincount(minlength=slots).tolist(), tokens)
    return (x_ND, weight_M, order_M % tokens, count_E, w_in, w_out), order_M.argsort().view(top_k, tokens)


def assert_equal_but_for_rounding(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == 5
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * (1.0 + float(other.abs().max())))


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any), tokens=st.integers(1, 8))
def test_output_and_gradients_are_those_of_the_formula(counts: list[int], tokens: int) -> None:
    given_ = inputs(counts, tokens)
    assert_equal_but_for_rounding(results(experts.one_by_one, given_), results(plain, given_))


@pytest.mark.parametrize("compute", IN_GROUPS)
@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 9), top_k=st.integers(1, 3), more=st.integers(0, 6))
def test_so_they_are_in_groups(compute: experts.InGroups, tokens: int, top_k: int, more: int) -> None:
    given_, row_KN = routed(tokens, top_k, top_k + more)
    assert_equal_but_for_rounding(results(partial(compute, row_KN=row_KN), given_), results(plain, given_))


@pytest.mark.parametrize("compute", [experts.one_by_one, *IN_GROUPS])
def test_products_follow_autocast_and_gradients_stay_in_float32(compute: Any) -> None:
    given_, row_KN = routed(6, 2, 5)
    chosen = compute if compute is experts.one_by_one else partial(compute, row_KN=row_KN)
    with torch.autocast("cpu", torch.bfloat16):
        found = results(chosen, given_)
    assert {tensor.dtype for tensor in found} == {torch.float32}
    for one, other in zip(found, results(plain, given_), strict=True):
        assert not torch.equal(one, other)  # computed in bfloat16 indeed
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05 * float(other.abs().max()))


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_side_by_side_give_the_bits_of_one_after_the_other(dtype: torch.dtype) -> None:
    given_ = inputs([37, 0, 21, 64, 1], 50)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        found = [results(experts.one_by_one, given_) for _ in range(5)]
        torch.set_num_threads(1)
        wanted = results(experts.one_by_one, given_)
    for again in found:
        assert all(torch.equal(one, other) for one, other in zip(again, wanted, strict=True))


@pytest.mark.usefixtures("_two_threads")
def test_an_expert_that_fails_ends_the_step_after_the_others() -> None:
    done: list[int] = []

    def compute(number: int) -> None:
        if number == 1:
            raise RuntimeError("no memory")
        assert not torch.is_grad_enabled()
        assert torch.get_num_threads() == 1
        time.sleep(0.05)
        done.append(number)

    with pytest.raises(RuntimeError, match="no memory"):
        run_all(compute, [(number,) for number in range(6)], 6, torch.device("cpu"))
    assert sorted(done) == [0, 2, 3, 4, 5]
    assert torch.get_num_threads() == 2


def test_products_by_onednn_have_few_sizes_and_the_same_figures() -> None:
    size_of = {count: sizes_of(count)[0] for count in range(1, 4096)}
    assert len(set(size_of.values())) == 8 + 5 * 4
    assert all(0 <= size - count < max(16, count / 4) for count, size in size_of.items())
    assert {count: sizes_of(count) for count in (0, 1, 129, 200, 333, 1025, 4095)} == {
        0: [0], 1: [16], 129: [160], 200: [224], 333: [384], 1025: [1280], 4095: [4096]
    }  # fmt: skip


def two(count: int) -> tuple[Tensor, Tensor]:
    return torch.ones(count), torch.zeros(count, dtype=torch.int64)


def sizes_of(count: int) -> list[int]:
    return experts._in_few_sizes([count], *two(count))[0]


@pytest.mark.parametrize(("by_onednn", "rows", "weights"), [(False, 100, 100), (True, 32 + 64 + 32, 128 + 100)])
def test_the_backward_pass_keeps_the_tokens_once_and_two_widths_per_assignment(
    monkeypatch: pytest.MonkeyPatch, by_onednn: bool, rows: int, weights: int
) -> None:
    monkeypatch.setattr("lumina.model.matmul._onednn_is_faster", lambda: by_onednn)
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() if tensor.is_floating_point() else 0
        return tensor

    x_ND, weight_M, token_M, count_E, w_in, w_out = inputs([30, 50, 20], 40)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        experts.one_by_one(x_ND, weight_M, token_M, count_E, w_in, w_out)
    shared_with_the_model = w_in.numel() + w_out.numel()
    assert kept == 40 * HIDDEN + weights + rows * 2 * WIDTH + shared_with_the_model


def test_a_layer_that_computes_in_groups_drops_and_weights_as_one_that_does_not() -> None:
    outputs = []
    for in_groups in (None, experts.grouped):
        built = model(use_mod=False, capacity_factor=0.6)
        layer = moe_of(built)
        layer.in_groups = in_groups
        x_ND = torch.randn(60, 32, generator=torch.Generator().manual_seed(3), requires_grad=True)
        y_ND, stats = layer(x_ND)
        y_ND.square().sum().backward()
        assert int(stats.dropped) > 0
        outputs.append([y_ND.detach(), x_ND.grad, layer.router.grad, layer.w_in.grad, stats.computed_E,
                        stats.weight_per_expert()])  # fmt: skip
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_grouped_model_reads_nothing_on_the_host() -> None:
    """A fake tensor has no values: whatever asks for one raises."""
    with FakeTensorMode():
        built = model(capacity_factor=0.6, bias_balancing=True, num_shared_experts=1)
        token = torch.zeros(2, 32, dtype=torch.int64)

        def loss() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                output = built(token, token)
            return output.loss_sum + output.auxiliary

        for layer in built.layers:
            layer.moe.in_groups = experts.grouped
        loss().backward()
        assert all(parameter.grad is not None for parameter in (built.embedding, moe_of(built).w_in))
        moe_of(built).in_groups = None
        with pytest.raises(DynamicOutputShapeException):
            loss()


def test_what_a_kernel_leaves_unwritten_reaches_no_unused_expert() -> None:
    w = torch.ones(3, 2, 2, requires_grad=True)
    held = experts._Cleared.apply(w, (torch.tensor([4, 0, 1]) > 0).view(-1, 1, 1))
    held.backward(torch.tensor([1.0, math.nan, 2.0]).view(-1, 1, 1).expand(3, 2, 2))
    assert w.grad is not None
    assert w.grad[:, 0, 0].tolist() == [1.0, 0.0, 2.0]


def test_rows_added_to_tokens_are_the_rows_gathered_by_token() -> None:
    draw = torch.Generator().manual_seed(2)
    rows_MD, token_M = torch.randn(30, 5, generator=draw), torch.randint(0, 12, (30,), generator=draw)
    like_ND, weight_M = torch.zeros(12, 5), torch.rand(30, generator=draw)
    for weight in (None, weight_M):
        gathered = experts._sum_by_token(rows_MD, token_M, None, like_ND, weight)
        torch.testing.assert_close(experts._added_by_token(rows_MD, token_M, like_ND, weight), gathered)
