"""The rules between parameters: what each value alone allows but together cannot work.
Knows nothing of where the values came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lumina.config.methods import METHODS
from lumina.config.parameters import show
from lumina.config.problems import did_you_mean
from lumina.config.schema import Config

Broken = tuple[str, str] | None  # what is wrong, and a hint


@dataclass(frozen=True)
class Rule:
    """A rule between parameters: `broken` returns (message, hint) or None; the first path names the problem."""

    paths: tuple[str, ...]
    broken: Callable[[Config], Broken]


RULES: list[Rule] = []


def rule(*paths: str) -> Callable[[Callable[[Config], Broken]], Callable[[Config], Broken]]:
    """Register a rule between the parameters at `paths`."""

    def register(broken: Callable[[Config], Broken]) -> Callable[[Config], Broken]:
        RULES.append(Rule(paths, broken))
        return broken

    return register


def _divisors(number: int) -> str:
    found = [str(n) for n in range(1, number + 1) if number % n == 0]
    return ", ".join(found[:8]) + (" ..." if len(found) > 8 else "")


@rule("model.num_heads", "model.hidden_size")
def _heads_divide_hidden(config: Config) -> Broken:
    heads, hidden = config.model.num_heads, config.model.hidden_size
    if hidden % heads == 0:
        return None
    return (
        f"model.num_heads = {heads} does not divide model.hidden_size = {hidden}",
        f"use {_divisors(hidden)}",
    )


@rule("model.hidden_size", "model.num_heads")
def _head_dim_is_even(config: Config) -> Broken:
    heads, hidden = config.model.num_heads, config.model.hidden_size
    if hidden % heads or hidden // heads % 2 == 0:
        return None
    return (
        f"model.hidden_size = {hidden} over model.num_heads = {heads} gives heads of odd width {hidden // heads}",
        "rotary positions need an even one",
    )


@rule("model.num_kv_heads", "model.num_heads")
def _kv_heads_divide_heads(config: Config) -> Broken:
    kv, heads = config.model.num_kv_heads, config.model.num_heads
    if heads % kv == 0:
        return None
    return f"model.num_kv_heads = {kv} does not divide model.num_heads = {heads}", f"use {_divisors(heads)}"


@rule("training.sequence_length", "model.max_position_embeddings")
def _sequence_fits(config: Config) -> Broken:
    length, longest = config.sequence_length, config.model.max_position_embeddings
    if length <= longest:
        return None
    return f"training.sequence_length = {length} is above model.max_position_embeddings = {longest}", ""


@rule("moe.moe_top_k", "moe.num_experts", "moe.use_moe")
def _top_k_fits(config: Config) -> Broken:
    top_k, experts = config.moe.moe_top_k, config.moe.num_experts
    if not config.moe.use_moe or top_k <= experts:
        return None
    return f"moe.moe_top_k = {top_k} is above moe.num_experts = {experts}", ""


@rule("moe.router_init_bias", "moe.num_experts", "moe.use_moe")
def _biases_fit(config: Config) -> Broken:
    biases, experts = config.moe.router_init_bias, config.moe.num_experts
    if not config.moe.use_moe or not isinstance(biases, tuple) or len(biases) == experts:
        return None
    return f"moe.router_init_bias has {len(biases)} numbers for moe.num_experts = {experts}", "give one per expert"


@rule("mod.mod_start_layer", "model.num_layers", "mod.use_mod")
def _mod_starts_inside(config: Config) -> Broken:
    start, layers = config.mod.mod_start_layer, config.model.num_layers
    if not config.mod.use_mod or start < layers:
        return None
    return f"mod.mod_start_layer = {start} is past the last of {layers} layers (0 to {layers - 1})", ""


@rule("mod.mod_end_layer", "model.num_layers", "mod.use_mod")
def _mod_ends_inside(config: Config) -> Broken:
    end, layers = config.mod.mod_end_layer, config.model.num_layers
    if not config.mod.use_mod or end is None or end < layers:
        return None
    return f"mod.mod_end_layer = {end} is past the last of {layers} layers (0 to {layers - 1})", ""


@rule("mod.mod_end_layer", "mod.mod_start_layer", "mod.use_mod")
def _mod_starts_before_it_ends(config: Config) -> Broken:
    start, end = config.mod.mod_start_layer, config.mod.mod_end_layer
    if not config.mod.use_mod or end is None or start <= end:
        return None
    return f"mod.mod_end_layer = {end} is before mod.mod_start_layer = {start}", ""


@rule("training.warmup_steps", "training.max_steps")
def _warmup_is_steps_or_fraction(config: Config) -> Broken:
    warmup = config.training.warmup_steps
    if isinstance(warmup, float) and warmup >= 1 and warmup != int(warmup):
        return f"training.warmup_steps = {show(warmup)} is neither whole steps nor a fraction below 1", ""
    return None


@rule("precision.inference_precision", "precision.precision")
def _inference_is_no_finer_than_the_weights(config: Config) -> Broken:
    training, wanted = config.precision.precision, config.precision.inference_precision
    if training not in ("bf16", "fp16") or wanted in ("auto", "int8", training):
        return None
    return (
        f"precision.inference_precision = {wanted} needs other weights than those that precision.precision = "
        f"{training} holds",
        f"use auto, or train in mixed_{training}",
    )


@rule("precision.master_precision", "precision.precision")
def _the_optimizer_can_update_its_weights(config: Config) -> Broken:
    master, training = config.precision.master_precision, config.precision.precision
    if master == "fp16":
        return "precision.master_precision = fp16 loses AdamW's second moment, the squared gradient", "use auto"
    if master == "bf16" and training != "bf16":
        return f"precision.master_precision = bf16 needs precision.precision = bf16, not {training}", "use auto"
    return None


@rule("precision.quantization_aware_training", "precision.precision")
def _products_are_rounded_one_way(config: Config) -> Broken:
    if not config.precision.quantization_aware_training or config.precision.precision != "fp8_e4m3":
        return None
    return "precision.quantization_aware_training rounds weights that precision.precision = fp8_e4m3 rounds already", ""


@rule("precision.precision", "model.hidden_size", "model.intermediate_size")
def _float8_products_fit_their_units(config: Config) -> Broken:
    model = config.model
    widths = {"model.hidden_size": model.hidden_size, "model.intermediate_size": model.ffn_size,
              "head width times model.num_kv_heads": model.head_dim * model.num_kv_heads}  # fmt: skip
    odd = [f"{name} = {width}" for name, width in widths.items() if width % 16]
    if "fp8_e4m3" not in (config.precision.precision, config.precision.inference_precision) or not odd:
        return None
    return f"precision fp8_e4m3 multiplies in blocks of 16, and {odd[0]} is no multiple of it", ""


@rule("optimization.cuda_graphs", "optimization.compile", "optimization.gradient_checkpointing")
def _graphs_are_of_compiled_layers(config: Config) -> Broken:
    optimization = config.optimization
    if not optimization.cuda_graphs:
        return None
    if not optimization.compile:
        return "optimization.cuda_graphs records what optimization.compile = true compiles", ""
    if optimization.gradient_checkpointing:
        return "optimization.cuda_graphs cannot record what optimization.gradient_checkpointing computes again", ""
    return None


@rule("optimization.cuda_graphs", "data.document_boundaries", "data.packing")
def _graphs_have_something_to_record(config: Config) -> Broken:
    alike = set(range(config.model.num_layers)) - set(config.mod_layers)
    if not config.optimization.cuda_graphs or (alike and (not config.has_documents or alike - set(config.moe_layers))):
        return None
    what = "optimization.cuda_graphs finds no layer whose shapes stay"
    if not alike:
        return what, "each has MoD"
    return what, "use data.document_boundaries = false and data.packing = pack, or layers without experts"


@rule("orchestrator.autonomy_per_method")
def _methods_exist(config: Config) -> Broken:
    for pair in config.orchestrator.autonomy_per_method:
        method = pair.split("=", 1)[0]
        if method not in METHODS:
            what = f"orchestrator.autonomy_per_method has {pair!r}, and there is no intervention {method!r}"
            return what, did_you_mean(method, METHODS) or f"use {', '.join(METHODS)}"
    return None


@rule("chinchilla.adaptive_curriculum", "data.difficulty_sampling")
def _curriculum_has_something_to_adapt(config: Config) -> Broken:
    if not config.chinchilla.adaptive_curriculum or config.data.difficulty_sampling:
        return None
    return (
        "chinchilla.adaptive_curriculum has nothing to adapt while data.difficulty_sampling is 0",
        "set data.difficulty_sampling to what the run may come to, such as 0.3",
    )


@rule("chinchilla.min_auto_epochs", "chinchilla.max_auto_epochs")
def _epochs_in_order(config: Config) -> Broken:
    low, high = config.chinchilla.min_auto_epochs, config.chinchilla.max_auto_epochs
    if low <= high:
        return None
    return f"chinchilla.min_auto_epochs = {low} is above chinchilla.max_auto_epochs = {high}", ""


@rule("data.training_mode", "data.base_paths", "data.finetuning_paths")
def _hybrid_has_both_kinds(config: Config) -> Broken:
    mode, data = config.data.training_mode, config.data
    if mode not in ("hybrid_sequential", "hybrid_interleaved") or bool(data.base_paths) == bool(data.finetuning_paths):
        return None
    missing = "finetuning_paths" if data.base_paths else "base_paths"
    return (
        f"data.training_mode = {mode} needs base texts and conversations, and data.{missing} is empty",
        f"set data.{missing}, or leave the mode out",
    )


@rule("data.stride", "training.sequence_length", "model.max_position_embeddings")
def _stride_advances(config: Config) -> Broken:
    stride, length = config.data.stride, config.sequence_length
    if stride < length:
        return None
    return f"data.stride = {stride} leaves nothing new in a sequence of {length} tokens", f"use 0 to {length - 1}"


@rule("data.training_mode", "data.base_paths", "data.finetuning_paths")
def _mode_uses_all_paths(config: Config) -> Broken:
    mode, data = config.data.training_mode, config.data
    unused = {"base_only": ("finetuning", data.finetuning_paths), "finetuning_only": ("base", data.base_paths)}
    kind, paths = unused.get(mode or "", ("", ()))
    if not paths:
        return None
    return (
        f"data.training_mode = {mode} leaves out data.{kind}_paths, which is set",
        f"leave the mode out, or remove data.{kind}_paths",
    )
