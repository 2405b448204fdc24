"""For every available parameter: values that must not do the same, where to look, and what else must be set for it.

The table is data only; that it is whole and that it holds is the test's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import observations as see
from smallest import trained

DENSE: dict[str, Any] = {"use_moe": False, "use_mod": False}
EPOCHS = {"auto_epoch_scaling": True, "chinchilla_multiplier": 1.0, "max_auto_epochs": 50}
COLLAPSED = {"router_init_bias": 8.0, "load_balancing_weight": 0.0, "check_interval": 30}


class Case:
    """`values` of one parameter that `observe` must tell apart, each with the other parameters in `given`."""

    def __init__(self, observe: Callable[..., Any], *values: Any, **given: Any) -> None:
        self.observe, self.values, self.given = observe, values, given

    def seen(self, path: str, value: Any) -> Any:
        return self.observe(**{**self.given, path: value})


MODEL = {
    "model.hidden_size": Case(see.shapes, 32, 64),
    "model.num_layers": Case(see.shapes, 2, 3),
    "model.num_heads": Case(see.loss, 2, 4),
    "model.num_kv_heads": Case(see.shapes, 2, 4),
    "model.intermediate_size": Case(see.shapes, None, 24, 40),
    "model.max_position_embeddings": Case(see.longest, 64, 128),
    "model.vocab_size": Case(see.vocabulary, 280, 300),
    "model.rope_theta": Case(see.loss, 10000.0, 100.0, **DENSE),
    "model.rms_norm_eps": Case(see.loss, 1e-5, 0.1, **DENSE),
    "model.tie_word_embeddings": Case(see.shapes, False, True),
    "model.initializer_range": Case(see.weights, 0.02, 0.04),
    "moe.use_moe": Case(see.shapes, True, False),
    "moe.num_experts": Case(see.shapes, 4, 6),
    "moe.moe_top_k": Case(see.loss, 1, 2),
    "moe.capacity_factor": Case(see.dropped, 0.5, 1.0, None),
    "moe.load_balancing_weight": Case(see.auxiliary, 0.01, 0.1),
    "moe.routing_temperature": Case(see.loss, 1.0, 2.0),
    "moe.router_init_bias": Case(see.loss, None, 5.0, (0.0, 0.0, 5.0, 5.0)),
    "moe.expert_ramp_steps": Case(see.ramping, 2, 4),
    "moe.router_z_loss_weight": Case(see.auxiliary, 0.0, 0.1),
    "moe.num_shared_experts": Case(see.shapes, 0, 1, 2),
    "moe.expert_dropout": Case(see.loss, 0.0, 0.5, moe_top_k=1),
    "moe.bias_balancing": Case(see.choice_bias, False, True),
    "moe.bias_balancing_rate": Case(see.choice_bias, 0.001, 0.01, bias_balancing=True),
    "mod.use_mod": Case(see.skipping_layers, True, False),
    "mod.mod_capacity_factor": Case(see.mod_series("mod.usage.layer0"), 0.25, 0.5),
    "mod.mod_routing_type": Case(see.chosen_tokens, "learned", "static", "random"),
    "mod.mod_start_layer": Case(see.skipping_layers, 0, 1),
    "mod.mod_end_layer": Case(see.skipping_layers, None, 0),
    "mod.mod_every": Case(see.skipping_layers, 1, 2),
    "mod.mod_scope": Case(see.loss, "layer", "ffn"),
    "mod.mod_warmup_steps": Case(see.mod_series("mod.usage.layer0", 4), 0, 2),
    "mod.mod_anneal_steps": Case(see.mod_series("mod.usage.layer0", 4), 0, 3),
    "mod.mod_routing_temperature": Case(see.loss, 1.0, 3.0),
    "mod.mod_collapse_guard": Case(see.guarded, True, False),
}
TRAINING = {
    "training.seed": Case(see.weights, 0, 1),
    "training.num_epochs": Case(see.total_steps, 1, 2, auto_epoch_scaling=False),
    "training.max_steps": Case(see.total_steps, None, 7, 8),
    "training.sequence_length": Case(see.sequence_length, None, 24, 32),
    "training.batch_size": Case(lambda **c: trained(**c).values_of("tokens"), 2, 3),
    "training.gradient_accumulation_steps": Case(lambda **c: trained(**c).values_of("tokens"), 1, 2),
    "training.learning_rate": Case(see.learning_rates, 1e-3, 2e-3),
    "training.weight_decay": Case(see.updated, 0.0, 0.5),
    "training.gradient_clip_val": Case(see.first_moment, 0.1, 0.2),
    "training.warmup_steps": Case(see.learning_rates, 0, 5, 0.5),
    "training.lr_schedule": Case(see.learning_rates, "cosine", "linear", "constant"),
    "training.min_lr_ratio": Case(see.learning_rates, 0.1, 0.2),
    "training.adam_beta1": Case(see.updated, 0.9, 0.5),
    "training.adam_beta2": Case(see.updated, 0.95, 0.5),
    "training.adam_eps": Case(see.updated, 1e-8, 1e-2),
    "training.eval_interval": Case(lambda **c: trained(**c).steps_of("val_loss"), 2, 3),
    "training.eval_sequences": Case(lambda **c: trained(**c).values_of("val_loss"), 1, 4),
    "training.log_interval": Case(lambda **c: len(trained(**c).log), 2, 5),
    "training.log_level": Case(lambda **c: len(trained(**c).log), "INFO", "WARNING"),
    "training.num_threads": Case(lambda **c: trained(1, **c).threads, 1, 2),
    "precision.precision": Case(see.updated, "fp32", "mixed_bf16", "bf16", "fp16", "mixed_fp16"),
    "precision.inference_precision": Case(see.validation_loss, "fp32", "auto", "int8", precision="mixed_bf16"),
    "precision.master_precision": Case(see.updated, "auto", "fp32", precision="bf16"),
    "precision.quantization_aware_training": Case(see.training_loss, False, True),
    "precision.dynamic_loss_scaling": Case(see.loss_scales, True, False),
    "precision.init_scale": Case(see.loss_scales, 2.0**36, 2.0**30),
    "precision.scale_factor": Case(see.loss_scales, 2.0, 4.0),
    "precision.scale_window": Case(see.loss_scales, 2, 3, init_scale=2.0**10),
    "precision.min_scale": Case(see.loss_scales, 1.0, 2.0**34),
    "optimization.use_flash_attention": Case(
        see.attention_is_fused, "auto", False, max_position_embeddings=1200, num_layers=1, **DENSE
    ),
    "optimization.gradient_checkpointing": Case(see.times_computed, False, True),
    "optimization.compile": Case(see.compiled, False, True),
    "optimization.cuda_graphs": Case(see.compiled, False, True, compile=True, **DENSE),
}
DATA = {
    "data.training_mode": Case(see.sources, None, "hybrid_sequential", base_ratio=0.5),
    "data.base_ratio": Case(see.sources, 0.5, 0.7, None),
    "data.interleave_strategy": Case(see.sources, "ratio", "alternating", "random", base_ratio=0.5),
    "data.base_epochs": Case(see.phases, None, 1, 3),
    "data.finetuning_epochs": Case(see.phases, None, 1, 3),
    "data.phase_warmup_steps": Case(see.rewarmed, 0, 5),
    "data.packing": Case(see.batches, "pack", "pad"),
    "data.document_boundaries": Case(see.boundaries, True, False),
    "data.stride": Case(see.fact("train_sequences"), 0, 8, 16),
    "data.num_workers": Case(see.readers, 0, 1, 2),
    "data.curriculum_aggressiveness": Case(see.batches, 0.0, 0.5, 1.0),
    "data.difficulty_sampling": Case(see.gives_way, 0.0, 0.5, 1.0),
    "data.base_paths": Case(see.fact("train_documents"), (), "a.jsonl", "b.jsonl"),
    "data.finetuning_paths": Case(see.fact("train_documents"), (), "chat.jsonl"),
    "data.base_eval_paths": Case(see.fact("validation_documents"), (), "b.jsonl", base_paths="a.jsonl"),
    "data.finetuning_eval_paths": Case(see.fact("validation_documents"), (), "chat.jsonl", base_paths="a.jsonl"),
    "data.mask_user_tokens": Case(see.labels_without_loss, False, True),
    "data.tokenizer": Case(see.vocabulary, "bpe", "bytes", "tokenizer.json"),
    "data.validation_fraction": Case(see.fact("validation_documents"), 0.05, 0.2),
    "data.max_bad_fraction": Case(see.judgement, 0.05, 0.5, base_paths="broken.jsonl"),
    "data.format": Case(see.fact("train_documents"), "auto", "messages", "text", base_paths="mixed.jsonl"),
    "data.text_field": Case(see.fact("train_documents"), "text", "body", base_paths="mixed.jsonl"),
    "data.max_sample_bytes": Case(see.fact("train_documents"), 1 << 24, 200, base_paths="mixed.jsonl"),
    "data.quality_threshold": Case(see.fact("train_documents"), 0.85, 0.0, base_paths="mixed.jsonl"),
    "data.automatic_data_cleaning": Case(see.fact("train_tokens"), False, True, base_paths="mixed.jsonl"),
    "data.corpus_documents": Case(see.fact("train_documents"), 60, 70),
}
OVERSIGHT = {
    "orchestrator.use_adaptive_training": Case(see.proposed, True, False),
    "orchestrator.autonomy": Case(lambda **c: trained(30, **c).journal(), "observe", "ask", "auto", **COLLAPSED),
    "orchestrator.intervention_threshold": Case(see.proposed, 0.75, 0.95),
    "orchestrator.check_interval": Case(lambda **c: trained(**c).steps_of("chinchilla.progress"), 2, 3),
    "orchestrator.proposal_expiry_steps": Case(see.expiry, 200, 300),
    "orchestrator.autonomy_per_method": Case(
        see.courses, (), "add_expert=auto", "add_expert=observe", "adjust_routing_temperature=auto", autonomy="ask"
    ),
    "orchestrator.enable_emergency_recovery": Case(see.courses, True, False, autonomy="ask"),
    "orchestrator.enable_architecture_adaptation": Case(see.proposed_for_a_dead_expert, True, False),
    "orchestrator.intervention_cooldown": Case(see.asked_again, 2, 5),
    "orchestrator.intervention_budget": Case(see.courses, 2, 8, autonomy="auto"),
    "orchestrator.budget_window": Case(see.courses, 10, 1000, autonomy="auto", intervention_budget=2),
    "chinchilla.auto_epoch_scaling": Case(see.total_steps, True, False, num_epochs=1),
    "chinchilla.chinchilla_multiplier": Case(see.token_goal, 20.0, 30.0),
    "chinchilla.chinchilla_basis": Case(see.token_goal, "total", "active"),
    "chinchilla.min_auto_epochs": Case(see.total_steps, 1, 40, **EPOCHS),
    "chinchilla.max_auto_epochs": Case(see.total_steps, 2, 3, **{**EPOCHS, "chinchilla_multiplier": 20.0}),
    "chinchilla.enable_loss_landscape": Case(see.progress("landscape"), True, False),
    "chinchilla.enable_compute_efficiency": Case(see.progress("compute_efficiency"), True, False),
    "chinchilla.enable_early_stopping": Case(see.progress("ended"), True, False, early_stopping_patience=2),
    "chinchilla.adaptive_epochs": Case(see.proposed_for_the_course, False, True),
    "chinchilla.adaptive_curriculum": Case(see.proposed_for_the_course, False, True, difficulty_sampling=0.4),
    "checkpoint.early_stopping_patience": Case(see.progress("ended"), 2, 3, enable_early_stopping=True),
    "checkpoint.save_every_n_batches": Case(lambda **c: trained(**c).journal(), 2, 5),
    "checkpoint.save_total_limit": Case(lambda **c: trained(**c).checkpoints(), 1, 2, save_every_n_batches=2),
    "checkpoint.keep_epoch_checkpoints": Case(
        lambda **c: trained(40, **c).checkpoints(), False, True, batch_size=8, save_total_limit=1
    ),
}
TABLE: dict[str, Case] = {**MODEL, **TRAINING, **DATA, **OVERSIGHT}
