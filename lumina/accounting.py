"""Parameters, FLOPs, memory and the token budget of a configuration, by formula.
Imports no torch and builds no model; a test holds the counts against models that are built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lumina.config import Config, about_preset, list_presets, load_preset

# How many bytes a number takes in the products, and how many more its low-precision copy of the weights takes.
_COMPUTE_BYTES = {"fp32": 4, "mixed_bf16": 2, "mixed_fp16": 2, "bf16": 2, "fp16": 2, "fp8_e4m3": 1}
_MASTER_BYTES = {"fp32": 4, "mixed_bf16": 4, "mixed_fp16": 4, "bf16": 2, "fp16": 4, "fp8_e4m3": 4}


SHORT_SEQUENCE = 1024  # up to here matrix products beat fused attention on CPUs
QUERY_BLOCK = 128
ROUNDING = 1e-9  # 0.1 * 30 is a little above 3 in floating point


def chosen_tokens(capacity: float, length: int) -> int:
    """Tokens of a sequence of `length` that a layer with MoD takes: ceil(capacity * length)."""
    return math.ceil(capacity * length - ROUNDING)


def query_blocks(length: int) -> list[tuple[int, int]]:
    """The blocks of queries (first, last + 1) that attention by matrix products goes through, each with the keys up to
    its end: the shortest multiple of 128 that makes at most 8 blocks."""
    size = QUERY_BLOCK * math.ceil(length / (8 * QUERY_BLOCK))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def attended_pairs(length: int, fused: bool) -> int:
    """Pairs of query and key that are multiplied in a sequence: block by block in short ones; in longer ones, where
    fused attention may run (`fused`), all, as torch counts them."""
    if fused and length > SHORT_SEQUENCE:
        return length * length
    return sum((end - start) * end for start, end in query_blocks(length))


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters. Each part counts all layers.

    `total` is everything that can be trained at the start of the run; `active` is what one token uses when it skips no
    layer, without embedding and output head.
    """

    embedding: int
    head: int
    attention: int
    feed_forward: int
    router: int
    depth_router: int
    norm: int
    active: int

    @property
    def total(self) -> int:
        return (
            self.embedding
            + self.head
            + self.attention
            + self.feed_forward
            + self.router
            + self.depth_router
            + self.norm
        )


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per token of training, averaged over a sequence (a multiply-add counts 2).

    The parts make up `forward`; `backward` is twice that, and `recomputed`: scores of queries and keys, which attention
    keeps in no way, and the layers where gradient checkpointing is on. `useful` leaves out what is computed again, as
    the share of a device's peak (MFU) does (Chowdhery et al., 2022, appendix B).
    """

    attention_projections: float
    attention_scores: float
    feed_forward: float
    routers: float
    head: float
    backward: float
    recomputed: float

    @property
    def forward(self) -> float:
        return self.attention_projections + self.attention_scores + self.feed_forward + self.routers + self.head

    @property
    def total(self) -> float:
        return self.forward + self.backward

    @property
    def useful(self) -> float:
        return self.total - self.recomputed


@dataclass(frozen=True)
class Memory:
    """Bytes that training takes, on all devices together."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def count_parameters(config: Config, vocab_size: int | None = None) -> ParameterCount:
    """Parameters of the model that `config` describes; `vocab_size` is the tokenizer's where it is known."""
    model, moe = config.model, config.moe
    hidden, layers = model.hidden_size, model.num_layers
    embedding = (vocab_size or model.vocab_size) * hidden
    attention = layers * _attention_parameters(config)
    expert = 3 * hidden * model.ffn_size
    experts, used = (moe.num_experts, moe.moe_top_k) if moe.use_moe else (1, 1)
    router_row = hidden + (moe.router_init_bias is not None)
    router = layers * experts * router_row if moe.use_moe else 0
    depth_router = len(config.mod_layers) * _depth_router_parameters(config)
    norm = (2 * layers + 1) * hidden
    always = layers * moe.num_shared_experts * expert if moe.use_moe else 0
    shared = attention + router + depth_router + norm + always
    head = 0 if model.tie_word_embeddings else embedding
    return ParameterCount(
        embedding=embedding,
        head=head,
        attention=attention,
        feed_forward=layers * experts * expert + always,
        router=router,
        depth_router=depth_router,
        norm=norm,
        active=shared + layers * used * expert,
    )


def _attention_parameters(config: Config) -> int:
    """Query, key, value and output matrices of one layer: hidden² (2 + 2 kv_heads / heads)."""
    model = config.model
    return 2 * model.hidden_size * (model.hidden_size + model.num_kv_heads * model.head_dim)


def _depth_router_parameters(config: Config) -> int:
    """A learned score per token, and the predictor that stands in for it when the future is not known."""
    return 2 * config.model.hidden_size if config.mod.mod_routing_type == "learned" else 0


def flops_per_token(config: Config, seq_len: int | None = None, vocab_size: int | None = None) -> Flops:
    """FLOPs per token at sequences of `seq_len` tokens (default: those of training).

    Attention scores count the pairs of `attended_pairs`. Layers with MoD work on their share of the tokens: attention
    among the chosen ones, so its scores shrink with the square. Gathering the chosen tokens and
    putting them back copies and multiplies nothing. Dropped tokens are not subtracted, nor are the pairs of different
    documents, which flash attention on GPUs does not compute.
    """
    model, length = config.model, seq_len or config.sequence_length
    chosen = chosen_tokens(config.mod.mod_capacity_factor, length) / length
    usage = [chosen if layer in config.mod_layers else 1.0 for layer in range(model.num_layers)]
    sums = _layer_flops(config, length, usage)
    layers = sum(sums.values())
    head = 2.0 * model.hidden_size * (vocab_size or model.vocab_size)
    recomputed = _recomputed(config, sums)
    return Flops(
        attention_projections=sums["projections"],
        attention_scores=sums["scores"],
        feed_forward=sums["feed_forward"],
        routers=sums["routers"],
        head=head,
        backward=2.0 * (layers + head) + recomputed,
        recomputed=recomputed,
    )


def _layer_flops(config: Config, length: int, usage: Sequence[float]) -> dict[str, float]:
    """Forward FLOPs per token of all layers together, when layer i takes `usage[i]` of the tokens."""
    model, moe = config.model, config.moe
    projections = 2.0 * _attention_parameters(config)
    experts = moe.moe_top_k + moe.num_shared_experts if moe.use_moe else 1
    feed_forward = 6.0 * model.hidden_size * model.ffn_size * experts
    expert_router = 2.0 * model.hidden_size * moe.num_experts if moe.use_moe else 0.0
    fused = config.optimization.use_flash_attention is not False
    sums = dict.fromkeys(("projections", "scores", "feed_forward", "routers"), 0.0)
    for layer, used in enumerate(usage):
        in_attention = used if config.mod.mod_scope == "layer" else 1.0
        sums["projections"] += in_attention * projections
        pairs = attended_pairs(chosen_tokens(in_attention, length), fused)
        sums["scores"] += 4.0 * pairs / length * model.num_heads * model.head_dim
        sums["feed_forward"] += used * feed_forward
        sums["routers"] += used * expert_router
        sums["routers"] += 2.0 * _depth_router_parameters(config) if layer in config.mod_layers else 0.0
    return sums


def compute_savings(config: Config, length: int, usage: Sequence[float]) -> float:
    """Share of the layers' forward FLOPs that skipping saved, when layer i took `usage[i]` of the tokens.

    1 - (FLOPs with MoD, its routers included) / (FLOPs of the same layers on every token, without those routers).
    """
    whole = sum(_layer_flops(config, length, [1.0] * len(usage)).values())
    routers = 2.0 * _depth_router_parameters(config) * len(config.mod_layers)
    return 1.0 - sum(_layer_flops(config, length, usage).values()) / (whole - routers)


def _recomputed(config: Config, sums: dict[str, float]) -> float:
    """FLOPs per token that the backward pass computes again, of layers whose forward FLOPs are `sums`."""
    scores = sums["scores"] / 2.0  # of two products, that of queries and keys
    if not config.optimization.gradient_checkpointing:
        return scores
    return scores + sum(sums.values()) - _not_recomputed(config)


def _not_recomputed(config: Config) -> float:
    """Recomputing stops at the last value that the backward pass needs; a dense layer's down projection is past it."""
    dense = 0 if config.moe.use_moe else config.model.num_layers - len(config.mod_layers)
    return 2.0 * dense * config.model.hidden_size * config.model.ffn_size


def memory_bytes(config: Config, precision: str = "fp32", batch: int | None = None) -> Memory:
    """Bytes for training in `precision` with micro-batches of `batch` sequences (default: batch_size).

    Weights, gradients and two Adam moments in the master format, a copy of the weights in the compute format where
    that differs; activations as listed in `_activation_bytes`. An estimate: allocators and libraries take more.
    Raises KeyError for a format that is not known.
    """
    master, compute = _MASTER_BYTES[precision], _COMPUTE_BYTES[precision]
    parameters = count_parameters(config).total
    return Memory(
        weights=parameters * (master + (compute if compute != master else 0)),
        gradients=parameters * master,
        optimizer=parameters * 2 * master,
        activations=_activation_bytes(config, compute, config.training.batch_size if batch is None else batch),
    )


def _activation_bytes(config: Config, compute: int, batch: int) -> int:
    """What the backward pass keeps: all layers, or their fp32 inputs and one whole layer where they are recomputed."""
    tokens = batch * config.sequence_length
    skipped = config.mod_layers
    layers = [_layer_activation_bytes(config, compute, i in skipped) for i in range(config.model.num_layers)]
    if config.optimization.gradient_checkpointing:
        return round(tokens * (len(layers) * 4 * config.model.hidden_size + max(layers)))
    return round(tokens * sum(layers))


def _layer_activation_bytes(config: Config, compute: int, skips: bool) -> float:
    """Per token: both norms' fp32 inputs and outputs, queries, keys, values, what attention gives, gate and up of each
    expert used, or gate, up and product of a dense feed-forward."""
    model, moe, length = config.model, config.moe, config.sequence_length
    chosen = chosen_tokens(config.mod.mod_capacity_factor, length) / length if skips else 1.0
    in_attention = chosen if config.mod.mod_scope == "layer" else 1.0
    norm = model.hidden_size * (4 + compute)
    heads = 2 * (model.num_heads + model.num_kv_heads) * model.head_dim * compute
    widths = 2 * moe.moe_top_k + 3 * moe.num_shared_experts if moe.use_moe else 3
    feed_forward = (widths * model.ffn_size + model.hidden_size) * compute
    return in_attention * (norm + heads) + chosen * (norm + feed_forward)


@dataclass(frozen=True)
class TokenBudget:
    """The compute-optimal number of training tokens (Hoffmann et al., 2022): multiplier x parameters of the basis."""

    basis: str
    parameters: int
    tokens_optimal: int
    other_basis: str
    tokens_optimal_other: int


def token_budget(config: Config, counts: ParameterCount) -> TokenBudget:
    """The budget on the chosen basis, and on the other one to be shown beside it."""
    multiplier = config.chinchilla.chinchilla_multiplier
    parameters = {"total": counts.total, "active": counts.active}
    basis = config.chinchilla.chinchilla_basis
    other = "active" if basis == "total" else "total"
    return TokenBudget(
        basis=basis,
        parameters=parameters[basis],
        tokens_optimal=round(multiplier * parameters[basis]),
        other_basis=other,
        tokens_optimal_other=round(multiplier * parameters[other]),
    )


def coverage(dataset_tokens: int, tokens_optimal: int) -> float:
    """Share of the optimal tokens that one pass over the data gives."""
    return dataset_tokens / tokens_optimal


@dataclass(frozen=True)
class EpochAdvice:
    """How many epochs the budget asks for: `exact` as it is, `epochs` whole and within the limits."""

    epochs: int
    exact: float
    coverage: float
    tokens_optimal: int


def recommended_epochs(config: Config, counts: ParameterCount, dataset_tokens: int) -> EpochAdvice:
    """Epochs of `dataset_tokens` each that reach the budget, rounded up, between min_auto_epochs and max_auto_epochs.

    Raises ValueError without any tokens.
    """
    if dataset_tokens <= 0:
        raise ValueError("there are no tokens to train on")
    budget = token_budget(config, counts)
    exact = budget.tokens_optimal / dataset_tokens
    limits = config.chinchilla
    epochs = min(max(math.ceil(exact), limits.min_auto_epochs), limits.max_auto_epochs)
    return EpochAdvice(epochs, exact, coverage(dataset_tokens, budget.tokens_optimal), budget.tokens_optimal)


@dataclass(frozen=True)
class PresetRow:
    """One line of the table of presets: counted parameters, memory to train with batch_size 1 in mixed_bf16."""

    name: str
    active: int
    total: int
    memory_bytes: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    experts: int
    top_k: int
    mod: bool
    precision: str
    hardware: str
    purpose: str


def preset_table() -> list[PresetRow]:
    """All presets, the smallest first; experts and top_k are 0 for a dense model."""
    return [_preset_row(name) for name in list_presets()]


def _preset_row(name: str) -> PresetRow:
    config, about = load_preset(name), about_preset(name)
    counts, model, moe = count_parameters(config), config.model, config.moe
    return PresetRow(
        name=name,
        active=counts.active,
        total=counts.total,
        memory_bytes=memory_bytes(config, "mixed_bf16", batch=1).total,
        hidden_size=model.hidden_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        experts=moe.num_experts if moe.use_moe else 0,
        top_k=moe.moe_top_k if moe.use_moe else 0,
        mod=config.mod.use_mod,
        precision=config.precision.precision,
        hardware=about.hardware,
        purpose=about.purpose,
    )
