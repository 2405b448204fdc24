"""Each number format keeps and computes what it says, and float16 gradients are scaled so that they do not vanish."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lumina.checkpoint import state_hash
from lumina.config import load_config
from lumina.config.schema import PrecisionConfig
from lumina.engine.api import MicroBatch
from lumina.engine.numerics import LossScaler
from lumina.engine.torch_engine import TorchEngine
from lumina.hardware import Hardware, choose_inference_precision, choose_precision
from lumina.model.products import rounded_to_int8

VOCAB = 120
CPU = Hardware("cpu", "Example CPU", None, True, 2, 2**34)
GPU = Hardware("cuda", "Example GPU", (9, 0), False, 2, 2**34)
FORMATS = {
    name: choose_precision(name, GPU) for name in ("fp32", "fp16", "bf16", "mixed_bf16", "mixed_fp16", "fp8_e4m3")
}
FORMATS["bf16 over fp32"] = choose_precision("bf16", GPU, "fp32")
SCALED = {"fp16", "mixed_fp16"}


def engine(name: str, **overrides: object) -> TorchEngine:
    size = {"model.hidden_size": 32, "model.intermediate_size": 48, "num_shared_experts": 1}
    return TorchEngine(load_config("debug", {**size, **overrides}), VOCAB, CPU, FORMATS[name])


def batch(seed: int) -> MicroBatch:
    tokens = np.random.default_rng(seed).integers(0, VOCAB, (2, 33))
    return MicroBatch(tokens[:, :-1], tokens[:, 1:])


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_learns_as_float32_does(name: str) -> None:
    losses = {}
    for each in ("fp32", name):
        one = engine(each)
        losses[each] = [one.train_step(step, [batch(0)], 3e-3).loss for step in range(1, 31)]
    assert losses[name][-1] < 0.8 * losses[name][0]
    # Weights kept in bfloat16 lose the small updates.
    assert losses[name][-1] == pytest.approx(losses["fp32"][-1], rel=0.15 if name == "bf16" else 0.05)
    assert name == "fp32" or losses[name] != losses["fp32"]


@pytest.mark.parametrize(
    ("name", "held", "updated"),
    [
        ("bf16", torch.bfloat16, torch.bfloat16),
        ("bf16 over fp32", torch.bfloat16, torch.float32),
        ("fp16", torch.float16, torch.float32),
        ("mixed_bf16", torch.float32, torch.float32),
    ],
)
def test_weights_and_moments_are_kept_in_the_format(name: str, held: torch.dtype, updated: torch.dtype) -> None:
    one = engine(name)
    one.train_step(1, [batch(1)], 1e-3)
    assert {p.dtype for p in one.model.parameters()} == {held}
    assert {weight.dtype for weight in one.weights.by_name.values()} == {updated}
    assert {state["exp_avg"].dtype for state in one.optimizer.state.values()} == {updated}
    assert all(torch.equal(p, one.weights.by_name[name].to(held)) for name, p in one.model.named_parameters())
    assert {b.dtype for _, b in one.model.named_buffers() if b.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("name", FORMATS)
def test_products_are_computed_in_the_format_and_routing_in_float32(name: str) -> None:
    one = engine(name)
    seen: dict[str, torch.dtype] = {}
    layer = one.model.layers[0]
    layer.attention.q_proj.register_forward_hook(lambda *args: seen.update(products=args[2].dtype))
    layer.moe.register_forward_hook(lambda *args: seen.update(routing=args[2][1].probability_E.dtype))
    one.train_step(1, [batch(1)], 1e-3)
    assert seen == {"products": getattr(torch, FORMATS[name].compute_dtype), "routing": torch.float32}


@pytest.mark.parametrize("name", FORMATS)
def test_a_restored_run_continues_bit_equal(name: str) -> None:
    one, other = engine(name), engine(name)
    for step in range(1, 4):
        one.train_step(step, [batch(step)], 1e-3)
    state = one.export_state()
    assert {t.dtype for table in (state.params, state.exp_avg) for t in table.values()} == {torch.float32}
    other.restore_state(state)
    for each in (one, other):
        each.train_step(4, [batch(4)], 1e-3)
    assert state_hash(one.export_state()) == state_hash(other.export_state())
    assert one.export_state().meta == other.export_state().meta


def test_scaling_does_not_change_the_gradient() -> None:
    norms = [engine("mixed_fp16").train_step(1, [batch(1)], 1e-3).grad_norm]
    norms.append(engine("fp32").train_step(1, [batch(1)], 1e-3).grad_norm)
    assert norms[0] == pytest.approx(norms[1], rel=0.02)


def test_an_overflow_skips_the_step_and_lowers_the_scale() -> None:
    one = engine("mixed_fp16")
    scaler = one._scaler
    assert scaler is not None
    scaler.scale = 2.0**40
    before = {name: p.detach().clone() for name, p in one.model.named_parameters()}
    stats = one.train_step(1, [batch(1)], 1e-3)
    assert stats.skipped
    assert not math.isfinite(stats.grad_norm)
    assert stats.series["precision.loss_scale"] == 2.0**40
    assert scaler.scale == 2.0**39
    assert all(torch.equal(before[name], p) for name, p in one.model.named_parameters())
    for step in range(2, 40):
        stats = one.train_step(step, [batch(step)], 1e-3)
    assert not stats.skipped


def test_the_scale_follows_its_four_parameters() -> None:
    scaler = LossScaler(
        PrecisionConfig.model_construct(init_scale=64.0, scale_factor=4.0, scale_window=3, min_scale=2.0)
    )
    seen = []
    for overflow in (False, False, False, True, False, False, True, True, True, False, False, False):
        scaler.update(overflow)
        seen.append(scaler.scale)
    assert seen == [64, 64, 256, 64, 64, 64, 16, 4, 2, 2, 2, 8]


def test_only_formats_that_need_it_are_scaled() -> None:
    assert {name for name in FORMATS if engine(name)._scaler is not None} == SCALED


def test_a_static_scale_stays() -> None:
    one = engine("mixed_fp16", dynamic_loss_scaling=False, init_scale=2.0**40)
    stats = [one.train_step(step, [batch(step)], 1e-3) for step in (1, 2)]
    assert [step.skipped for step in stats] == [True, True]
    assert {step.series["precision.loss_scale"] for step in stats} == {2.0**40}


def test_copies_in_float32_keep_updates_that_bfloat16_weights_lose() -> None:
    moved = {}
    for name in ("bf16", "bf16 over fp32"):
        one = engine(name, weight_decay=0.0)
        before = one.export_state().params
        for step in range(1, 4):
            one.train_step(step, [batch(step)], 1e-6)
        after = one.export_state().params
        moved[name] = sum(int((after[key] != before[key]).sum()) for key in before)
    assert moved["bf16 over fp32"] > 10 * moved["bf16"]


@pytest.mark.parametrize("wanted", ["fp32", "fp16", "bf16", "mixed_fp16", "mixed_bf16", "int8", "fp8_e4m3"])
def test_validation_computes_in_its_own_format_and_leaves_the_weights_alone(wanted: str) -> None:
    one = engine("fp32")
    one._inference = choose_inference_precision(wanted, one.precision, GPU)
    one.rebuild(one.export_state())
    before, exact = state_hash(one.export_state()), engine("fp32").eval_step(batch(1))
    found = one.eval_step(batch(1))
    assert found.loss_sum == pytest.approx(exact.loss_sum, rel=0.02)
    assert (found.loss_sum == exact.loss_sum) == (wanted == "fp32")
    assert state_hash(one.export_state()) == before
    assert one.train_step(1, [batch(1)], 1e-3).loss == engine("fp32").train_step(1, [batch(1)], 1e-3).loss


def test_training_in_float8_can_be_validated_in_float32() -> None:
    one = engine("fp8_e4m3")
    coarse = one.eval_step(batch(1)).loss_sum
    one._inference = FORMATS["fp32"]
    one.rebuild(one.export_state())
    assert one.eval_step(batch(1)).loss_sum == engine("fp32").eval_step(batch(1)).loss_sum
    assert coarse != engine("mixed_bf16").eval_step(batch(1)).loss_sum


def test_quantization_aware_training_computes_with_the_weights_of_an_int8_validation() -> None:
    aware, plain, rounded = (engine("fp32", quantization_aware_training=aware, inference_precision=inference)
                             for aware, inference in ((True, "auto"), (False, "auto"), (False, "int8")))  # fmt: skip
    seen = aware.eval_step(batch(1)).loss_sum
    assert seen == pytest.approx(rounded.eval_step(batch(1)).loss_sum, rel=1e-6)
    assert seen != pytest.approx(plain.eval_step(batch(1)).loss_sum, rel=1e-6)
    losses = [aware.train_step(step, [batch(0)], 3e-3).loss for step in range(1, 31)]
    assert losses[-1] < 0.8 * losses[0]  # the gradient passes the rounding


def test_rounded_weights_have_255_values_for_each_output() -> None:
    weight = torch.randn(3, 5, 4000, generator=torch.Generator().manual_seed(1)).mul(10)
    rounded = rounded_to_int8(weight)
    assert max(len(row.unique()) for row in rounded.flatten(0, 1)) <= 255
    step = weight.abs().amax(-1, keepdim=True) / 127
    assert ((weight - rounded).abs() <= 0.5001 * step).all()
