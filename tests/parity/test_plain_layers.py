"""The routed layers compute what the plain ones do, forward and backward, and count exactly what they drop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_layers import plain_attention, plain_depth_layer, plain_moe
from torch import Tensor, nn

from lumina.config import Config, load_config
from lumina.model.moe import MoE
from lumina.model.transformer import Layer, Transformer

EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)


def model(**overrides: object) -> Transformer:
    """A small model in training, with weights large enough to route unevenly."""
    settings: dict[str, object] = {
        "model.hidden_size": 16,
        "model.intermediate_size": 12,
        "model.num_layers": 1,
        "model.num_heads": 4,
        "model.num_kv_heads": 2,
        "model.initializer_range": 0.3,
        "model.max_position_embeddings": 64,
    }
    config: Config = load_config("debug", {**settings, **overrides})
    torch.manual_seed(3)
    built = Transformer(config, 50)
    built.reset()
    return built.train()


def assert_same(mine: Tensor, plain: Tensor, parameters: dict[str, nn.Parameter], inputs: Tensor) -> None:
    """Outputs, and the gradients of a fixed projection of them, agree."""
    torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)
    direction = torch.randn(mine.shape, generator=torch.Generator().manual_seed(1))
    wanted = [inputs, *parameters.values()]
    ours = torch.autograd.grad((mine * direction).sum(), wanted, allow_unused=True)
    theirs = torch.autograd.grad((plain * direction).sum(), wanted, allow_unused=True)
    for name, a, b in zip(["input", *parameters], ours, theirs, strict=True):
        a, b = (torch.zeros(()) if grad is None else grad for grad in (a, b))
        assert float((a - b).norm()) <= 1e-5 * max(1.0, float(b.norm())), name


@EXAMPLES
@given(
    tokens=st.integers(1, 40),
    experts=st.integers(1, 9),
    top_k=st.integers(1, 4),
    factor=st.sampled_from([None, 0.3, 1.0, 1.25, 2.0]),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    shared=st.integers(0, 2),
    biased=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_routed_experts_are_the_plain_ones(
    tokens: int,
    experts: int,
    top_k: int,
    factor: float | None,
    temperature: float,
    shared: int,
    biased: bool,
    seed: int,
) -> None:
    top_k = min(top_k, experts)
    built = model(
        num_experts=experts,
        moe_top_k=top_k,
        capacity_factor=factor,
        num_shared_experts=shared,
        bias_balancing=biased,
        use_mod=False,
    )
    built.knobs.routing_temperature = temperature
    moe = built.layers[0].moe
    assert isinstance(moe, MoE)
    if moe.choice_bias_E is not None:
        moe.choice_bias_E.normal_(generator=torch.Generator().manual_seed(seed)).mul_(0.2)
    x = torch.randn(tokens, 16, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    y, stats = moe(x)
    plain = plain_moe(moe, x, capacity_factor=factor, temperature=temperature)
    assert int(stats.dropped) == plain.dropped
    assert (stats.share_E * stats.assignments).round().int().tolist() == plain.wanted
    torch.testing.assert_close(stats.balance_loss, plain.balance_loss, rtol=1e-5, atol=1e-6)
    assert_same(y, plain.y, dict(moe.named_parameters()), x)


@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
def test_capacity_drops_the_later_choices_and_tokens_first(top_k: int) -> None:
    built = model(num_experts=4, moe_top_k=top_k, capacity_factor=0.5, use_mod=False)
    moe = built.layers[0].moe
    assert isinstance(moe, MoE)
    x = torch.ones(8, 16)  # all tokens make the same choices
    y, stats = moe(x)
    capacity = top_k  # ceil(0.5 * top_k * 8 / 4)
    assert int(stats.dropped) == top_k * (8 - capacity)
    assert bool((y[:capacity] != 0).any(1).all())
    assert not y[capacity:].any()


def test_evaluation_drops_nothing() -> None:
    built = model(num_experts=4, capacity_factor=0.5, use_mod=False).eval()
    moe = built.layers[0].moe
    assert isinstance(moe, MoE)
    x = torch.ones(8, 16)
    y, stats = moe(x)
    assert int(stats.dropped) == 0
    torch.testing.assert_close(y, plain_moe(moe, x, capacity_factor=None).y)


@EXAMPLES
@given(
    tokens=st.integers(1, 24),
    sequences=st.integers(1, 3),
    capacity=st.sampled_from([0.25, 0.5, 0.9, 1.0]),
    use_moe=st.booleans(),
    scope=st.sampled_from(["layer", "ffn"]),
    factor=st.sampled_from([None, 0.5, 1.25]),
    seed=st.integers(0, 1000),
)
def test_a_layer_that_tokens_skip_is_the_plain_one(
    tokens: int, sequences: int, capacity: float, use_moe: bool, scope: str, factor: float | None, seed: int
) -> None:
    built = model(use_moe=use_moe, capacity_factor=factor, mod_capacity_factor=capacity, mod_scope=scope)
    layer = built.layers[0]
    assert isinstance(layer, Layer)
    x = torch.randn(sequences, tokens, 16, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    mine, stats = layer(x)
    assert stats.mod is not None
    assert int(stats.mod.chosen) == sequences * -int(-capacity * tokens // 1)
    if scope == "ffn":
        attended = x + plain_attention(layer, x, torch.ones(sequences, tokens, dtype=torch.bool))
        plain = plain_depth_layer(layer, attended, capacity=capacity, capacity_factor=factor)
    else:
        plain = plain_depth_layer(layer, x, capacity=capacity, capacity_factor=factor)
    assert_same(mine, plain, dict(layer.named_parameters()), x)


def test_depth_at_full_capacity_and_a_gate_of_one_is_no_depth() -> None:
    with_mod, without = model(mod_capacity_factor=1.0), model(use_mod=False)
    router = with_mod.layers[0].mod
    assert router is not None
    with torch.no_grad():
        router.score.zero_()  # 2 * sigmoid(0) = 1
    without.load_state_dict({k: v for k, v in with_mod.state_dict().items() if ".mod." not in k})
    token = torch.randint(0, 50, (2, 20), generator=torch.Generator().manual_seed(0))
    a, b = with_mod(token, token), without(token, token)
    assert a.loss_sum.item() == pytest.approx(b.loss_sum.item(), rel=1e-6)
    a.loss_sum.backward()
    b.loss_sum.backward()
    for name, parameter in without.named_parameters():
        theirs, ours = parameter.grad, with_mod.get_parameter(name).grad
        assert theirs is not None
        assert ours is not None
        assert float((ours - theirs).norm()) <= 1e-5 * max(1e-3, float(theirs.norm())), name
