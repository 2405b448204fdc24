"""What `lumina presets` and `lumina plan` count by formula is what the built model holds and computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lumina.accounting import count_parameters, flops_per_token, memory_bytes, preset_table, token_budget
from lumina.config import Config, list_presets, load_config, load_preset
from lumina.model.transformer import Transformer

ADVERTISED = {
    "debug": 0.5e6,
    "debug_200m": 200e6,
    "b1": 1e9,
    "b7": 7e9,
    "b14": 14e9,
    "b30": 30e9,
    "b50": 50e9,
    "b100": 100e9,
    "b200": 200e9,
    "b300": 300e9,
}
TINY = {"hidden_size": 64, "intermediate_size": 48, "max_position_embeddings": 32, "vocab_size": 512}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": True},
    {"num_heads": 4, "num_kv_heads": 1},
    {"intermediate_size": None},
    {"use_moe": False},
    {"use_mod": False},
    {"use_moe": False, "use_mod": False},
    {"num_experts": 5, "moe_top_k": 3},
    {"router_init_bias": 4.0},
    {"mod_routing_type": "static"},
    {"num_layers": 5, "mod_start_layer": 1, "mod_every": 2},
    {"mod_scope": "ffn"},
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny products are many times slower on several threads of a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def built(config: Config) -> dict[str, torch.Tensor]:
    """The named parameters of the real model; on the meta device they have shapes and no memory."""
    with torch.device("meta"):
        return dict(Transformer(config, config.model.vocab_size).named_parameters())


def used_by_one_token(config: Config, parameters: dict[str, torch.Tensor]) -> int:
    """Counted from the built tensors: no embedding, no head, top-k of the stacked experts."""
    count = 0
    for name, tensor in parameters.items():
        if name in ("embedding", "head"):
            continue
        stacked = name.endswith((".moe.w_in", ".moe.w_out"))
        count += tensor.numel() // tensor.shape[0] * config.moe.moe_top_k if stacked else tensor.numel()
    return count


@pytest.mark.parametrize("name", list_presets())
def test_a_preset_counts_exactly_what_its_model_holds(name: str) -> None:
    config = load_preset(name)
    counts, parameters = count_parameters(config), built(config)
    assert counts.total == sum(tensor.numel() for tensor in parameters.values())
    assert counts.active == used_by_one_token(config, parameters)


@pytest.mark.parametrize("name", list_presets())
def test_a_preset_is_as_large_as_its_name_says(name: str) -> None:
    assert count_parameters(load_preset(name)).active == pytest.approx(ADVERTISED[name], rel=0.05)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_the_formula_follows_every_choice_that_shapes_the_model(changes: dict[str, Any]) -> None:
    config = load_config("debug", {**TINY, **changes})
    counts, parameters = count_parameters(config), built(config)
    assert counts.total == sum(tensor.numel() for tensor in parameters.values())
    assert counts.active == used_by_one_token(config, parameters)


def test_a_tokenizer_with_another_vocabulary_changes_embedding_and_head_only() -> None:
    config = load_config("debug", TINY)
    small, large = count_parameters(config, 300), count_parameters(config, 400)
    assert (large.embedding - small.embedding, large.head - small.head) == (100 * 64, 100 * 64)
    assert large.active == small.active


def test_training_memory_holds_weights_gradients_and_moments_of_every_parameter() -> None:
    config = load_config("debug", TINY)
    weights = sum(tensor.numel() for tensor in built(config).values())
    full, mixed = memory_bytes(config, "fp32"), memory_bytes(config, "mixed_bf16")
    assert (full.weights, full.gradients, full.optimizer) == (4 * weights, 4 * weights, 8 * weights)
    assert mixed.weights == 6 * weights, "fp32 masters and a bf16 copy"
    assert memory_bytes(config, batch=4).activations == pytest.approx(4 * memory_bytes(config, batch=1).activations)


@pytest.mark.parametrize("changes", [change for change in VARIANTS if "tie_word_embeddings" not in change], ids=str)
def test_flops_are_what_torch_counts_in_a_real_step(changes: dict[str, Any]) -> None:
    config = load_config("debug", {**TINY, "capacity_factor": None, **changes})
    torch.manual_seed(0)
    model = Transformer(config, config.model.vocab_size)
    model.reset()
    token_BT = torch.randint(0, config.model.vocab_size, (2, 32))
    with FlopCounterMode(display=False) as counter:
        output = model(token_BT, token_BT)
        (output.loss_sum / output.tokens + output.auxiliary).backward()
    # torch counts matrix products only, and a depth router's score is a product with a vector.
    uncounted = 3 * 2 * count_parameters(config).depth_router
    assert counter.get_total_flops() / token_BT.numel() == pytest.approx(flops_per_token(config).total - uncounted)


def test_the_budget_counts_total_parameters_unless_told_otherwise() -> None:
    total, active = (load_config("b1", {"chinchilla_basis": basis}) for basis in ("total", "active"))
    counts = count_parameters(total)
    by_total, by_active = token_budget(total, counts), token_budget(active, counts)
    assert load_preset("b1").chinchilla.chinchilla_basis == "total"
    assert by_total.tokens_optimal == 20 * counts.total
    assert by_active.tokens_optimal == 20 * counts.active
    assert by_total.tokens_optimal_other == by_active.tokens_optimal


def test_the_table_of_presets_shows_the_counted_figures_smallest_first() -> None:
    rows = preset_table()
    assert [row.name for row in rows] == list_presets() == list(ADVERTISED)
    for row in rows:
        counts = count_parameters(load_preset(row.name))
        assert (row.active, row.total) == (counts.active, counts.total)
        assert row.hardware
        assert row.memory_bytes > 16 * row.total
    assert (rows[1].experts, rows[1].top_k, rows[1].mod) == (0, 0, True), "debug_200m is dense with MoD"
