"""Every parameter exists under its published name, is described, and has a default that works."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from lumina.config import GROUPS, Config, ConfigError, list_presets, load_config, load_preset, parameters, warnings_of

PUBLISHED = {
    "model": "hidden_size num_layers num_heads num_kv_heads intermediate_size max_position_embeddings vocab_size",
    "moe": "use_moe num_experts moe_top_k capacity_factor load_balancing_weight routing_temperature",
    "mod": "use_mod mod_capacity_factor mod_routing_type mod_start_layer mod_end_layer",
    "training": "num_epochs batch_size gradient_accumulation_steps learning_rate weight_decay gradient_clip_val "
    "warmup_steps lr_schedule min_lr_ratio log_level log_interval",
    "precision": "precision inference_precision master_precision init_scale scale_factor scale_window min_scale",
    "optimization": "use_flash_attention gradient_checkpointing compile use_deepspeed zero_stage cpu_offload",
    "data": "training_mode base_paths finetuning_paths base_eval_paths finetuning_eval_paths base_ratio "
    "mask_user_tokens num_workers quality_threshold automatic_data_cleaning curriculum_aggressiveness stride",
    "orchestrator": "use_adaptive_training intervention_threshold check_interval enable_emergency_recovery "
    "enable_architecture_adaptation",
    "chinchilla": "auto_epoch_scaling chinchilla_multiplier min_auto_epochs max_auto_epochs enable_loss_landscape "
    "enable_compute_efficiency enable_early_stopping",
    "checkpoint": "save_every_n_batches save_total_limit keep_epoch_checkpoints early_stopping_patience",
}


@pytest.mark.parametrize("group", PUBLISHED)
def test_published_parameters_exist_under_their_names(group: str) -> None:
    assert set(PUBLISHED[group].split()) <= set(GROUPS[group].model_fields)


def test_every_parameter_is_described() -> None:
    assert [info.path for info in parameters() if len(info.help) < 10 or not info.help.endswith(".")] == []


def test_every_name_is_unique_so_that_it_can_stand_alone() -> None:
    names = [info.name for info in parameters()]
    assert len(names) == len(set(names))


def test_published_defaults() -> None:
    config = Config()
    assert config.chinchilla.chinchilla_multiplier == 20
    assert (config.chinchilla.min_auto_epochs, config.chinchilla.max_auto_epochs) == (1, 50)
    assert (config.orchestrator.intervention_threshold, config.orchestrator.check_interval) == (0.75, 100)
    assert (config.checkpoint.save_every_n_batches, config.checkpoint.save_total_limit) == (1000, 5)
    assert (config.training.log_interval, config.data.quality_threshold) == (50, 0.85)
    assert (config.precision.init_scale, config.precision.scale_factor) == (2.0**16, 2.0)
    assert (config.precision.scale_window, config.precision.min_scale) == (2000, 1.0)


def test_every_default_and_every_preset_works_without_a_warning() -> None:
    assert warnings_of(Config()) == []
    assert {name: warnings_of(load_preset(name)) for name in list_presets()} == {name: [] for name in list_presets()}


def test_outside_the_typical_range_only_warns() -> None:
    config = load_config("debug", ["learning_rate=0.01", "num_experts=2"])
    assert warnings_of(config) == [
        "moe.num_experts = 2 is outside its typical range, 4 to 64",
        "training.learning_rate = 0.01 is outside its typical range, 1e-5 to 0.001",
    ]


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_preset("debug").training.batch_size = 3  # type: ignore[misc]


def test_intermediate_size_follows_the_hidden_size() -> None:
    sizes = {
        hidden: load_config("debug", {"hidden_size": hidden, "intermediate_size": None}).model.ffn_size
        for hidden in (32, 768, 1024, 4096)
    }
    assert sizes == {32: 256, 768: 2048, 1024: 2816, 4096: 11008}


def test_mod_layers_follow_start_end_and_every() -> None:
    config = load_config("debug", {"num_layers": 8, "mod_start_layer": 1, "mod_end_layer": 6, "mod_every": 2})
    assert config.mod_layers == (1, 3, 5)
    assert load_config("debug", {"use_mod": False}).mod_layers == ()
    assert load_config("debug", {"num_layers": 3}).mod_layers == (0, 1, 2)


@pytest.mark.parametrize("info", [i for i in parameters() if i.hard_range], ids=lambda info: info.path)
def test_each_hard_limit_refuses(info) -> None:
    for kind, bound in info.hard_range.items():
        beyond = bound if kind in ("gt", "lt") else bound - 1 if kind == "ge" else bound + 1
        with pytest.raises(ConfigError, match=f"{info.path} = .* is out of range; it must be"):
            load_config("debug", {info.path: type(info.default)(beyond) if info.default is not None else int(beyond)})
