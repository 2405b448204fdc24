"""Options of the transformer itself: output, positions, normalisation, initial weights, recomputation."""

from __future__ import annotations

import pytest
import torch
from small_models import model, tokens
from torch import Tensor

from lumina.model import Transformer

DENSE = {"use_moe": False, "use_mod": False}


def logits(built: Transformer) -> Tensor:
    with torch.no_grad():
        return built.eval().logits(tokens())


def with_weights_of(source: Transformer, **changes: object) -> Transformer:
    other = model(**changes)
    other.load_state_dict(source.state_dict(), strict=False)
    return other


def test_a_tied_output_is_the_embedding() -> None:
    tied = model(**DENSE, tie_word_embeddings=True)
    assert tied.output_weight is tied.embedding
    untied = model(**DENSE)
    assert untied.output_weight is not untied.embedding
    untied.load_state_dict({**tied.state_dict(), "head": tied.embedding.detach()})
    torch.testing.assert_close(logits(untied), logits(tied))
    assert len(list(untied.parameters())) == len(list(tied.parameters())) + 1


@pytest.mark.parametrize(
    "change", [{"rope_theta": 1e6}, {"rms_norm_eps": 1e-2}, {"use_flash_attention": False, "rope_theta": 100.0}]
)
def test_a_parameter_of_the_layers_changes_what_they_compute(change: dict[str, object]) -> None:
    base = model(**DENSE)
    assert not torch.allclose(logits(base), logits(with_weights_of(base, **DENSE, **change)))


def test_attention_knows_distances_only() -> None:
    # Rotary positions: the same tokens later in a sequence attend to each other in the same way.
    attention, rotary = model(**DENSE).layers[0].attention, model(**DENSE).layers[0].rotary
    x = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(2))
    near, far = (attention(x, *rotary(torch.arange(12).unsqueeze(0) + start)) for start in (0, 40))
    torch.testing.assert_close(near, far, atol=1e-4, rtol=1e-4)


def test_the_initial_weights_have_the_given_spread() -> None:
    for spread in (0.01, 0.1):
        built = model(initializer_range=spread)
        assert float(built.embedding.detach().std()) == pytest.approx(spread, rel=0.1)
        assert float(built.layers[0].moe.w_in.detach().std()) == pytest.approx(spread, rel=0.1)  # type: ignore[union-attr]


@pytest.mark.parametrize("family", [{}, DENSE, {"use_mod": False}, {"expert_dropout": 0.3, "num_shared_experts": 1}])
def test_recomputed_gradients_are_the_same(family: dict[str, object]) -> None:
    grads = []
    for again in (False, True):
        built = model(**family, gradient_checkpointing=again)
        output = built(tokens(), tokens())
        (output.loss_sum + output.auxiliary).backward()
        grads.append({name: p.grad for name, p in built.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=name)


def test_recomputing_keeps_less() -> None:
    def kept(again: bool) -> int:
        built, total = model(num_layers=4, gradient_checkpointing=again), 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            built(tokens(), tokens())
        return total

    assert kept(True) < 0.5 * kept(False)
