"""The FLOPs by formula are those that torch counts while the real model runs, forward and backward apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lumina.accounting import flops_per_token
from lumina.config import load_config
from lumina.model.transformer import Transformer

LENGTH, SEQUENCES, VOCAB = 320, 2, 300  # three blocks of queries, and one or two under MoD
SIZE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "max_position_embeddings": LENGTH,
    "capacity_factor": None,
}
DENSE, MOE = {"use_moe": False, "use_mod": False}, {"use_mod": False}
MOD, BOTH = {"use_moe": False, "mod_capacity_factor": 0.4}, {"mod_capacity_factor": 0.4}
FAMILIES: dict[str, dict[str, Any]] = {
    "dense": DENSE,
    "dense, tied": {**DENSE, "tie_word_embeddings": True},
    "dense, recomputed": {**DENSE, "gradient_checkpointing": True},
    "moe": MOE,
    "moe, top-4 of 16": {**MOE, "num_experts": 16, "moe_top_k": 4},
    "moe, with shared experts": {**MOE, "num_shared_experts": 2, "gradient_checkpointing": True},
    "moe, recomputed": {**MOE, "gradient_checkpointing": True},
    "mod": MOD,
    "mod, static": {**MOD, "mod_routing_type": "static"},
    "mod, feed-forward only": {**MOD, "mod_scope": "ffn"},
    "mod, one layer": {**MOD, "mod_start_layer": 1, "mod_end_layer": 1},
    "both": BOTH,
    "both, feed-forward only": {**BOTH, "mod_scope": "ffn"},
    "both, recomputed": {**BOTH, "gradient_checkpointing": True},
}


def matrix_vector(matrix: torch.Size, vector: torch.Size, *_: object, **__: object) -> int:
    """A depth router's score; torch's own counter knows products of matrices only."""
    return 2 * math.prod(matrix)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_formula_is_what_runs(name: str) -> None:
    config = load_config("debug", {**SIZE, **FAMILIES[name]})
    torch.manual_seed(0)
    model = Transformer(config, VOCAB)
    model.reset()
    model.train()
    token = torch.randint(0, VOCAB, (SEQUENCES, LENGTH))
    known = {torch.ops.aten.mv: matrix_vector}
    with FlopCounterMode(display=False, custom_mapping=known) as forward:
        output = model(token, token)
    with FlopCounterMode(display=False, custom_mapping=known) as backward:
        (output.loss_sum + output.auxiliary).backward()
    formula = flops_per_token(config, LENGTH, VOCAB)
    # The head's backward products are made in the forward pass, chunk by chunk, while the logits are there.
    head_ahead = 2.0 * formula.head
    counted = [mode.get_total_flops() / token.numel() for mode in (forward, backward)]
    assert counted[0] - head_ahead == pytest.approx(formula.forward, rel=0.01)
    assert counted[1] + head_ahead == pytest.approx(formula.backward, rel=0.01)
    assert sum(counted) == pytest.approx(formula.total, rel=0.01)
    assert formula.useful == pytest.approx(3.0 * formula.forward), "each product of the forward pass has two gradients"


def test_evaluation_makes_no_gradient() -> None:
    config = load_config("debug", {**SIZE, **DENSE})
    model = Transformer(config, VOCAB)
    model.reset()
    token = torch.randint(0, VOCAB, (SEQUENCES, LENGTH))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(token, token)
    assert counter.get_total_flops() / token.numel() == pytest.approx(flops_per_token(config, LENGTH, VOCAB).forward)
