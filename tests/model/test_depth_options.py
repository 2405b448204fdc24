"""Each option of Mixture of Depths does what its description says."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import LENGTH, batch, engine, model, router_of, tokens

from lumina.checkpoint import state_hash
from lumina.engine.guard import CollapseGuard
from lumina.model.transformer import LayerStats, Transformer

DENSE = {"use_moe": False}


def masks(built: Transformer, seed: int = 0) -> list[torch.Tensor | None]:
    with torch.no_grad():
        layers: list[LayerStats] = built(tokens(seed), tokens(seed)).layers
    return [None if layer.mod is None else layer.mod.mask_BT for layer in layers]


def mask(built: Transformer, seed: int = 0) -> torch.Tensor:
    found = masks(built, seed)[0]
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["learned", "static", "random"])
@pytest.mark.parametrize("capacity", [0.1, 0.25, 0.5, 0.7, 1.0])
def test_training_takes_exactly_the_share_of_every_sequence(kind: str, capacity: float) -> None:
    built = model(**DENSE, mod_routing_type=kind, mod_capacity_factor=capacity)
    assert mask(built).sum(1).tolist() == [math.ceil(round(capacity * LENGTH, 6))] * 4


def test_static_is_one_pattern_for_all_content_and_lengths() -> None:
    built = model(**DENSE, mod_routing_type="static", mod_capacity_factor=0.25)
    assert mask(built).int()[0, :9].tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert torch.equal(mask(built, 0), mask(built, 1))
    with torch.no_grad():
        short = built(tokens()[:, :10], tokens()[:, :10]).layers[0].mod
    assert torch.equal(short.mask_BT, mask(built)[:, :10])


def test_random_draws_anew_for_each_step_and_layer() -> None:
    built = model(**DENSE, mod_routing_type="random")
    built.knobs.step = 1
    first, second = masks(built)
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)
    assert torch.equal(mask(built, 0), mask(built, 5)), "content does not matter"
    built.knobs.step = 2
    assert not torch.equal(mask(built), first)


@pytest.mark.parametrize("kind", ["learned", "static", "random"])
@pytest.mark.parametrize("family", [{}, DENSE])
def test_sampling_never_looks_at_a_later_token(kind: str, family: dict[str, object]) -> None:
    one = engine(mod_routing_type=kind, **family)
    for step in range(1, 6):
        one.train_step(step, [batch(step)], 1e-2)
    one.model.eval()
    changed = tokens().clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 60
    with torch.no_grad():
        whole, other, prefix = (one.model.logits(t)[:, :20] for t in (tokens(), changed, tokens()[:, :20]))
    torch.testing.assert_close(whole, other, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole, prefix, atol=1e-5, rtol=1e-5)


def test_the_layers_with_depth_are_those_of_start_end_and_every() -> None:
    built = model(**DENSE, num_layers=6, mod_start_layer=1, mod_end_layer=4, mod_every=2)
    assert [found is not None for found in masks(built)] == [False, True, False, True, False, False]


def test_with_the_feed_forward_alone_every_token_attends() -> None:
    built = model(**DENSE, num_layers=1, mod_scope="ffn", mod_capacity_factor=0.1)
    whole = model(**DENSE, num_layers=1, mod_scope="layer", mod_capacity_factor=0.1)
    unmoved = []
    for each in (built, whole):
        seen: list[torch.Tensor] = []
        each.layers[0].register_forward_hook(lambda _, inputs, out, s=seen: s.append((out[0] == inputs[0]).all(-1)))
        mask(each)
        unmoved.append(float(seen[0].float().mean()))
    assert unmoved[0] == 0.0
    assert unmoved[1] == pytest.approx(1 - 4 / LENGTH)


def test_capacity_starts_at_one_and_is_annealed() -> None:
    built = model(mod_capacity_factor=0.4, mod_warmup_steps=10, mod_anneal_steps=20)
    shares = {}
    for step in (1, 10, 20, 30, 31, 500):
        built.knobs.step = step
        shares[step] = built.knobs.mod_capacity
    assert shares == pytest.approx({1: 1.0, 10: 1.0, 20: 0.7, 30: 0.4, 31: 0.4, 500: 0.4})
    built.knobs.step = 20
    assert int(mask(built)[0].sum()) == math.ceil(0.7 * LENGTH)


def test_a_warm_up_without_annealing_ends_at_once() -> None:
    built = model(mod_capacity_factor=0.4, mod_warmup_steps=5)
    capacities = []
    for built.knobs.step in (1, 4, 5, 6):
        capacities.append(built.knobs.mod_capacity)
    assert capacities == [1.0, 1.0, 1.0, 0.4]


def test_the_annealed_share_is_a_figure_of_the_step() -> None:
    one = engine(mod_capacity_factor=0.5, mod_anneal_steps=4)
    seen = [one.train_step(step, [batch(step)], 1e-3).series for step in range(1, 6)]
    assert [s["mod.capacity_factor"] for s in seen] == pytest.approx([0.875, 0.75, 0.625, 0.5, 0.5])
    assert [s["mod.capacity_utilization"] for s in seen] == pytest.approx([1.0] * 5)
    savings = [s["mod.compute_savings"] for s in seen]
    assert savings == sorted(savings)


def test_the_temperature_softens_the_gate_and_not_the_choice() -> None:
    built = model(**DENSE)
    gates, chosen = [], []
    for temperature in (0.5, 1.0, 4.0):
        built.knobs.mod_routing_temperature = temperature
        stats = built(tokens(), tokens()).layers[0].mod
        gates.append(float(stats.gate))
        chosen.append(stats.mask_BT)
    assert abs(gates[0] - 1) > abs(gates[1] - 1) > abs(gates[2] - 1)
    assert torch.equal(chosen[0], chosen[2])


def test_the_predictor_learns_the_choice() -> None:
    one = engine(**DENSE, mod_capacity_factor=0.25)
    seen = [one.train_step(1 + step, [batch(step % 2)], 1e-2).series for step in range(100)]
    assert seen[0]["mod.predictor_agreement"] < 0.7
    assert seen[-1]["mod.predictor_agreement"] > 0.85, "three quarters would be had by never choosing"
    assert seen[-1]["mod.predictor_loss"] < seen[0]["mod.predictor_loss"]


def test_the_predictor_trains_nothing_else() -> None:
    built = model(**DENSE)
    output = built(tokens(), tokens())
    output.auxiliary.backward()
    moved = {name for name, p in built.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert moved == {"layers.0.mod.predictor", "layers.1.mod.predictor"}


def test_the_guard_opens_only_when_both_have_collapsed_and_closes_when_one_recovers() -> None:
    guard = CollapseGuard()
    assert guard.observe({0: 0.1, 1: 0.1, 2: 0.9}, {0: 0.1, 1: 0.9, 2: 0.1}) == {0}
    for _ in range(30):
        guard.observe({0: 0.1, 1: 0.1, 2: 0.9}, {0: 0.4, 1: 0.9, 2: 0.1})
    assert guard.opened == {0}, "between the two limits nothing changes"
    again = CollapseGuard()
    again.restore(guard.state())
    for _ in range(30):
        for each in (guard, again):
            each.observe({0: 0.9, 1: 0.1, 2: 0.9}, {0: 0.4, 1: 0.9, 2: 0.1})
        assert guard.state() == again.state()
    assert guard.opened == set()


def collapsed(guarded: bool) -> list[dict[str, float]]:
    """A run whose router is biased to one expert while the gates are nearly shut."""
    one = engine(
        router_init_bias=30.0,
        load_balancing_weight=0.0,
        mod_collapse_guard=guarded,
        moe_top_k=1,
        mod_capacity_factor=0.5,
    )
    with torch.no_grad():
        for layer in (0, 1):
            router_of(one.model, layer).score.fill_(0.0)
            router_of(one.model, layer).score[0] = -20.0
        one.model.embedding[:, 0] = 2.0  # channel 0 is positive for all tokens: every score is far below zero
    return [dict(one.train_step(step, [batch(step)], 1e-5).series) for step in range(1, 5)]


def test_a_layer_with_both_routers_collapsed_takes_every_token() -> None:
    free, guarded = collapsed(False), collapsed(True)
    assert free[0]["mod.gate"] < 0.3
    assert free[0]["moe.load_entropy"] < 0.3
    assert [s["mod.usage.layer0"] for s in free] == [0.5] * 4
    assert [s["mod.usage.layer0"] for s in guarded] == [0.5, 1.0, 1.0, 1.0]
    assert [s["mod.guarded_layers"] for s in guarded] == [0, 2, 2, 2]


def test_an_open_layer_has_a_gate_of_one_that_still_learns() -> None:
    built = model(num_layers=1)
    with torch.no_grad():
        router_of(built).score.mul_(5.0)
    built.knobs.opened = frozenset({0})
    seen: list[torch.Tensor] = []
    built.layers[0].register_forward_hook(lambda _, inputs, out: seen.append(out[0]))
    built(tokens(), tokens()).loss_sum.backward()
    grad = router_of(built).score.grad
    assert grad is not None
    assert bool(grad.any())
    with torch.no_grad():
        router_of(built).score.zero_()
    built.knobs.opened = frozenset()
    built.knobs.mod_capacity_factor = 1.0
    built(tokens(), tokens())
    torch.testing.assert_close(seen[0], seen[1])


def test_the_guard_is_part_of_the_state() -> None:
    one = engine(router_init_bias=30.0, load_balancing_weight=0.0, moe_top_k=1)
    one._guard.observe({0: 0.1}, {0: 0.1})
    one.model.knobs.opened = one._guard.opened
    saved = one.export_state()
    other = engine(router_init_bias=30.0, load_balancing_weight=0.0, moe_top_k=1)
    other.restore_state(saved)
    assert other.model.knobs.opened == {0}
    for each in (one, other):
        each.train_step(1, [batch()], 1e-3)
    assert state_hash(one.export_state()) == state_hash(other.export_state())
