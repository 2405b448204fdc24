"""Small models and engines for the tests of the model; every helper names what it changes from the smallest preset."""

from __future__ import annotations

import numpy as np
import torch
from small import SHAPE
from torch import Tensor

from lumina.config import load_config
from lumina.engine.api import MicroBatch
from lumina.engine.torch_engine import TorchEngine
from lumina.hardware import choose_precision, detect_cpu
from lumina.model import Transformer
from lumina.model.mod import DepthRouter
from lumina.model.moe import MoE

VOCAB, LENGTH = 60, 32


def model(**changes: object) -> Transformer:
    torch.manual_seed(3)
    built = Transformer(load_config("debug", {**SHAPE, **changes}), VOCAB)
    built.reset()
    return built.train()


def engine(**changes: object) -> TorchEngine:
    hardware = detect_cpu()
    config = load_config("debug", {**SHAPE, **changes})
    return TorchEngine(config, VOCAB, hardware, choose_precision("fp32", hardware))


def tokens(seed: int = 0, sequences: int = 4) -> Tensor:
    return torch.randint(0, VOCAB, (sequences, LENGTH), generator=torch.Generator().manual_seed(seed))


def batch(seed: int = 0, sequences: int = 4) -> MicroBatch:
    drawn = np.random.default_rng(seed).integers(0, VOCAB, (sequences, LENGTH + 1))
    return MicroBatch(drawn[:, :-1], drawn[:, 1:])


def moe_of(built: Transformer, layer: int = 0) -> MoE:
    found = built.layers[layer].moe
    assert isinstance(found, MoE)
    return found


def router_of(built: Transformer, layer: int = 0) -> DepthRouter:
    found = built.layers[layer].mod
    assert isinstance(found, DepthRouter)
    return found
