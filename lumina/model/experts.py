"""What the chosen experts compute: for each token the sum over its experts of routing weight times SwiGLU.

Three ways to the same figures; which fits a device and a number format is the engine's choice, and routing is not
known here.
"""

# N tokens   D hidden   F expert intermediate   E experts   M assignments, sorted by expert   C those of one expert
# K experts per token
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lumina.model.crew import run_all
from lumina.model.matmul import product, product_into, takes_onednn

FEWEST_ROWS = 16
BLOCK_ROWS = 512
Compute = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(x [N, D], weight [M], token [M], assignments of each expert [E], w_in [E, 2F, D], w_out [E, D, F]) -> [N, D]"""
InGroups = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""The same, and of each of a token's K assignments which of the M it is [K, N]"""


def one_by_one(x_ND: Tensor, weight_M: Tensor, token_M: Tensor, count_E: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    """Expert after expert, with a backward pass of its own that keeps only what gate and up projections gave.

    Reads the counts on the host: for CPUs, and for GPUs without grouped products.
    """
    kind = x_ND.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_ND.dtype
    counts, at_M = count_E.tolist(), None
    if kind == "cpu" and (dtype == torch.bfloat16 or takes_onednn(x_ND, w_in)):
        counts, at_M, weight_M, token_M = _in_few_sizes(counts, weight_M, token_M)
    with torch.autocast(kind, enabled=False):
        result: Tensor = _OneByOne.apply(x_ND, weight_M, token_M, at_M, counts, w_in, w_out, dtype)  # type: ignore[no-untyped-call]
    return result


def _step(count: int) -> int:
    """What a size near `count` is a multiple of."""
    return max(FEWEST_ROWS, 1 << max(count.bit_length() - 3, 0))


def _in_few_sizes(counts: list[int], weight_M: Tensor, token_M: Tensor) -> tuple[list[int], Tensor, Tensor, Tensor]:
    """Adds assignments of weight 0 to each expert, up to one of four sizes in each power of two; returns the counts,
    where the assignments are now, and weights and tokens of all.

    oneDNN makes a program for each size that it meets, which takes longer than such a product, and keeps it: half a
    megabyte that lies among activations and keeps a heap from being reused. And an expert has another number of tokens
    in every step.
    """
    sizes = [-(-count // _step(count)) * _step(count) for count in counts]
    added_E = torch.tensor([size - count for size, count in zip(sizes, counts, strict=True)])
    before_E = added_E.cumsum(0) - added_E
    at_M = torch.arange(len(token_M)) + before_E.repeat_interleave(torch.tensor(counts))
    rows = sum(sizes)
    weight = weight_M.new_zeros(rows).index_copy(0, at_M, weight_M)
    return sizes, at_M, weight, token_M.new_zeros(rows).index_copy(0, at_M, token_M)


class _OneByOne(torch.autograd.Function):
    """Products in `dtype`; sums over a token's experts, and the gradients of the weights, in the inputs' own."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_M: Tensor, token_M: Tensor, at_M: Tensor | None, counts: list[int],
                w_in: Tensor, w_out: Tensor, dtype: torch.dtype) -> Tensor:  # fmt: skip
        cast_ND = x_ND.to(dtype)
        both_M2F, y_MD = _block(cast_ND, len(token_M), w_in.shape[1]), _block(cast_ND, len(token_M), w_out.shape[1])

        def compute(expert: int, both_C2F: Tensor, token_C: Tensor, y_CD: Tensor) -> None:
            product_into(both_C2F, cast_ND.index_select(0, token_C), w_in[expert].to(dtype).t())
            product_into(y_CD, _activated(both_C2F), w_out[expert].to(dtype).t())

        run_all(compute, _parts(counts, both_M2F, token_M, y_MD), len(counts), x_ND.device)
        ctx.counts, ctx.dtype, ctx.at_M = counts, dtype, at_M
        ctx.save_for_backward(cast_ND, weight_M, token_M, w_in, w_out, both_M2F)
        return _sum_by_token(y_MD, token_M, at_M, x_ND, weight_M)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_M, token_M, w_in, w_out, both_M2F = ctx.saved_tensors
        dtype, cast_ND = ctx.dtype, grad_ND.to(ctx.dtype)
        grad_weight, grad_x_MD = torch.zeros_like(weight_M), _block(cast_ND, len(token_M), x_ND.shape[1])
        grad_in, grad_out = torch.empty_like(w_in), torch.empty_like(w_out)
        for expert, count in enumerate(ctx.counts):
            if not count:
                grad_in[expert], grad_out[expert] = 0.0, 0.0

        def compute(expert: int, both_C2F: Tensor, weight_C: Tensor, token_C: Tensor, given_C: Tensor,
                    grad_x_CD: Tensor) -> None:  # fmt: skip
            grad_CD, weight_C1 = cast_ND.index_select(0, token_C), weight_C.unsqueeze(-1).to(dtype)
            gate_CF, up_CF = both_C2F.chunk(2, dim=-1)
            silu_CF = F.silu(gate_CF)
            active_CF = silu_CF * up_CF
            to_active = product(grad_CD, w_out[expert].to(dtype))
            given_C.copy_((to_active * active_CF).sum(-1, dtype=torch.float32))
            product_into(grad_out[expert], grad_CD.t(), active_CF.mul_(weight_C1))
            to_active.mul_(weight_C1)
            to_both = torch.empty_like(both_C2F)
            torch.mul(to_active, silu_CF, out=to_both[:, up_CF.shape[1] :])
            to_both[:, : up_CF.shape[1]] = torch.ops.aten.silu_backward(to_active.mul_(up_CF), gate_CF)
            product_into(grad_in[expert], to_both.t(), x_ND.index_select(0, token_C))
            product_into(grad_x_CD, to_both, w_in[expert].to(dtype))

        parts = _parts(ctx.counts, both_M2F, weight_M, token_M, grad_weight, grad_x_MD)
        run_all(compute, parts, len(ctx.counts), x_ND.device)
        grad_x = _sum_by_token(grad_x_MD, token_M, ctx.at_M, grad_ND)
        return grad_x, grad_weight, None, None, None, grad_in, grad_out, None


def _block(like: Tensor, rows: int, width: int) -> Tensor:
    """Uninitialised rows out of a block of nearly always the same size: blocks of many sizes leave gaps in the heap."""
    return like.new_empty(-(-rows // BLOCK_ROWS) * BLOCK_ROWS, width)[:rows]


def _sum_by_token(rows_MD: Tensor, token_M: Tensor, at_M: Tensor | None, like_ND: Tensor,
                  weight_M: Tensor | None = None) -> Tensor:  # fmt: skip
    """Sum over each token's assignments (those `at_M`, or all) of their rows times weights, in the experts' order.

    Gathers, since adding rows to tokens is done by one thread alone on a CPU; a GPU would have to tell counts for that.
    """
    if like_ND.device.type != "cpu":
        return _added_by_token(rows_MD, token_M, like_ND, weight_M)
    sum_ND = torch.zeros_like(like_ND)
    token_A = token_M if at_M is None else token_M.index_select(0, at_M)
    if not len(token_A):
        return sum_ND
    order_A, count_N = token_A.argsort(stable=True), torch.bincount(token_A, minlength=len(like_ND))
    order_A = order_A if at_M is None else at_M.index_select(0, order_A)
    first_N = count_N.cumsum(0) - count_N
    for choice in range(int(count_N.max())):
        has_N = count_N > choice
        row_N = order_A.index_select(0, (first_N + choice).clamp_(max=len(order_A) - 1))
        part_ND = rows_MD.index_select(0, row_N).to(sum_ND.dtype)
        scale_N = has_N.to(sum_ND.dtype) if weight_M is None else weight_M.index_select(0, row_N) * has_N
        sum_ND.add_(part_ND.mul_(scale_N.unsqueeze(-1).to(sum_ND.dtype)))
    return sum_ND


def _added_by_token(rows_MD: Tensor, token_M: Tensor, like_ND: Tensor, weight_M: Tensor | None) -> Tensor:
    """As `_sum_by_token`, in any order."""
    rows_MD = rows_MD.to(like_ND.dtype)
    rows_MD = rows_MD if weight_M is None else rows_MD * weight_M.unsqueeze(-1).to(like_ND.dtype)
    return torch.zeros_like(like_ND).index_add_(0, token_M, rows_MD)


def _parts(counts: list[int], *rows_M: Tensor) -> Iterator[tuple[Any, ...]]:
    """(expert, its rows of each tensor) of the experts that have assignments."""
    split = zip(*(torch.split(rows, counts) for rows in rows_M), strict=True)
    return ((expert, *rows) for expert, rows in enumerate(split) if counts[expert])


def _activated(both_C2F: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer, 2020)."""
    gate_CF, up_CF = both_C2F.chunk(2, dim=-1)
    return F.silu(gate_CF).mul_(up_CF)


def by_product(product: Callable[[Tensor, Tensor], Tensor], x_ND: Tensor, weight_M: Tensor, token_M: Tensor,
               count_E: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:  # fmt: skip
    """Expert after expert, each projection by `product` (x, weight): for number formats that have one of their own."""
    y_ND = torch.zeros_like(x_ND)
    stacked = w_in.unbind(0), w_out.unbind(0)  # indexing would make a full-size gradient for each expert
    for expert, weight_C, token_C in _parts(count_E.tolist(), weight_M, token_M):
        active_CF = _activated(product(x_ND.index_select(0, token_C), stacked[0][expert]))
        y_CD = product(active_CF, stacked[1][expert]).to(y_ND.dtype)
        y_ND = y_ND.index_add(0, token_C, y_CD * weight_C.unsqueeze(-1).to(y_ND.dtype))
    return y_ND


def grouped(x_ND: Tensor, weight_M: Tensor, token_M: Tensor, count_E: Tensor, w_in: Tensor, w_out: Tensor,
            row_KN: Tensor) -> Tensor:  # fmt: skip
    """All experts in one grouped product each way, without reading a count on the host: for GPUs.

    Every token has K assignments, and `row_KN` is where they stand. One that was dropped is computed like the others
    and has a weight of zero.
    """
    end_E = count_E.cumsum(0).to(torch.int32)
    kind = x_ND.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_ND.dtype
    with torch.autocast(kind, enabled=False):
        x_MD = _Spread.apply(x_ND, token_M, row_KN, dtype)  # type: ignore[no-untyped-call]
        both_M2F = F.grouped_mm(x_MD, w_in.to(dtype).transpose(1, 2), offs=end_E)
        active_MF = _WeightedSwiGLU.apply(both_M2F, weight_M)  # type: ignore[no-untyped-call]
        y_MD = F.grouped_mm(active_MF, w_out.to(dtype).transpose(1, 2), offs=end_E)
        y_ND: Tensor = _Gathered.apply(y_MD, token_M, row_KN, x_ND.dtype)  # type: ignore[no-untyped-call]
        return y_ND


def grouped_and_cleared(x_ND: Tensor, weight_M: Tensor, token_M: Tensor, count_E: Tensor, w_in: Tensor, w_out: Tensor,
                        row_KN: Tensor) -> Tensor:  # fmt: skip
    """`grouped` for GPUs whose kernel leaves the gradient of an expert without tokens as memory happens to be
    (Blackwell, pytorch/pytorch#172439)."""
    used_E11 = (count_E > 0).view(-1, 1, 1)
    w_in, w_out = (_Cleared.apply(weight, used_E11) for weight in (w_in, w_out))  # type: ignore[no-untyped-call]
    return grouped(x_ND, weight_M, token_M, count_E, w_in, w_out, row_KN)


def _sum_of_rows(rows_MD: Tensor, row_KN: Tensor, dtype: torch.dtype) -> Tensor:
    """Of each token, its K rows: gathered, since a GPU adds to the same place one after the other, in any order."""
    sum_ND = rows_MD.index_select(0, row_KN[0]).to(dtype)
    for row_N in row_KN[1:]:
        sum_ND.add_(rows_MD.index_select(0, row_N))
    return sum_ND


class _Spread(torch.autograd.Function):
    """A row for each assignment, in `dtype`; the gradient is summed in the tokens' own format."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, token_M: Tensor, row_KN: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(row_KN)
        ctx.dtype = x_ND.dtype
        return x_ND.to(dtype).index_select(0, token_M)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor, None, None, None]:
        return _sum_of_rows(grad_MD, ctx.saved_tensors[0], ctx.dtype), None, None, None


class _Gathered(torch.autograd.Function):
    """The sum of each token's rows, in `dtype`."""

    @staticmethod
    def forward(ctx: Any, y_MD: Tensor, token_M: Tensor, row_KN: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(token_M)
        ctx.dtype = y_MD.dtype
        return _sum_of_rows(y_MD, row_KN, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None, None]:
        return grad_ND.to(ctx.dtype).index_select(0, ctx.saved_tensors[0]), None, None, None


class _Cleared(torch.autograd.Function):
    """The weights themselves; no gradient comes through those that were not used."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, used_E11: Tensor) -> Tensor:
        ctx.save_for_backward(used_E11)
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (used_E11,) = ctx.saved_tensors
        return torch.where(used_E11, grad, 0.0), None


class _WeightedSwiGLU(torch.autograd.Function):
    """silu(gate) * up * weight; keeps its inputs alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, both_M2F: Tensor, weight_M: Tensor) -> Tensor:
        ctx.save_for_backward(both_M2F, weight_M)
        return _activated(both_M2F).mul_(weight_M.unsqueeze(-1).to(both_M2F.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MF: Tensor) -> tuple[Tensor, Tensor]:
        both_M2F, weight_M = ctx.saved_tensors
        gate_MF, up_MF = both_M2F.chunk(2, dim=-1)
        silu_MF, weight_M1 = F.silu(gate_MF), weight_M.unsqueeze(-1).to(grad_MF.dtype)
        grad_weight = (grad_MF * silu_MF * up_MF).sum(-1, dtype=torch.float32)
        to_active = grad_MF * weight_M1
        to_gate = torch.ops.aten.silu_backward(to_active * up_MF, gate_MF)
        return torch.cat((to_gate, to_active * silu_MF), dim=-1), grad_weight.to(weight_M.dtype)
