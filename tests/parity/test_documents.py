"""Documents packed into one sequence are computed as if each were alone, and padding as if it were not there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lumina.config import load_config
from lumina.engine.api import MicroBatch
from lumina.engine.torch_engine import TorchEngine
from lumina.hardware import choose_precision, detect_cpu
from lumina.model import Transformer, attention
from lumina.model.layers import positions_of

EXAMPLES = settings(max_examples=15, deadline=None, derandomize=True)
SHAPE: dict[str, Any] = {
    "model.hidden_size": 16,
    "model.intermediate_size": 12,
    "model.num_layers": 3,
    "model.num_heads": 4,
    "model.num_kv_heads": 2,
    "model.initializer_range": 0.3,
    "model.max_position_embeddings": 64,
}
KINDS: dict[str, dict[str, Any]] = {
    "dense": {"use_moe": False, "use_mod": False},
    "experts": {"use_mod": False},
    "depth": {"use_moe": False},
    "depth of the feed-forward": {"mod_scope": "ffn"},
    "both": {},
}
VOCAB = 50


def model(**overrides: Any) -> Transformer:
    torch.manual_seed(3)
    built = Transformer(load_config("debug", {**SHAPE, **overrides}), VOCAB)
    built.reset()
    return built.eval()


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def numbered(lengths: list[int], padding: int = 0) -> Tensor:
    return torch.tensor([[i for i, length in enumerate(lengths) for _ in range(length)] + [-1] * padding])


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("kind", KINDS)
@EXAMPLES
@given(lengths=st.lists(st.integers(1, 15), min_size=1, max_size=4), padding=st.integers(0, 9), seed=st.integers(0, 99))
def test_a_packed_sequence_gives_the_logits_of_its_documents(
    kind: str, fused: bool, lengths: list[int], padding: int, seed: int
) -> None:
    built = model(**KINDS[kind])
    row = tokens(1, sum(lengths) + padding, seed=seed)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "SHORT_SEQUENCE", 0 if fused else 1024)
        packed = built.logits(row, numbered(lengths, padding))[0]
        alone = [built.logits(part)[0] for part in row[:, : sum(lengths)].split(lengths, dim=1)]
    torch.testing.assert_close(packed[: sum(lengths)], torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_without_boundaries_documents_see_each_other() -> None:
    row = tokens(1, 20)
    built = model(**KINDS["dense"])
    with torch.no_grad():
        apart, joined = built.logits(row, numbered([10, 10])), built.logits(row)
    torch.testing.assert_close(apart[:, :10], joined[:, :10], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(apart[:, 10:], joined[:, 10:], atol=1e-2)


def test_each_document_starts_at_position_zero() -> None:
    assert positions_of(numbered([3, 1, 2], 2)).tolist() == [[0, 1, 2, 0, 0, 1, 0, 1]]


@pytest.mark.parametrize("routing", ["learned", "static", "random"])
def test_depth_never_chooses_padding_and_takes_its_share_of_the_rest(routing: str) -> None:
    built = model(mod_routing_type=routing, mod_capacity_factor=0.5).train()
    document = torch.cat([numbered([24], 8), numbered([4, 6], 22)])
    output = built(tokens(2, 32), tokens(2, 32), document)
    for layer in output.layers:
        assert layer.mod is not None
        assert not bool((layer.mod.mask_BT & (document < 0)).any())
        if routing == "learned":
            assert layer.mod.mask_BT.sum(1).tolist() == [12, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_neither_loss_nor_gradient_of_a_step(kind: str) -> None:
    def step(padding: int) -> tuple[float, float, float, int]:
        config = load_config("debug", {**SHAPE, **KINDS[kind], "capacity_factor": 0.8, "num_experts": 4})
        hardware = detect_cpu()
        engine = TorchEngine(config, VOCAB, hardware, choose_precision("fp32", hardware))
        row = np.concatenate([tokens(2, 21).numpy(), np.zeros((2, padding), dtype=np.int64)], axis=1)
        labels = row[:, 1:].copy()
        labels[:, 20:] = -100
        documents = np.where(np.arange(row.shape[1] - 1) < 20, 0, -1)[None].repeat(2, 0)
        stats = engine.train_step(1, [MicroBatch(row[:, :-1], labels, documents)], 1e-3)
        dropped = stats.series.get("moe.tokens_dropped", 0.0)
        return round(stats.total_loss, 5), round(stats.grad_norm, 4), dropped, stats.tokens

    assert step(0) == step(11)
