"""Values that cannot work together are refused, and so is every feature that does not exist yet."""

from __future__ import annotations

from typing import Any

import pytest

from lumina.config import ConfigError, load_config, parameters
from lumina.config.methods import METHODS
from lumina.interventions import ACTIONS


def refusal(overrides: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config("debug", overrides)
    return str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"num_heads": 3, "num_kv_heads": 3},
            "model.num_heads = 3 does not divide model.hidden_size = 128; use 1, 2, 4",
        ),
        ({"hidden_size": 126, "num_heads": 2}, "gives heads of odd width 63"),
        (
            {"num_heads": 4, "num_kv_heads": 3},
            "model.num_kv_heads = 3 does not divide model.num_heads = 4; use 1, 2, 4",
        ),
        ({"sequence_length": 257}, "training.sequence_length = 257 is above model.max_position_embeddings = 256"),
        ({"moe_top_k": 9}, "moe.moe_top_k = 9 is above moe.num_experts = 8"),
        ({"router_init_bias": [1.0, 2.0]}, "moe.router_init_bias has 2 numbers for moe.num_experts = 8"),
        ({"mod_start_layer": 2}, "mod.mod_start_layer = 2 is past the last of 2 layers (0 to 1)"),
        ({"mod_end_layer": 2}, "mod.mod_end_layer = 2 is past the last of 2 layers (0 to 1)"),
        ({"mod_start_layer": 1, "mod_end_layer": 0}, "mod.mod_end_layer = 0 is before mod.mod_start_layer = 1"),
        ({"warmup_steps": 1.5}, "training.warmup_steps = 1.5 is neither whole steps nor a fraction below 1"),
        ({"precision": "bf16", "inference_precision": "fp32"}, "fp32 needs other weights than those that"),
        ({"min_auto_epochs": 9, "max_auto_epochs": 8}, "chinchilla.min_auto_epochs = 9 is above"),
        ({"training_mode": "base_only", "finetuning_paths": "chat"}, "leaves out data.finetuning_paths"),
        ({"training_mode": "finetuning_only", "base_paths": "text"}, "leaves out data.base_paths"),
        ({"training_mode": "hybrid_sequential", "base_paths": "text"}, "data.finetuning_paths is empty"),
        ({"training_mode": "hybrid_interleaved", "finetuning_paths": "chat"}, "data.base_paths is empty"),
        ({"adaptive_curriculum": True}, "nothing to adapt while data.difficulty_sampling is 0; set"),
        (
            {"autonomy_per_method": ["adjust_batch_size=auto", "prune_experts=auto"]},
            "has 'prune_experts=auto', and there is no intervention 'prune_experts'; did you mean prune_expert?",
        ),
        ({"stride": 64, "sequence_length": 64}, "leaves nothing new in a sequence of 64 tokens"),
    ],
)
def test_values_that_cannot_work_together_are_refused(overrides: dict[str, Any], said: str) -> None:
    assert said in refusal(overrides)


def test_every_method_can_have_an_autonomy_of_its_own() -> None:
    assert set(METHODS) == {*ACTIONS, "undo"}


def test_rules_of_a_part_that_is_off_do_not_matter() -> None:
    assert load_config("debug", {"use_moe": False, "moe_top_k": 9}).moe_layers == ()
    assert load_config("debug", {"use_mod": False, "mod_start_layer": 7}).mod_layers == ()


def away_from_default(info: Any) -> list[Any]:
    """Values of a parameter that lie inside its limits and are not its default."""
    if info.choices:
        return [choice for choice in info.choices if choice != info.default]
    return [info.default + 1] if info.hard_range.get("le", 2) > 1 else [info.default / 2 + 0.25]


LATER = [info for info in parameters() if info.available is not True]


@pytest.mark.parametrize("info", LATER, ids=[info.path for info in LATER])
def test_a_feature_that_does_not_exist_yet_is_refused_by_name(info: Any) -> None:
    for value in away_from_default(info):
        value = min(value, 0.5) if info.hard_range.get("lt") == 1 else value
        if info.available is False or value not in info.available:
            assert f"{info.path} = " in refusal({info.path: value})
            assert "is not available yet; use " in refusal({info.path: value})
        else:
            load_config("debug", {info.path: value})


def test_the_parameters_of_this_version_are_available() -> None:
    refused = {info.path for info in parameters() if info.available is False}
    assert refused == {
        *("optimization." + name for name in ("use_deepspeed", "zero_stage", "cpu_offload")),
    }
