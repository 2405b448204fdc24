from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lumina.accounting import count_parameters
from lumina.checkpoint import state_hash
from lumina.config import load_config
from lumina.engine.api import MicroBatch
from lumina.engine.numerics import be_deterministic
from lumina.engine.torch_engine import TorchEngine
from lumina.hardware import choose_precision, detect_cpu
from lumina.model import surgery

VOCAB = 300


def engine(**overrides: object) -> TorchEngine:
    config = load_config("debug", {"model.hidden_size": 32, "model.intermediate_size": 48, **overrides})
    hardware = detect_cpu()
    return TorchEngine(config, VOCAB, hardware, choose_precision("fp32", hardware))


def batch(seed: int) -> MicroBatch:
    tokens = np.random.default_rng(seed).integers(0, VOCAB, (2, 33))
    return MicroBatch(tokens[:, :-1], tokens[:, 1:])


def test_a_restored_state_continues_bit_equal() -> None:
    one = engine()
    one.train_step(1, [batch(1)], 1e-3)
    saved = one.export_state()
    one.train_step(2, [batch(2)], 1e-3)
    other = engine()
    other.restore_state(saved)
    other.train_step(2, [batch(2)], 1e-3)
    assert state_hash(one.export_state()) == state_hash(other.export_state())


def test_adding_an_expert_keeps_the_loss() -> None:
    one = engine()
    for step in range(1, 4):
        one.train_step(step, [batch(step)], 1e-3)
    one.model.train()
    with torch.no_grad():
        before = one.model(*one._tensors(batch(9)))
        one.rebuild(surgery.add_expert(one.export_state(), 0, source_expert=2, step=3, seed=0))
        one.model.train()
        after = one.model(*one._tensors(batch(9)))
    assert float(before.loss_sum - after.loss_sum) == 0.0
    assert float(before.auxiliary - after.auxiliary) == 0.0


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    one = engine()
    one.train_step(1, [batch(1)], 1e-3)
    with torch.no_grad():
        one.model.norm.weight[0] = math.inf
    before = state_hash(one.export_state())
    stats = one.train_step(1, [batch(1)], 1e-3)
    assert stats.skipped
    assert state_hash(one.export_state()) == before


def test_evaluation_never_looks_at_a_later_token() -> None:
    one = engine()
    for step in range(1, 6):
        one.train_step(step, [batch(step)], 1e-2)
    one.model.eval()
    tokens = one._tensors(batch(7))[0]
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % VOCAB
    with torch.no_grad():
        assert torch.allclose(one.model.logits(tokens)[:, :20], one.model.logits(changed)[:, :20], atol=1e-5)


@pytest.mark.parametrize("family", [{}, {"use_moe": False}, {"use_mod": False}, {"use_moe": False, "use_mod": False}])
def test_the_parameter_count_is_the_formula(family: dict[str, object]) -> None:
    one = engine(**family)
    assert one.describe().parameters == count_parameters(one.config, VOCAB).total


def test_experts_beyond_capacity_drop_tokens_in_training_only() -> None:
    one = engine(capacity_factor=0.25)
    stats = one.train_step(1, [batch(1)], 1e-3)
    assert stats.series["moe.drop_fraction"] > 0.5
    assert one.eval_step(batch(1)).tokens == 64


def test_an_update_is_the_one_of_pytorchs_own_optimizer() -> None:
    one = engine()
    one.train_step(1, [batch(1)], 1e-3)
    theirs = {name: weight.detach().clone().requires_grad_() for name, weight in one.weights.by_name.items()}
    groups = [dict(group) for group in one.optimizer.param_groups]
    names = {id(weight): name for name, weight in one.weights.by_name.items()}
    for group in groups:
        group["params"] = [theirs[names[id(weight)]] for weight in group["params"]]
    optimizer = torch.optim.AdamW(groups, fused=True)
    for name, weight in one.weights.by_name.items():
        optimizer.state[theirs[name]] = {key: value.clone() for key, value in one.optimizer.state[weight].items()}
    one.train_step(2, [batch(2)], 1e-3)
    for name, weight in one.weights.by_name.items():
        theirs[name].grad = weight.grad
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    optimizer.step()
    assert all(torch.equal(theirs[name], weight) for name, weight in one.weights.by_name.items())


@pytest.mark.parametrize("compiled", [False, True])
def test_what_differs_from_run_to_run_is_refused(compiled: bool) -> None:
    import torch._inductor.config as compiler

    with compiler.patch(deterministic=False):
        be_deterministic(compiled=compiled)
        assert torch.get_deterministic_debug_mode() == 2
        assert compiler.deterministic == compiled
