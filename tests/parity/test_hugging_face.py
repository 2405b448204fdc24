"""With the same weights Lumina computes what Hugging Face's Llama, Mistral and Mixtral compute."""

from __future__ import annotations

import pytest
import torch
from hugging_face_weights import VOCAB, hugging_face_name, lumina_of, mean_loss
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from lumina.model.moe import MoE

SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
}
PEERS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama, tied, long context": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SHAPE, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0}
        )
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "mixtral top-2 of 8": lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=8)),
    "mixtral top-1 of 4": lambda: MixtralForCausalLM(
        MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=1)
    ),
    "mixtral top-4 of 16": lambda: MixtralForCausalLM(
        MixtralConfig(**SHAPE, num_local_experts=16, num_experts_per_tok=4)
    ),
}


def made(name: str) -> PreTrainedModel:
    torch.manual_seed(11)
    return PEERS[name]().train()


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB, (3, 70), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PEERS)
def test_logits_are_equal(name: str) -> None:
    peer = made(name)
    mine = lumina_of(peer)
    for model in (peer, mine):
        model.eval()
    with torch.no_grad():
        theirs, ours = peer(tokens()).logits, mine.logits(tokens())
    assert float(theirs.std()) > 0.1  # a comparison of something
    assert float((theirs - ours).abs().max()) < 1e-5 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("name", PEERS)
def test_loss_and_gradients_are_equal(name: str) -> None:
    peer = made(name)
    mine = lumina_of(peer).train()
    theirs = peer(tokens(), labels=tokens()).loss
    ours = mean_loss(mine, tokens())
    assert abs(theirs.item() - ours.item()) < 1e-5
    theirs.backward()
    ours.backward()
    named = dict(peer.named_parameters())
    for name_here, parameter in mine.named_parameters():
        a, b = parameter.grad, named[hugging_face_name(name_here)].grad
        assert a is not None, name_here
        assert b is not None, name_here
        assert float((a - b).norm()) <= 1e-5 * float(b.norm()) + 1e-7, name_here


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_the_balance_loss_is_the_switch_loss(top_k: int) -> None:
    # transformers counts k assignments per token as k, Lumina's shares sum to one: a factor of k, nothing else.
    torch.manual_seed(5)
    peer = MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=6, num_experts_per_tok=top_k))
    mine = lumina_of(peer).train()
    moe = mine.layers[1].moe
    assert isinstance(moe, MoE)
    x = torch.randn(90, SHAPE["hidden_size"], requires_grad=True)
    _, stats = moe(x)
    theirs = load_balancing_loss_func((x @ moe.router.t(),), 6, top_k)
    assert isinstance(theirs, torch.Tensor)
    assert theirs.item() == pytest.approx(top_k * stats.balance_loss.item(), rel=1e-5)
    (ours_grad,) = torch.autograd.grad(stats.balance_loss, x, retain_graph=True)
    (theirs_grad,) = torch.autograd.grad(theirs, x)
    assert float((top_k * ours_grad - theirs_grad).norm()) <= 1e-5 * float(theirs_grad.norm())
