"""The figures of a step are what their formulas say, counted again from the layers' own records."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_models import LENGTH, VOCAB, batch, engine, tokens
from torch.utils.flop_counter import FlopCounterMode

from lumina.engine.statistics import POSITIONS
from lumina.engine.torch_engine import TorchEngine
from lumina.model import ModelOutput


def watched(one: TorchEngine) -> list[ModelOutput]:
    outputs: list[ModelOutput] = []
    one.model.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    return outputs


def test_every_layer_with_experts_has_its_figures_and_the_model_their_mean() -> None:
    one = engine(num_layers=3, capacity_factor=0.6, router_z_loss_weight=0.01)
    outputs = watched(one)
    series = one.train_step(1, [batch(1), batch(2)], 1e-3).series
    names = ["routing_entropy", "load_entropy", "load_balance_loss", "tokens_dropped", "drop_fraction"]
    names += ["expert_efficiency", "max_share", "router_z_loss"]
    for name in names:
        layers = [series[f"moe.{name}.layer{index}"] for index in range(3)]
        whole = sum(layers) if name == "tokens_dropped" else sum(layers) / 3
        assert series[f"moe.{name}"] == pytest.approx(whole)
    stats = [output.layers[1].moe for output in outputs]
    assert series["moe.tokens_dropped.layer1"] == sum(int(moe.dropped) for moe in stats) > 0
    share = np.mean([moe.share_E.numpy() for moe in stats], axis=0)
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum() / math.log(8)
    assert series["moe.load_entropy.layer1"] == pytest.approx(entropy, rel=1e-5)
    dropped = series["moe.tokens_dropped.layer1"] / sum(moe.assignments for moe in stats)
    assert series["moe.expert_efficiency.layer1"] == pytest.approx((1 - dropped) * entropy, rel=1e-5)
    balance = np.mean([float(moe.balance_loss.detach()) for moe in stats])
    assert series["moe.load_balance_loss.layer1"] == pytest.approx(balance, rel=1e-5)


def test_the_efficiency_of_an_expert_is_utilisation_times_quality() -> None:
    one = engine(use_mod=False, capacity_factor=0.8)
    outputs = watched(one)
    efficiency = one.train_step(1, [batch(1)], 1e-3).arrays["expert_efficiency"]
    moe = outputs[0].layers[0].moe
    assert moe is not None
    assert efficiency.shape == (2, 8)
    for expert in range(8):
        weights = moe.weight_M[(moe.expert_M == expert) & (moe.weight_M > 0)]
        assert len(weights) == int(moe.computed_E[expert])
        quality = 2 * float(weights.mean()) if len(weights) else 0.0
        utilisation = min(1.0, 8 * len(weights) / moe.assignments)
        assert efficiency[0, expert] == pytest.approx(utilisation * quality, rel=1e-4)


def test_the_load_of_the_experts_sums_to_one() -> None:
    arrays = engine(num_experts=6).train_step(1, [batch(1), batch(2)], 1e-3).arrays
    assert arrays["expert_load"].shape == (2, 6)
    assert arrays["expert_load"].sum(1).tolist() == pytest.approx([1, 1])
    assert arrays["expert_live"].tolist() == [[1] * 6] * 2


def test_skip_patterns_tell_which_tokens_skip_which_layers() -> None:
    one = engine(num_layers=4, mod_start_layer=1, mod_capacity_factor=0.3)
    outputs = watched(one)
    stats = one.train_step(1, [batch(1), batch(2)], 1e-3)
    mask = torch.stack([torch.stack([out.layers[i].mod.mask_BT for i in (1, 2, 3)]) for out in outputs])  # type: ignore[union-attr]
    depth = mask.sum(1).reshape(-1)
    histogram = stats.arrays["depth_histogram"]
    assert histogram.tolist() == pytest.approx([float((depth == n).float().mean()) for n in range(4)])
    assert histogram.sum() == pytest.approx(1)
    by_position = mask.float().mean((0, 2))  # [layers, T], and T is the number of buckets here
    assert LENGTH == POSITIONS
    np.testing.assert_allclose(stats.arrays["skip_pattern"], by_position.numpy(), atol=1e-6)
    share = math.ceil(0.3 * LENGTH) / LENGTH
    assert stats.arrays["depth"].tolist() == pytest.approx([1.0, share, share, share])
    assert stats.series["mod.average_depth"] == pytest.approx(1 + 3 * share) == 1 + float((histogram * range(4)).sum())
    assert stats.series["mod.tokens_processed"] == int(mask.sum())
    assert stats.series["mod.tokens_processed"] + stats.series["mod.tokens_skipped"] == mask.numel()


@pytest.mark.parametrize("changes", [{}, {"use_moe": False}, {"mod_scope": "ffn"}, {"mod_capacity_factor": 0.2}])
def test_the_saved_flops_are_those_that_torch_does_not_count(changes: dict[str, object]) -> None:
    def layers(**more: object) -> tuple[int, float]:
        one = engine(capacity_factor=None, **{**changes, **more})
        series = one.train_step(1, [batch(1)], 1e-9).series
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            one.model(tokens(), tokens())
        return counted.get_total_flops() - 2 * VOCAB * 32 * 4 * LENGTH, series.get("mod.compute_savings", 0.0)

    with_mod, said = layers()
    without, _ = layers(use_mod=False)
    routers = 2 * 2 * 2 * 32 * 4 * LENGTH  # products with a vector, which torch does not count
    assert said == pytest.approx(1 - (with_mod + routers) / without, rel=0.01)


def test_without_telemetry_a_step_is_the_same() -> None:
    one, other = engine(), engine()
    other.telemetry = False
    for step in range(1, 4):
        a, b = (each.train_step(step, [batch(step)], 1e-3) for each in (one, other))
        assert (a.loss, a.grad_norm, a.accuracy) == (b.loss, b.grad_norm, b.accuracy)
    assert not b.series
    assert not b.arrays
