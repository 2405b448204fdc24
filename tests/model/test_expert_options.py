"""Each option of Mixture of Experts does what its description says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_models import LENGTH, batch, engine, model, moe_of, tokens
from torch.nn import functional as F

from lumina.checkpoint import state_hash
from lumina.model import surgery
from lumina.model.moe import MoE

PLAIN = {"use_mod": False, "capacity_factor": None}


def some(count: int = 50) -> torch.Tensor:
    return torch.randn(count, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (2, 2), (5, 3), (8, 1), (64, 4), (80, 2)])
def test_any_number_of_experts_and_choices_trains(experts: int, top_k: int) -> None:
    one = engine(num_experts=experts, moe_top_k=top_k)
    losses = [one.train_step(step, [batch()], 3e-3).loss for step in range(1, 21)]
    assert losses[-1] < 0.9 * losses[0]
    load = one.train_step(21, [batch()], 3e-3).arrays["expert_load"]
    assert load.shape == (2, experts)
    assert load.sum(1).tolist() == pytest.approx([1.0, 1.0])


def test_the_z_loss_is_the_mean_square_of_the_log_of_the_sum() -> None:
    without, with_it = model(**PLAIN), model(**PLAIN, router_z_loss_weight=0.5)
    seen: list[float] = []

    def look(module: MoE, inputs: tuple[torch.Tensor]) -> None:
        seen.append(F.linear(inputs[0], module.router).logsumexp(-1).square().mean().item())

    for layer in with_it.layers:
        layer.moe.register_forward_pre_hook(look)  # type: ignore[union-attr]
    with torch.no_grad():
        a, b = without(tokens(), tokens()), with_it(tokens(), tokens())
    assert (b.auxiliary - a.auxiliary).item() == pytest.approx(0.5 * sum(seen) / len(seen), rel=1e-5)
    assert a.loss_sum == b.loss_sum


def test_the_z_loss_keeps_the_logits_small() -> None:
    def last(weight: float) -> float:
        one = engine(**PLAIN, router_z_loss_weight=weight)
        return [one.train_step(step, [batch(step)], 1e-2).series["moe.router_z_loss"] for step in range(1, 16)][-1]

    assert last(0.5) < 0.8 * last(1e-9)


def test_shared_experts_are_added_to_the_routed_ones() -> None:
    routed, both = model(**PLAIN), model(**PLAIN, num_shared_experts=2)
    both.load_state_dict(routed.state_dict(), strict=False)
    shared = moe_of(both).shared
    assert shared is not None
    assert shared.gate_proj.weight.shape == (2 * 24, 32)
    x = some()
    with torch.no_grad():
        torch.testing.assert_close(moe_of(both)(x)[0], moe_of(routed)(x)[0] + shared(x))


def test_expert_dropout_leaves_experts_out_of_a_step_and_never_of_an_evaluation() -> None:
    built = model(**PLAIN, expert_dropout=0.5)
    moe = moe_of(built)
    used = []
    for step in range(1, 30):
        built.knobs.step = step
        used.append(int((moe(some(400))[1].share_E > 0).sum()))
    assert min(used) >= 2
    assert max(used) <= 8
    assert 3 <= sum(used) / len(used) <= 5, "half of eight, on average"
    again = moe(some(400))[1].share_E
    assert again.tolist() == moe(some(400))[1].share_E.tolist(), "the same step leaves the same experts out"
    built.eval()
    assert int((moe(some(400))[1].share_E > 0).sum()) == 8


def test_expert_dropout_always_leaves_enough_to_choose_from() -> None:
    built = model(**PLAIN, expert_dropout=0.99, num_experts=6, moe_top_k=3)
    for step in range(1, 20):
        built.knobs.step = step
        y, stats = moe_of(built)(some())
        assert int((stats.share_E > 0).sum()) >= 3
        assert bool(y.isfinite().all())


def test_capacity_and_the_balance_loss_count_the_experts_that_take_part() -> None:
    built = model(use_mod=False, capacity_factor=1.0, expert_dropout=0.99, num_experts=8, moe_top_k=2)
    built.knobs.step = 1
    _, stats = moe_of(built)(some(40))
    assert int((stats.share_E > 0).sum()) == 2
    assert int(stats.dropped) == 0, "40 tokens for each of two experts"
    assert int(stats.live_E.sum()) == 8


def test_bias_balancing_evens_out_the_load_without_a_loss() -> None:
    def largest(**changes: object) -> tuple[float, float]:
        one = engine(use_mod=False, capacity_factor=None, load_balancing_weight=0.0, router_init_bias=2.0, **changes)
        stats = [one.train_step(step, [batch(step)], 1e-6) for step in range(1, 41)]
        load = np.mean([each.arrays["expert_load"] for each in stats[-10:]], axis=0)
        return float(load.max()), stats[-1].total_loss - stats[-1].loss

    skewed, _ = largest()
    even, added = largest(bias_balancing=True, bias_balancing_rate=0.02)
    assert skewed > 0.3
    assert even < 0.2, "an even share is an eighth"
    assert added == 0.0


def test_a_bias_changes_the_choice_and_not_the_weights() -> None:
    built = model(**PLAIN, bias_balancing=True, moe_top_k=8)
    moe, x = moe_of(built), some()
    assert moe.choice_bias_E is not None
    before = moe(x)[0]
    moe.choice_bias_E[3] = 0.7
    torch.testing.assert_close(moe(x)[0], before)  # all eight are chosen either way
    moe.top_k = 1
    assert int(moe(x)[1].share_E.argmax()) == 3


def test_the_choice_bias_is_part_of_the_state() -> None:
    one = engine(bias_balancing=True)
    for step in range(1, 4):
        one.train_step(step, [batch(step)], 1e-3)
    other = engine(bias_balancing=True)
    other.restore_state(one.export_state())
    assert any(bool(b.any()) for name, b in other.model.named_buffers() if name.endswith("choice_bias_E"))
    for each in (one, other):
        each.train_step(4, [batch(4)], 1e-3)
    assert state_hash(one.export_state()) == state_hash(other.export_state())


def test_an_added_expert_keeps_the_loss_with_every_option() -> None:
    one = engine(
        bias_balancing=True, num_shared_experts=1, router_z_loss_weight=0.1, expert_dropout=0.3, router_init_bias=0.5
    )
    for step in range(1, 6):
        one.train_step(step, [batch(step)], 1e-3)
    outputs = []
    for grown in (False, True):
        if grown:
            one.rebuild(surgery.add_expert(one.export_state(), 0, source_expert=2, step=5, seed=0))
        one.model.train()
        with torch.no_grad():
            outputs.append(one.model(tokens(9), tokens(9)))
    assert float(outputs[0].loss_sum - outputs[1].loss_sum) == 0.0
    assert float(outputs[0].auxiliary - outputs[1].auxiliary) == 0.0
    stats = [one.train_step(step, [batch(step)], 1e-3) for step in range(6, 40)]
    assert math.isfinite(stats[-1].loss)
    assert max(s.arrays["expert_load"][0, 8] for s in stats) > 0


def test_the_temperature_makes_routing_softer() -> None:
    built = model(**PLAIN)
    entropy = []
    for temperature in (0.3, 1.0, 3.0):
        built.knobs.routing_temperature = temperature
        x = some(4 * LENGTH)
        probability = (F.linear(x, moe_of(built).router.detach()) / temperature).softmax(-1)
        entropy.append(float(-(probability * probability.log()).sum(-1).mean()))
        torch.testing.assert_close(moe_of(built)(x)[1].probability_E, probability.mean(0))
    assert entropy == sorted(entropy)
