"""A step on a device without numbers: tensors there have shapes alone, so that whatever would wait for a number, or
mix devices, raises. What is left is how a GPU is kept busy: nothing is asked before the step's one transfer."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from small import SHAPE
from torch import Tensor

from lumina.config import load_config
from lumina.engine.api import MicroBatch
from lumina.engine.torch_engine import TorchEngine
from lumina.hardware import Hardware, choose_precision
from lumina.model import experts
from lumina.model.attention import Attention
from lumina.model.flash import Flash
from lumina.model.moe import MoE

VOCAB = 60
NOWHERE = Hardware("meta", "no numbers", None, False, 2, 2**34)  # type: ignore[arg-type]
GPU = Hardware("cuda", "Example GPU", (9, 0), False, 2, 2**34)
KINDS: dict[str, dict[str, Any]] = {
    "dense": {"use_moe": False, "use_mod": False},
    "experts": {"use_mod": False, "capacity_factor": 0.6, "bias_balancing": True, "num_shared_experts": 1},
    "depth": {"use_moe": False},
    "both": {"router_z_loss_weight": 0.1},
    "both, static, checkpointed": {"mod_routing_type": "static", "expert_dropout": 0.2, "gradient_checkpointing": True},
    "both, random": {"mod_routing_type": "random", "mod_scope": "ffn"},
}


class Asked(Exception):
    """The host wants a number."""


def packed(q_NHd: Tensor, k_NGd: Tensor, v_NGd: Tensor, start_S1: Tensor, longest: int) -> Tensor:
    assert (start_S1.device.type, start_S1.dtype) == ("meta", torch.int32)
    return q_NHd + (k_NGd + v_NGd).sum()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta tensors have none
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)

    def made(**changes: Any) -> TorchEngine:
        config = load_config("debug", {**SHAPE, "mod_collapse_guard": False, **changes})
        built = TorchEngine(config, VOCAB, NOWHERE, choose_precision("bf16", GPU))
        for module in built.model.modules():
            if isinstance(module, Attention):
                module.flash = Flash("stand-in", packed)
            if isinstance(module, MoE):
                module.in_groups = experts.grouped_and_cleared
        return built

    return made


def batches(padding: int | None) -> list[MicroBatch]:
    tokens = np.random.default_rng(0).integers(0, VOCAB, (2, 33))
    documents = None
    if padding is not None:
        documents = np.repeat(np.arange(4), 8)[None].repeat(2, 0).copy()
        documents[0, 32 - padding :] = -1
    return [MicroBatch(tokens[:, :-1], tokens[:, 1:], documents)] * 2


# With padding, how many of the tokens that depth chose are real is asked for, see Layer._feed_kept.
CASES = [(kind, padding) for kind in KINDS for padding in (None, 0, 5) if not (padding and kind.startswith("both"))]


@pytest.mark.parametrize(("kind", "padding"), CASES)
def test_a_step_asks_for_nothing_before_its_one_transfer(
    monkeypatch: pytest.MonkeyPatch, engine: Any, kind: str, padding: int | None
) -> None:
    one = engine(**KINDS[kind])

    def cpu(tensor: Tensor) -> Tensor:
        raise Asked

    monkeypatch.setattr(Tensor, "cpu", cpu)
    with pytest.raises(Asked) as asked:
        one.train_step(1, batches(padding), 1e-3)
    assert asked.traceback[-2].name == "fetch"
    gradients = [weight.grad for weight in one.weights.by_name.values()]
    assert all(grad is not None and grad.device.type == "meta" for grad in gradients)
    one.optimizer.step_clipped(3.0, 1.0)


def test_the_same_device_notices_a_question(engine: Any) -> None:
    one = engine(use_mod=False)
    for layer in one.model.layers:
        layer.moe.in_groups = None
    with pytest.raises((RuntimeError, NotImplementedError), match=r"nonzero|meta tensor"):
        one.train_step(1, batches(None), 1e-3)
