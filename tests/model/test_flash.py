"""Flash kernels see each document alone, are handed where documents begin, and are chosen only where they can run."""

from __future__ import annotations

import importlib.machinery
import logging
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from small import SHAPE
from small_models import VOCAB, model, moe_of
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from lumina.config import load_config
from lumina.engine.kernels import choose_kernels
from lumina.hardware import Hardware, choose_precision
from lumina.model import Transformer, experts, flash
from lumina.model.attention import Attention
from lumina.model.documents import Documents
from lumina.model.flash import Flash, flash_kernels

CPU = torch.device("cpu")
ROWS = np.array([[0] * 9 + [1] * 12 + [2] * 11, [0] * 30 + [-1] * 2])


def by_documents(q_NHd: Tensor, k_NGd: Tensor, v_NGd: Tensor, start_S1: Tensor, longest: int) -> Tensor:
    """What the kernels compute, document by document."""
    assert start_S1.dtype == torch.int32
    lengths = start_S1.diff().tolist()
    assert max(lengths) <= longest
    assert sum(lengths) == len(q_NHd)
    parts = (tensor.split(lengths) for tensor in (q_NHd, k_NGd, v_NGd))
    results = []
    for one in zip(*parts, strict=True):
        q, k, v = (part.transpose(0, 1)[None] for part in one)
        results.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(results)


def whole(q_BTHd: Tensor, k_BTGd: Tensor, v_BTGd: Tensor) -> Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (q_BTHd, k_BTGd, v_BTGd))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def attentions(built: Transformer) -> list[Attention]:
    return [module for module in built.modules() if isinstance(module, Attention)]


def loss_and_gradients(built: Transformer, documents: Documents | None) -> list[Tensor]:
    token = torch.randint(0, VOCAB, (2, 32), generator=torch.Generator().manual_seed(1))
    output = built(token, token.roll(-1, 1), documents)
    (output.loss_sum + output.auxiliary).backward()
    return [output.loss_sum.detach(), *(p.grad for p in built.parameters() if p.grad is not None)]


KINDS: dict[str, dict[str, Any]] = {
    "dense": {"use_moe": False, "use_mod": False},
    "experts": {"use_mod": False},
    "depth": {},
    "static depth": {"mod_routing_type": "static"},
    "depth of the feed-forward": {"mod_scope": "ffn"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [None, ROWS[:1].repeat(2, 0), ROWS], ids=["whole", "packed", "padded"])
def test_kernels_that_take_documents_give_what_masks_give(
    monkeypatch: pytest.MonkeyPatch, kind: str, rows: np.ndarray[Any, Any] | None
) -> None:
    monkeypatch.setattr("lumina.model.attention.HALVES", (torch.float32,))  # so that there is nothing to round
    calls: list[str] = []

    def noted(name: str, kernel: Any) -> Any:
        return lambda *given: (calls.append(name), kernel(*given))[1]

    documents = None if rows is None else Documents.from_host(rows, CPU)
    found = []
    for kernels in (None, Flash("stand-in", noted("packed", by_documents), noted("whole", whole))):
        built = model(num_kv_heads=1, **KINDS[kind])
        for attention in attentions(built):
            attention.flash = kernels
        found.append(loss_and_gradients(built, documents))
    for masked, apart in zip(*found, strict=True):
        torch.testing.assert_close(apart, masked, rtol=1e-3, atol=1e-4)
    # Of rows with padding, a layer with depth takes different numbers of tokens: those stay with the mask.
    masked_only = rows is ROWS and "depth" in kind and kind != "depth of the feed-forward"
    assert set(calls) == (set() if masked_only else {"whole" if rows is None else "packed"})


def test_the_kernels_are_for_16_bits_alone() -> None:
    built = model(use_mod=False)
    for attention in attentions(built):
        attention.flash = Flash("none", lambda *_: pytest.fail("of float32 numbers"))
    loss_and_gradients(built, Documents.from_host(ROWS, CPU))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(pytest.fail.Exception, match="of float32 numbers"):
        loss_and_gradients(built, Documents.from_host(ROWS, CPU))


def test_the_host_knows_what_the_device_would_tell() -> None:
    told, asked = Documents.from_host(ROWS, CPU), Documents.on_device(torch.from_numpy(ROWS), padded=True)
    assert told.start_S1 is not None
    assert told.start_S1.tolist() == [0, 9, 21, 32, 62, 64]
    assert told.longest == 30
    for name in ("number_BT", "place_BT", "real_BT", "real_R"):
        assert torch.equal(getattr(told, name), getattr(asked, name)), name
    assert Documents.from_host(ROWS[:1], CPU).real_R is None


def test_what_is_chosen_of_documents_begins_where_they_begin() -> None:
    told = Documents.from_host(ROWS[:1].repeat(2, 0), CPU)
    chosen = told.chosen(torch.tensor([[0, 5, 10, 30], [22, 23, 24, 31]]), whole=True)
    assert chosen.number_BT.tolist() == [[0, 0, 1, 2], [2, 2, 2, 2]]
    assert chosen.place_BT.tolist() == [[0, 5, 1, 9], [1, 2, 3, 10]]
    assert chosen.start_S1 is not None
    assert chosen.start_S1.tolist() == [0, 2, 3, 4, 4, 4, 8]  # nothing of the fourth and fifth document
    assert chosen.longest == 4
    assert told.chosen(torch.tensor([[0], [1]]), whole=False).start_S1 is None


# Which kernels there are


def test_pytorchs_own_kernel_takes_the_call() -> None:
    """A fake tensor has no values, and no kernel is run: it is the call that counts, forward and backward."""
    kernels = flash._of_torch()
    with FakeTensorMode():
        q, k, v = (torch.zeros(64, heads, 16, dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2))
        y = kernels.packed(q, k, v, torch.zeros(6, dtype=torch.int32), 30)
        assert (y.shape, y.dtype) == (q.shape, q.dtype)
        y.sum().backward()
        assert all(tensor.grad is not None and tensor.grad.shape == tensor.shape for tensor in (q, k, v))


def of_2_10(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):  # type: ignore[no-untyped-def]
    return is_causal


def of_2_11(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)):  # type: ignore[no-untyped-def]
    return window_size == (-1, 0)


def of_2_12(q, k, v, a, b, max_q, max_k, *, window_size=(-1, -1), enable_gqa=False, seqused_k=None):  # type: ignore[no-untyped-def]
    return window_size == (-1, 0) and enable_gqa == (q.shape[1] != k.shape[1])


@pytest.mark.parametrize("kernel", [of_2_10, of_2_11, of_2_12])
@pytest.mark.parametrize("groups", [2, 4])
def test_every_version_of_pytorchs_kernel_is_told_to_be_causal(
    monkeypatch: pytest.MonkeyPatch, kernel: Any, groups: int
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    q, k = torch.zeros(8, 4, 16), torch.zeros(8, groups, 16)
    assert flash._of_torch().packed(q, k, k, torch.tensor([0, 8]), 8) is True


def test_the_package_comes_first_and_one_that_does_not_load_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    package = ModuleType("flash_attn")
    package.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    package.flash_attn_func = lambda q, k, v, causal: ("whole", causal)  # type: ignore[attr-defined]
    package.flash_attn_varlen_func = lambda *given, causal: (given[3:], causal)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    kernels = flash_kernels()
    assert (kernels.name, kernels.whole and kernels.whole(1, 2, 3)) == ("flash_attn", ("whole", True))  # type: ignore[arg-type]
    assert kernels.packed(1, 2, 3, "starts", 7) == (("starts", "starts", 7, 7), True)  # type: ignore[arg-type, comparison-overlap]
    del package.flash_attn_func
    with caplog.at_level(logging.WARNING):
        assert flash_kernels().name == "PyTorch"
    assert "flash_attn is installed and does not load" in caplog.text
    caplog.clear()
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert flash_kernels().name == "PyTorch"


def chosen(capability: tuple[int, int], precision: str, plain: bool = True, **changes: Any) -> tuple[str | None, str]:
    """The name of the flash kernels, and of the function that computes experts."""
    hardware = Hardware("cuda", "Example GPU", capability, False, 8, 2**36)
    config = load_config("debug", {**SHAPE, "use_mod": False, "precision": precision, **changes})
    built = Transformer(config, VOCAB)
    choose_kernels(built, config, hardware, choose_precision(precision, hardware), plain)
    found = attentions(built)[0].flash
    experts_of = moe_of(built)
    return found and found.name, (experts_of.in_groups or experts_of.compute).__name__  # type: ignore[attr-defined]


def test_kernels_follow_from_hardware_format_and_sizes() -> None:
    grouped, cleared, alone = (f.__name__ for f in (experts.grouped, experts.grouped_and_cleared, experts.one_by_one))
    assert chosen((9, 0), "auto") == ("PyTorch", grouped)
    assert chosen((9, 0), "mixed_bf16", use_flash_attention=False) == (None, grouped)
    assert chosen((10, 0), "mixed_bf16") == ("PyTorch", cleared)
    assert chosen((8, 0), "bf16") == ("PyTorch", alone)  # there a grouped product asks for the counts
    assert chosen((12, 0), "bf16") == ("PyTorch", alone)
    assert chosen((9, 0), "mixed_fp16") == ("PyTorch", alone)
    assert chosen((9, 0), "fp32") == (None, alone)
    assert chosen((7, 5), "auto") == (None, alone)
    assert chosen((9, 0), "mixed_bf16", plain=False) == ("PyTorch", alone)
    assert chosen((9, 0), "mixed_bf16", intermediate_size=20) == ("PyTorch", alone)
    assert chosen((9, 0), "mixed_bf16", hidden_size=24) == (None, grouped)  # heads of 12 numbers
