"""Two runs from one seed are equal bit for bit, on one thread and on two."""

from __future__ import annotations

import numpy as np
import pytest

from lumina.checkpoint import state_hash
from lumina.config import load_config
from lumina.engine.api import MicroBatch
from lumina.engine.torch_engine import TorchEngine
from lumina.hardware import choose_precision, detect_cpu

EVERYTHING = {"expert_dropout": 0.2, "bias_balancing": True, "num_shared_experts": 1, "router_z_loss_weight": 0.01}


def trained(seed: int, steps: int = 4, **changes: object) -> str:
    hardware = detect_cpu()
    config = load_config("debug", {"model.hidden_size": 64, "training.seed": seed, **changes})
    one = TorchEngine(config, 300, hardware, choose_precision("fp32", hardware))
    for step in range(1, steps + 1):
        tokens = np.random.default_rng(step).integers(0, 300, (4, 129))
        one.train_step(step, [MicroBatch(tokens[:, :-1], tokens[:, 1:])], 1e-3)
    return state_hash(one.export_state())


@pytest.mark.parametrize(
    "family", [{}, {"use_moe": False}, {"use_mod": False}, {"mod_routing_type": "random"}, EVERYTHING]
)
def test_one_seed_is_one_run(family: dict[str, object]) -> None:
    assert trained(1, **family) == trained(1, **family)
    assert trained(1, **family) != trained(2, **family)


@pytest.mark.usefixtures("_two_threads")
def test_one_seed_is_one_run_on_two_threads() -> None:
    assert trained(1, steps=2) == trained(1, steps=2)
