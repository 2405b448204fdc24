"""The names of the interventions, so that a configuration that names one can be checked with file and line.
`lumina.interventions` declares them; a test holds the two together."""

from __future__ import annotations

METHODS = (
    "add_expert",
    "adjust_batch_size",
    "adjust_capacity_factor",
    "adjust_difficulty_sampling",
    "adjust_gradient_clip",
    "adjust_learning_rate",
    "adjust_load_balancing_weight",
    "adjust_mod_capacity",
    "adjust_mod_schedule",
    "adjust_routing_temperature",
    "adjust_training_length",
    "adjust_weight_decay",
    "checkpoint",
    "early_stop",
    "emergency_lr_reduction",
    "enable_expert_dropout",
    "pause",
    "prune_expert",
    "rollback_steps",
    "set_autonomy",
    "skip_data_range",
    "undo",
)
