"""Builds Lumina models with the weights of tiny random Hugging Face models, offline.
It knows both layouts; neither the product nor transformers knows of the other."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lumina.config import load_config
from lumina.model import Transformer

VOCAB = 97


def lumina_of(peer: PreTrainedModel) -> Transformer:
    """Lumina's model of a Llama-like or Mixtral model, its weights copied."""
    theirs = peer.config
    experts = getattr(theirs, "num_local_experts", 0)
    config = load_config(
        "debug",
        {
            "model.hidden_size": theirs.hidden_size,
            "model.intermediate_size": theirs.intermediate_size,
            "model.num_layers": theirs.num_hidden_layers,
            "model.num_heads": theirs.num_attention_heads,
            "model.num_kv_heads": theirs.num_key_value_heads,
            "model.max_position_embeddings": theirs.max_position_embeddings,
            "model.rope_theta": theirs.rope_parameters["rope_theta"],
            "model.rms_norm_eps": theirs.rms_norm_eps,
            "model.tie_word_embeddings": theirs.tie_word_embeddings,
            "moe.use_moe": bool(experts),
            "moe.num_experts": experts or 8,
            "moe.moe_top_k": getattr(theirs, "num_experts_per_tok", 2),
            "moe.capacity_factor": None,
            "mod.use_mod": False,
        },
    )
    built = Transformer(config, theirs.vocab_size)
    named = dict(peer.named_parameters())
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            parameter.copy_(named[hugging_face_name(name)])
    return built


def hugging_face_name(name: str) -> str:
    """What transformers calls one of Lumina's parameters."""
    whole = {"embedding": "model.embed_tokens.weight", "head": "lm_head.weight", "norm.weight": "model.norm.weight"}
    if name in whole:
        return whole[name]
    _, index, *rest = name.split(".")
    parts = {
        "input_norm": "input_layernorm",
        "post_norm": "post_attention_layernorm",
        "attention": "self_attn",
        "ffn": "mlp",
    }
    inner = {"router": "gate.weight", "w_in": "experts.gate_up_proj", "w_out": "experts.down_proj"}
    tail = "mlp." + inner[rest[1]] if rest[0] == "moe" else ".".join([parts[rest[0]], *rest[1:]])
    return f"model.layers.{index}.{tail}"


def mean_loss(model: Transformer, token: Tensor) -> Tensor:
    """Mean loss of predicting each next token, without the auxiliary losses."""
    label = torch.full_like(token, -100)
    label[:, :-1] = token[:, 1:]
    output = model(token, label)
    return output.loss_sum / output.tokens
