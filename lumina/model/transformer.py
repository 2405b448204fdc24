"""The whole model: embedding, layers, output. It returns the loss and a record of what every layer did."""

# B sequences   T tokens   D hidden
from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lumina.config import Config
from lumina.model.attention import Attention
from lumina.model.documents import Documents
from lumina.model.knobs import Knobs
from lumina.model.layers import RMSNorm, Rotary, SwiGLU
from lumina.model.loss import IGNORED, cross_entropy
from lumina.model.matmul import linear
from lumina.model.mod import DepthRouter, ModStats
from lumina.model.moe import MoE, MoEStats


@dataclass
class LayerStats:
    """What one layer did in one forward pass."""

    moe: MoEStats | None = None
    mod: ModStats | None = None


@dataclass
class ModelOutput:
    """Sums over the batch: `loss_sum` in nats over `tokens` labels; `auxiliary` is what the total loss adds to it.
    `loss_B` is the mean loss of each sequence, not a number where it has no label."""

    loss_sum: Tensor
    tokens: Tensor
    correct: Tensor
    auxiliary: Tensor
    loss_B: Tensor
    layers: list[LayerStats] = field(default_factory=list)


class Layer(nn.Module):
    """Pre-norm attention and feed-forward; with MoD only the chosen tokens enter the layer, or its feed-forward."""

    def __init__(self, config: Config, index: int, slots: int, knobs: Knobs) -> None:
        super().__init__()
        model = config.model
        eps, width = model.rms_norm_eps, model.hidden_size
        self.input_norm = RMSNorm(width, eps)
        self.attention = Attention(
            width, model.num_heads, model.num_kv_heads, config.optimization.use_flash_attention is not False
        )
        self.post_norm = RMSNorm(width, eps)
        self.moe = None
        if index in config.moe_layers:
            self.moe = MoE(config.moe, width, model.ffn_size, slots, knobs, index, config.training.seed)
        self.ffn = SwiGLU(width, model.ffn_size) if self.moe is None else None
        self.scope = config.mod.mod_scope
        self.mod = None
        if index in config.mod_layers:
            self.mod = DepthRouter(config.mod.mod_routing_type, width, eps, index, knobs, config.training.seed)
        self.rotary = Rotary(model.head_dim, model.max_position_embeddings, model.rope_theta)

    def compile_dense(self, graphs: bool = False, documents: bool = False) -> None:
        """Compiles attention and the dense feed-forward with their norms; routing depends on data and stays. With
        `graphs`, what has the same shapes in every batch, where there are documents or none, is recorded."""
        recorded = {"mode": "reduce-overhead"} if graphs and self.mod is None else {}
        alone = {} if documents else recorded
        self._attend = torch.compile(self._attend, **alone)  # type: ignore[method-assign, call-overload]
        self._feed_dense = torch.compile(self._feed_dense, **recorded)  # type: ignore[method-assign, call-overload]
        if self.moe is not None and self.moe.shared is not None:
            self.moe.shared.compile(**alone)

    def forward(self, x_BTD: Tensor, documents: Documents | None = None) -> tuple[Tensor, LayerStats]:
        """What comes out of the layer."""
        stats = LayerStats()
        real_BT, real_R = (None, None) if documents is None else (documents.real_BT, documents.real_R)
        if self.mod is None or self.scope == "ffn":
            place_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device).unsqueeze(0)
            x_BTD = x_BTD + self._attended(x_BTD, place_BT, documents)
        if self.mod is None:
            return x_BTD + self._feed(x_BTD, stats, real_R), stats
        if self.scope == "ffn":
            x_BTD, stats.mod = self.mod(x_BTD, lambda x, _, kept: self._feed_kept(x, stats, kept), real_BT)
        else:
            x_BTD, stats.mod = self.mod(x_BTD, lambda x, at, kept: self._both(x, at, kept, documents, stats), real_BT)
        return x_BTD, stats

    def _both(
        self, x_BCD: Tensor, at_BC: Tensor, kept_BC: Tensor | None, documents: Documents | None, stats: LayerStats
    ) -> Tensor:
        """The whole layer for the tokens that stand at `at_BC` of the sequence."""
        chosen = None
        if documents is not None:
            # In evaluation rows have different numbers of chosen tokens, and others behind them.
            chosen = documents.chosen(at_BC, whole=self.training and kept_BC is None)
        attended = self._attended(x_BCD, at_BC, chosen)
        return attended + self._feed_kept(x_BCD + attended, stats, kept_BC)

    def _attended(self, x_BTD: Tensor, place_BT: Tensor, documents: Documents | None) -> Tensor:
        """Attention at the given places, or, with documents, at those in each."""
        if documents is None:
            return self._attend(x_BTD, place_BT, None, None, 0)
        return self._attend(x_BTD, documents.place_BT, documents.number_BT, documents.start_S1, documents.longest)

    def _attend(
        self, x_BTD: Tensor, place_BT: Tensor, document_BT: Tensor | None, start_S1: Tensor | None, longest: int
    ) -> Tensor:
        cos, sin = self.rotary(place_BT)
        y: Tensor = self.attention(self.input_norm(x_BTD), cos, sin, document_BT, start_S1, longest)
        return y

    def _feed(self, x_BTD: Tensor, stats: LayerStats, real_R: Tensor | None) -> Tensor:
        """The feed-forward; experts see only the tokens `real_R` of the flattened batch where there is padding, so that
        it takes nobody's place in them."""
        if self.moe is None:
            return self._feed_dense(x_BTD)
        normed_ND = self.post_norm(x_BTD).reshape(-1, x_BTD.shape[-1])
        if real_R is None:
            y_ND, stats.moe = self.moe(normed_ND)
        else:
            y_ND, stats.moe = self.moe(normed_ND.index_select(0, real_R))
            y_ND = torch.zeros(normed_ND.shape, dtype=y_ND.dtype, device=y_ND.device).index_add(0, real_R, y_ND)
        mixed: Tensor = y_ND.view(x_BTD.shape)
        return mixed

    def _feed_kept(self, x_BCD: Tensor, stats: LayerStats, kept_BC: Tensor | None) -> Tensor:
        # How many of the chosen tokens are no padding is not known on the host: the one question that a layer asks.
        if self.moe is None or kept_BC is None:
            return self._feed(x_BCD, stats, None)
        return self._feed(x_BCD, stats, kept_BC.reshape(-1).nonzero().squeeze(1))

    def _feed_dense(self, x_BTD: Tensor) -> Tensor:
        assert self.ffn is not None
        y: Tensor = self.ffn(self.post_norm(x_BTD))
        return y


class Transformer(nn.Module):
    """A decoder-only language model as `config` describes; `slots` overrides the experts of a layer after surgery."""

    def __init__(self, config: Config, vocab_size: int, slots: dict[int, int] | None = None) -> None:
        super().__init__()
        self.config = config
        self.knobs = Knobs.of(config)
        width, experts = config.model.hidden_size, config.moe.num_experts
        self.embedding = nn.Parameter(torch.empty(vocab_size, width))
        self.layers = nn.ModuleList(
            Layer(config, index, (slots or {}).get(index, experts), self.knobs)
            for index in range(config.model.num_layers)
        )
        self.norm = RMSNorm(width, config.model.rms_norm_eps)
        self.head = None if config.model.tie_word_embeddings else nn.Parameter(torch.empty(vocab_size, width))

    def reset(self) -> None:
        """Draws all weights anew from the global generator."""
        std = self.config.model.initializer_range
        nn.init.normal_(self.embedding, std=std)
        if self.head is not None:
            nn.init.normal_(self.head, std=std)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
            elif isinstance(module, MoE):
                module.reset(std, self.config.moe.router_init_bias)
            elif isinstance(module, DepthRouter):
                module.reset(std)

    @property
    def output_weight(self) -> Tensor:
        return self.embedding if self.head is None else self.head

    def forward(
        self, token_BT: Tensor, label_BT: Tensor, documents: Documents | Tensor | None = None, padded: bool = True
    ) -> ModelOutput:
        """Loss sums of a batch. `label_BT` is the next token of each position, or -100 for none. Documents do not see
        each other; they may be given by their numbers alone, -1 at padding behind them, if there is any (`padded`)."""
        x_BTD, layers = self._trunk(token_BT, documents, padded)
        loss, correct, tokens, each_N = cross_entropy(
            x_BTD.reshape(-1, x_BTD.shape[-1]), self.output_weight, label_BT.reshape(-1)
        )
        loss_B = each_N.view(label_BT.shape).sum(1) / (label_BT != IGNORED).sum(1)
        return ModelOutput(loss, tokens, correct, self._auxiliary(layers, loss), loss_B, layers)

    def logits(self, token_BT: Tensor, documents: Documents | Tensor | None = None) -> Tensor:
        """Logits [B, T, V] of the next token, for generation and comparison."""
        x_BTD, _ = self._trunk(token_BT, documents, True)
        return linear(x_BTD, self.output_weight.to(x_BTD.dtype)).float()

    def _trunk(
        self, token_BT: Tensor, documents: Documents | Tensor | None, padded: bool
    ) -> tuple[Tensor, list[LayerStats]]:
        if isinstance(documents, Tensor):
            documents = Documents.on_device(documents, padded)
        x_BTD = F.embedding(token_BT, self.embedding)
        layers = []
        again = self.config.optimization.gradient_checkpointing and self.training
        for layer in self.layers:
            if again:
                # No layer draws from the global generators, whose states need not be kept then.
                x_BTD, stats = checkpoint(layer, x_BTD, documents, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BTD, stats = layer(x_BTD, documents)
            layers.append(stats)
        return self.norm(x_BTD), layers

    def _auxiliary(self, layers: list[LayerStats], like: Tensor) -> Tensor:
        """Weighted means over layers of balance and z-loss, plus the MoD predictors' own, which reaches only them."""
        total = torch.zeros_like(like)
        routed = [stats.moe for stats in layers if stats.moe is not None]
        if routed:
            balance = torch.stack([moe.balance_loss for moe in routed]).mean()
            z_loss = torch.stack([moe.z_loss for moe in routed]).mean()
            total = total + self.knobs.load_balancing_weight * balance + self.config.moe.router_z_loss_weight * z_loss
        predictor = [stats.mod.predictor_loss for stats in layers if stats.mod is not None]
        return total + torch.stack(predictor).mean() if predictor else total
