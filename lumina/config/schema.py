"""Every parameter of a run: one frozen model per group, with its default, hard limits, typical range and availability.
Knows nothing of files, presets or of what the parameters do to a model."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


def param(
    default: Any,
    description: str,
    *,
    typical: tuple[float, float] | None = None,
    available: bool | tuple[Any, ...] = True,
    **limits: Any,
) -> Any:
    """Declare one parameter.

    `limits` (ge, gt, le, lt) refuse what cannot work. `typical` is the range that is usual: outside it only warns.
    `available` is False while the feature does not exist yet (the default is then the only value that is taken), or
    the tuple of the values that exist so far.
    """
    extra: dict[str, Any] = {"typical": typical, "available": available, "limits": limits}
    return Field(default, description=description, json_schema_extra=extra, **limits)


def _as_tuple(value: Any) -> Any:
    """A YAML list, a single value or None become the tuple that a frozen model keeps."""
    if value is None:
        return ()
    if isinstance(value, (str, PathLike)):
        return (fspath(value),)
    if isinstance(value, (list, tuple)):
        return tuple(fspath(item) if isinstance(item, PathLike) else item for item in value)
    return value


def _list_as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _path_as_text(value: Any) -> Any:
    return fspath(value) if isinstance(value, PathLike) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
Biases = Annotated[float | tuple[float, ...] | None, BeforeValidator(_list_as_tuple)]
Autonomy = Literal["observe", "ask", "auto"]
MethodAutonomy = Annotated[str, StringConstraints(pattern=r"^[a-z_]+=(observe|ask|auto)$")]
Autonomies = Annotated[tuple[MethodAutonomy, ...], BeforeValidator(_as_tuple)]
PathText = Annotated[str, BeforeValidator(_path_as_text)]
PrecisionName = Literal["auto", "fp32", "fp16", "bf16", "mixed_fp16", "mixed_bf16", "fp8_e4m3"]
InferenceName = Literal["auto", "fp32", "fp16", "bf16", "mixed_fp16", "mixed_bf16", "fp8_e4m3", "int8"]


class Group(BaseModel):
    """Base of the groups: frozen, unknown keys refused, numbers finite; strict: no ``"4"`` for 4, no ``true`` for 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelConfig(Group):
    """The dense part of the transformer."""

    hidden_size: int = param(128, "Width of the embedding and of the residual stream.", ge=2, typical=(128, 20480))
    num_layers: int = param(2, "Number of transformer layers.", ge=1, typical=(2, 120))
    num_heads: int = param(2, "Number of attention heads; must divide hidden_size.", ge=1, typical=(2, 160))
    num_kv_heads: int = param(
        2, "Number of key and value heads (grouped-query attention); must divide num_heads.", ge=1, typical=(2, 40)
    )
    intermediate_size: int | None = param(
        None,
        "Inner width of the SwiGLU feed-forward (of each expert); null is 8/3 hidden_size to the nearest 256.",
        ge=1,
    )
    max_position_embeddings: int = param(
        256, "Longest sequence that the model can take, in tokens.", ge=2, typical=(128, 32768)
    )
    vocab_size: int = param(
        4096,
        "Tokens in the vocabulary: what the tokenizer is trained to, usually 32,000-100,000 for large corpora. "
        "A smaller corpus may yield fewer; a given tokenizer brings its own.",
        ge=2,
        typical=(256, 100000),
    )
    rope_theta: float = param(
        10000.0, "Base of the rotary position frequencies; 1,000,000 for long contexts.", gt=0, typical=(10000, 1000000)
    )
    rms_norm_eps: float = param(1e-5, "Added to the mean square inside RMSNorm.", gt=0, typical=(1e-8, 1e-4))
    tie_word_embeddings: bool = param(False, "Use the embedding matrix as the output matrix, too.")
    initializer_range: float = param(0.02, "Standard deviation of the initial weights.", gt=0, typical=(0.001, 0.1))

    @property
    def ffn_size(self) -> int:
        """`intermediate_size`, or 8/3 `hidden_size` to the nearest multiple of 256 (at least 256)."""
        if self.intermediate_size is not None:
            return self.intermediate_size
        return max(256, round(self.hidden_size * 8 / 3 / 256) * 256)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


class MoeConfig(Group):
    """Mixture of Experts: each token goes to the top-k of the experts."""

    use_moe: bool = param(True, "Replace the feed-forward of each layer by routed experts.")
    num_experts: int = param(8, "Experts per layer at the start of the run.", ge=1, typical=(4, 64))
    moe_top_k: int = param(2, "Experts that each token is sent to.", ge=1, typical=(1, 4))
    capacity_factor: float | None = param(
        1.25,
        "An expert takes at most capacity_factor x top-k x tokens / experts tokens of a batch; the others keep their "
        "residual and are counted. null drops nothing.",
        gt=0,
        typical=(1.0, 2.0),
    )
    load_balancing_weight: float = param(
        0.01, "Weight of the auxiliary loss that evens out the load of the experts.", ge=0, typical=(0.001, 0.1)
    )
    routing_temperature: float = param(
        1.0, "Router logits are divided by it: below 1 sharper, above 1 softer.", gt=0, typical=(0.1, 2.0)
    )
    router_init_bias: Biases = param(
        None,
        "Initial bias of the router logits: a number for the first expert, or one number per expert. For studying "
        "collapse; null gives the router no bias.",
    )
    expert_ramp_steps: int = param(
        20, "Optimizer steps over which an added expert goes from never chosen to fully live.", ge=1, typical=(1, 1000)
    )
    router_z_loss_weight: float = param(
        0.0,
        "Weight of the router z-loss, the mean squared log-sum-exp of the router logits, which keeps them small.",
        ge=0,
        typical=(0.0, 0.01),
    )
    num_shared_experts: int = param(
        0, "Experts of the same width that every token uses, beside the routed ones.", ge=0, typical=(0, 4)
    )
    expert_dropout: float = param(
        0.0,
        "Chance that an expert is left out of a training step; as many as a token needs are always kept.",
        ge=0,
        lt=1,
        typical=(0.0, 0.2),
    )
    bias_balancing: bool = param(
        False,
        "Even out the load by a bias on the choice of experts; load_balancing_weight has no effect then.",
    )
    bias_balancing_rate: float = param(
        0.001,
        "How far a step of bias_balancing moves the bias of an expert toward an even load, in units of probability.",
        gt=0,
        typical=(0.0001, 0.01),
    )


class ModConfig(Group):
    """Mixture of Depths: only part of the tokens goes through a layer."""

    use_mod: bool = param(True, "Let tokens skip layers.")
    mod_capacity_factor: float = param(
        0.5, "Share of the tokens of a sequence that goes through a layer with MoD.", gt=0, le=1, typical=(0.1, 1.0)
    )
    mod_routing_type: Literal["learned", "static", "random"] = param(
        "learned", "How tokens are chosen: by a learned score, by a fixed pattern, or by chance (for comparison)."
    )
    mod_start_layer: int = param(0, "First layer with MoD, counted from 0.", ge=0, typical=(0, 120))
    mod_end_layer: int | None = param(
        None, "Last layer with MoD (that layer included); null is the last layer of the model.", ge=0, typical=(0, 119)
    )
    mod_every: int = param(1, "Every how many layers from the first one have MoD; 2 alternates.", ge=1, typical=(1, 4))
    mod_scope: Literal["layer", "ffn"] = param(
        "layer", "What a token skips: the whole layer, or the feed-forward alone."
    )
    mod_warmup_steps: int = param(
        0, "Optimizer steps at the start in which every token goes through every layer.", ge=0, typical=(0, 10000)
    )
    mod_anneal_steps: int = param(
        0,
        "Optimizer steps after mod_warmup_steps over which the share of tokens falls from 1 to mod_capacity_factor.",
        ge=0,
        typical=(0, 100000),
    )
    mod_routing_temperature: float = param(
        1.0,
        "Scores of the learned choice are divided by it before they become the gate: below 1 sharper, above 1 softer.",
        gt=0,
        typical=(0.1, 5.0),
    )
    mod_collapse_guard: bool = param(
        True,
        "Send every token through a layer, with a gate of 1, while its expert load and its gate have both collapsed.",
    )


class TrainingConfig(Group):
    """The optimizer, its schedule, and how long it runs."""

    seed: int = param(0, "Seed of the initial weights, the order of the data and every random choice.", ge=0)
    num_epochs: int = param(
        3, "Passes over the data; holds unless max_steps or automatic epochs say otherwise.", ge=1, typical=(1, 100)
    )
    max_steps: int | None = param(
        None, "Optimizer steps of the run; beats automatic epochs, which beat num_epochs.", ge=1
    )
    sequence_length: int | None = param(
        None, "Tokens per training sequence; null is max_position_embeddings.", ge=2, typical=(32, 32768)
    )
    batch_size: int = param(8, "Sequences per micro-batch.", ge=1, typical=(1, 128))
    gradient_accumulation_steps: int = param(
        1, "Micro-batches whose gradients make one optimizer step.", ge=1, typical=(1, 128)
    )
    learning_rate: float = param(3e-4, "Peak learning rate.", gt=0, typical=(1e-5, 1e-3))
    weight_decay: float = param(0.01, "Decoupled weight decay of the matrices.", ge=0, typical=(0.0, 0.1))
    gradient_clip_val: float = param(
        1.0, "Gradients are scaled down to this norm when theirs is larger.", gt=0, typical=(0.5, 5.0)
    )
    warmup_steps: int | float = param(
        0.1,
        "Steps over which the learning rate rises from zero: a number of steps, or a fraction of the run below 1.",
        ge=0,
        typical=(0, 10000),
    )
    lr_schedule: Literal["cosine", "linear", "constant"] = param(
        "cosine", "Shape of the learning rate after the warm-up."
    )
    min_lr_ratio: float = param(
        0.1, "The learning rate ends at this share of its peak.", ge=0, le=1, typical=(0.0, 0.5)
    )
    adam_beta1: float = param(0.9, "Decay of AdamW's mean of the gradients.", ge=0, lt=1, typical=(0.8, 0.99))
    adam_beta2: float = param(0.95, "Decay of AdamW's mean of the squared gradients.", ge=0, lt=1, typical=(0.9, 0.999))
    adam_eps: float = param(1e-8, "Added to AdamW's denominator.", gt=0, typical=(1e-10, 1e-6))
    eval_interval: int = param(100, "Steps between validations.", ge=1, typical=(10, 10000))
    eval_sequences: int = param(64, "Validation sequences used each time.", ge=1, typical=(8, 10000))
    log_interval: int = param(50, "Steps between lines in the log.", ge=1, typical=(1, 1000))
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = param("INFO", "Least important message that is logged.")
    num_threads: int | None = param(
        None,
        "CPU threads of the trainer; null takes all cores up to 4 and leaves 2 free above.",
        ge=1,
        typical=(1, 128),
    )


class PrecisionConfig(Group):
    """Number formats."""

    precision: PrecisionName = param(
        "auto",
        "Format of training; auto chooses by hardware. mixed_fp16 and mixed_bf16 keep the weights in float32. bf16 "
        "keeps weights and optimizer in bfloat16, too: that saves memory and loses updates below 1/256 of a weight. "
        "fp16 holds float16 weights beside the optimizer's float32. fp8_e4m3 multiplies in float8 (compute capability "
        "8.9).",
    )
    inference_precision: InferenceName = param(
        "auto",
        "Format of validation and generation; auto is that of training. int8 rounds the weights of the products to 8 "
        "bits, a scale for each output, as an int8 deployment would have them.",
    )
    master_precision: Literal["auto", "fp32", "bf16", "fp16"] = param(
        "auto",
        "Format of the weights that the optimizer updates, and of its moments; auto is bfloat16 for bf16 and float32 "
        "for the others.",
    )
    quantization_aware_training: bool = param(
        False,
        "Round the weights of the products to 8 bits in each training step, too, so that they learn to bear int8.",
    )
    dynamic_loss_scaling: bool = param(
        True, "Adapt the loss scale to the gradients; false keeps it at init_scale (float16 only)."
    )
    init_scale: float = param(65536.0, "First loss scale (float16 only).", gt=0, typical=(1.0, 2.0**24))
    scale_factor: float = param(2.0, "The loss scale grows and shrinks by it (float16 only).", gt=1, typical=(1.5, 4.0))
    scale_window: int = param(
        2000, "Steps without overflow before the loss scale grows (float16 only).", ge=1, typical=(100, 10000)
    )
    min_scale: float = param(1.0, "Smallest loss scale (float16 only).", gt=0, typical=(1.0, 65536.0))


class OptimizationConfig(Group):
    """Speed and memory."""

    use_flash_attention: Literal["auto"] | bool = param(
        "auto",
        "Fused attention: auto takes it where it is faster; on GPUs of compute capability 8.0 or more, flash kernels "
        "that compute each packed document alone (of flash_attn where it is installed, else PyTorch's). false always "
        "computes attention by plain matrix products. true refuses what the kernels cannot do: other hardware, fp32, "
        "heads of odd widths.",
    )
    gradient_checkpointing: bool = param(
        False, "Compute the activations of each layer again in the backward pass: less memory, more time."
    )
    compile: bool = param(
        False,
        "Compile attention and the dense feed-forward with torch.compile: a slow first step, faster ones after it.",
    )
    cuda_graphs: bool = param(
        False,
        "Record what is compiled as CUDA graphs, which the host starts at once, where its shapes stay: in layers "
        "without MoD the dense feed-forward, and without document boundaries and padding attention and shared experts. "
        "Needs a GPU and compile, and no gradient_checkpointing; not yet measured.",
    )
    use_deepspeed: bool = param(False, "Train through DeepSpeed.", available=False)
    zero_stage: int = param(0, "DeepSpeed ZeRO stage.", ge=0, le=3, available=False)
    cpu_offload: bool = param(False, "Keep the optimizer's state in CPU memory.", available=False)


class DataConfig(Group):
    """What is read, and how."""

    training_mode: Literal["base_only", "finetuning_only", "hybrid_sequential", "hybrid_interleaved"] | None = param(
        None,
        "How base text and conversations are used; null follows from what the files are, and is said.",
    )
    base_paths: Paths = param((), "Files or folders of plain text; without any path the built-in corpus is used.")
    finetuning_paths: Paths = param((), "Files or folders of conversations.")
    base_eval_paths: Paths = param((), "Plain text for validation; without, a share of the documents is held out.")
    finetuning_eval_paths: Paths = param((), "Conversations for validation; without, a share of them is held out.")
    base_ratio: float | None = param(
        0.7,
        "Share of base sequences in hybrid_interleaved; null mixes them in proportion to what there is.",
        ge=0,
        le=1,
        typical=(0.0, 1.0),
    )
    interleave_strategy: Literal["ratio", "alternating", "random"] = param(
        "ratio",
        "How hybrid_interleaved keeps base_ratio: in every batch, by whole steps that take turns, or by chance.",
    )
    base_epochs: int | None = param(
        None, "Passes over the base text in hybrid_sequential; null is the epochs of the run.", ge=1, typical=(1, 100)
    )
    finetuning_epochs: int | None = param(
        None,
        "Passes over the conversations in hybrid_sequential; null is the epochs of the run.",
        ge=1,
        typical=(1, 100),
    )
    phase_warmup_steps: int = param(
        0,
        "Steps over which the learning rate rises from zero again when hybrid_sequential comes to the conversations.",
        ge=0,
        typical=(0, 10000),
    )
    mask_user_tokens: bool = param(False, "Take the loss of conversations on the assistant's words only.")
    tokenizer: PathText = param(
        "bpe", "bpe (byte-level, trained on the run's data), bytes, or the path of a tokenizer.json."
    )
    validation_fraction: float = param(
        0.05, "Share of the documents held out for validation.", gt=0, lt=1, typical=(0.005, 0.2)
    )
    max_bad_fraction: float = param(
        0.05, "Share of unreadable lines above which a file is an error.", ge=0, le=1, typical=(0.0, 0.2)
    )
    corpus_documents: int = param(6000, "Documents of the built-in corpus.", ge=20, typical=(100, 1000000))
    num_workers: int = param(
        0,
        "Threads that read batches ahead; with difficulty_sampling there is nothing to read ahead.",
        ge=0,
        typical=(0, 16),
    )
    format: Literal["auto", "text", "conversation", "xtuner", "messages", "sharegpt", "alpaca", "pairs"] = param(
        "auto", "Form of the samples in JSON and tables; auto finds it in the fields of each sample."
    )
    text_field: str = param("text", "Field, or column, that holds the text of a sample.")
    max_sample_bytes: int = param(
        1 << 24,
        "Longest line or JSON value that is read; a longer one is malformed.",
        ge=64,
        typical=(1 << 20, 1 << 28),
    )
    quality_threshold: float = param(
        0.85, "Samples whose quality (docs/data.md) is lower are left out.", ge=0, le=1, typical=(0.0, 1.0)
    )
    automatic_data_cleaning: bool = param(
        False, "Normalise the text of samples (docs/data.md) and leave out what is empty then."
    )
    packing: Literal["pack", "pad"] = param(
        "pack",
        "pack fills every sequence with documents one after the other; pad gives each document a sequence of its own, "
        "padded to one of a few lengths.",
    )
    document_boundaries: bool = param(
        True, "Documents packed into one sequence do not see each other, and positions begin anew with each."
    )
    stride: int = param(
        0,
        "Tokens that a sequence repeats from the one before as context; they carry loss once.",
        ge=0,
        typical=(0, 4096),
    )
    curriculum_aggressiveness: float = param(
        0.0,
        "How strongly easy sequences (of frequent tokens) come first in the first pass: 0 not at all, 1 strictly.",
        ge=0,
        le=1,
        typical=(0.0, 1.0),
    )
    difficulty_sampling: float = param(
        0.0,
        "Chance that a sequence gives way to one drawn at random whose last loss was higher.",
        ge=0,
        le=1,
        typical=(0.0, 0.5),
    )


class OrchestratorConfig(Group):
    """What watches the run and proposes changes."""

    use_adaptive_training: bool = param(True, "Watch the run and propose interventions.")
    autonomy: Autonomy = param(
        "ask", "What becomes of a proposal: logged only, put to a person, or applied when confident."
    )
    intervention_threshold: float = param(
        0.75,
        "Confidence from which a proposal is made, or applied where autonomy is auto.",
        ge=0,
        le=1,
        typical=(0.5, 0.95),
    )
    check_interval: int = param(100, "Steps between health checks.", ge=1, typical=(10, 1000))
    autonomy_per_method: Autonomies = param(
        (),
        "Autonomy of single interventions where it is not that of the run, as method=autonomy: "
        "[adjust_routing_temperature=auto, rollback_steps=ask].",
    )
    enable_emergency_recovery: bool = param(
        True,
        "Act at once in an emergency, also where a person would be asked; with autonomy observe it is only logged.",
    )
    enable_architecture_adaptation: bool = param(True, "Propose changes of the architecture, such as more experts.")
    intervention_cooldown: int = param(
        5, "Checks for which a cause rests after it was answered, so that the answer can show.", ge=0, typical=(1, 50)
    )
    intervention_budget: int = param(
        8,
        "Interventions that autonomy auto makes within budget_window steps; further ones are put to a person.",
        ge=0,
        typical=(1, 50),
    )
    budget_window: int = param(1000, "Steps over which intervention_budget counts.", ge=1, typical=(100, 100000))
    proposal_expiry_steps: int = param(
        500, "Steps after which an unanswered proposal expires.", ge=1, typical=(20, 10000)
    )


class ChinchillaConfig(Group):
    """The compute-optimal token budget (Hoffmann et al., 2022)."""

    auto_epoch_scaling: bool = param(True, "Choose the number of epochs from the token budget.")
    chinchilla_multiplier: float = param(20.0, "Optimal tokens per parameter.", gt=0, typical=(5, 50))
    chinchilla_basis: Literal["total", "active"] = param(
        "total", "Parameters that the budget counts: all, or those that one token uses."
    )
    min_auto_epochs: int = param(1, "Fewest epochs chosen automatically.", ge=1, typical=(1, 10))
    max_auto_epochs: int = param(50, "Most epochs chosen automatically.", ge=1, typical=(10, 100))
    enable_loss_landscape: bool = param(True, "Tell plateaus and divergence of the loss.")
    enable_compute_efficiency: bool = param(True, "Track the loss reduction per FLOP, and when it diminishes.")
    enable_early_stopping: bool = param(False, "End the run when it has converged and nothing is gained any more.")
    adaptive_epochs: bool = param(
        False, "Propose another length where the fitted loss curve speaks for one, within min_ and max_auto_epochs."
    )
    adaptive_curriculum: bool = param(
        False, "Propose more data.difficulty_sampling as the run goes from one phase to the next; it must be above 0."
    )


class CheckpointConfig(Group):
    """When state is saved, and how much of it is kept."""

    save_every_n_batches: int = param(1000, "Optimizer steps between checkpoints.", ge=1, typical=(100, 10000))
    save_total_limit: int = param(
        5, "Checkpoints kept: the best by validation loss; the latest is always kept.", ge=1, typical=(1, 100)
    )
    keep_epoch_checkpoints: bool = param(False, "Keep the checkpoint at the end of every epoch, too.")
    early_stopping_patience: int = param(
        5, "Epochs without improvement before a run with enable_early_stopping ends.", ge=1, typical=(3, 20)
    )


class Config(Group):
    """All parameters of one run. ``preset`` only remembers where the values came from."""

    preset: str | None = Field(None, description="Name of the preset that the values started from.")
    model: ModelConfig = ModelConfig()
    moe: MoeConfig = MoeConfig()
    mod: ModConfig = ModConfig()
    training: TrainingConfig = TrainingConfig()
    precision: PrecisionConfig = PrecisionConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    data: DataConfig = DataConfig()
    orchestrator: OrchestratorConfig = OrchestratorConfig()
    chinchilla: ChinchillaConfig = ChinchillaConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @property
    def sequence_length(self) -> int:
        """Tokens per training sequence."""
        return self.training.sequence_length or self.model.max_position_embeddings

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Indices of the layers whose feed-forward is a mixture of experts."""
        return tuple(range(self.model.num_layers)) if self.moe.use_moe else ()

    @property
    def has_documents(self) -> bool:
        """Whether batches tell their documents apart, or have padding."""
        return self.data.document_boundaries or self.data.packing == "pad"

    @property
    def mod_layers(self) -> tuple[int, ...]:
        """Indices of the layers that tokens may skip."""
        if not self.mod.use_mod:
            return ()
        last = self.model.num_layers - 1 if self.mod.mod_end_layer is None else self.mod.mod_end_layer
        return tuple(range(self.mod.mod_start_layer, last + 1, self.mod.mod_every))


GROUPS: dict[str, type[Group]] = {
    "model": ModelConfig,
    "moe": MoeConfig,
    "mod": ModConfig,
    "training": TrainingConfig,
    "precision": PrecisionConfig,
    "optimization": OptimizationConfig,
    "data": DataConfig,
    "orchestrator": OrchestratorConfig,
    "chinchilla": ChinchillaConfig,
    "checkpoint": CheckpointConfig,
}
