"""An expert that is pruned takes no token, is frozen and kept, and comes back by undo as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_trainer import applied, bits, canonical, reopened, small_trainer, undo
from torch import Tensor

import lumina
from lumina.model.moe import STACKED

PRUNED = 3


def expert(trainer: lumina.Trainer, index: int, layer: int = 0) -> dict[str, Tensor]:
    """Weights and moments of one expert."""
    state = canonical(trainer)
    names = [f"layers.{layer}.moe.{name}" for name in STACKED if f"layers.{layer}.moe.{name}" in state.params]
    tables = {"weight": state.params, "mean": state.exp_avg, "square": state.exp_avg_sq}
    return {f"{kind} {name}": table[name][index] for kind, table in tables.items() for name in names}


def logits(trainer: lumina.Trainer, *, training: bool = False) -> Tensor:
    model = trainer._session.engine.model  # type: ignore[attr-defined]
    tokens = torch.from_numpy(trainer._session.loader.batch(0, 4).tokens).long()
    with torch.no_grad():
        found: Tensor = model.train(training).logits(tokens)
    return found


def load(trainer: lumina.Trainer, layer: int = 0) -> list[float]:
    shares: list[float] = trainer.get_expert_statistics()["per_expert_utilization"][layer]
    return shares


@pytest.mark.parametrize("options", [{}, {"bias_balancing": True}, {"expert_dropout": 0.2}, {"router_init_bias": 0.5}])
def test_a_pruned_expert_takes_no_token_and_the_others_go_on(tmp_path: Path, options: dict[str, object]) -> None:
    with small_trainer(tmp_path, **options) as trainer:
        trainer.train(until=3)
        assert load(trainer)[PRUNED] > 0 or "expert_dropout" in options
        trainer.prune_expert(0, PRUNED)
        receipt = applied(trainer)[-1].doc
        assert receipt["before"] == {"num_experts": 8, "pruned_experts": [], "capacity_factor": 1.25}
        assert receipt["after"] == {"num_experts": 7, "pruned_experts": [PRUNED], "capacity_factor": 1.25}
        routers = canonical(trainer).params["layers.0.moe.router"]
        for step in range(4, 8):
            trainer.train(until=step)
            assert load(trainer)[PRUNED] == 0.0
            assert sum(load(trainer)) == pytest.approx(1.0)
        moved = (canonical(trainer).params["layers.0.moe.router"] != routers).any(1)
        assert moved.tolist() == [index != PRUNED for index in range(8)], "the router keeps learning"
        assert trainer._loop.newest_arrays["expert_live"][:, PRUNED].tolist() == [0.0, 1.0]


def test_a_pruned_expert_is_frozen_and_kept_in_the_checkpoint(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, weight_decay=0.1)
    trainer.train(until=3)
    trainer.prune_expert(0, PRUNED)
    frozen, other = expert(trainer, PRUNED), expert(trainer, 0)
    assert frozen["mean layers.0.moe.w_in"].any()
    trainer.train(until=8)
    once = reopened(trainer)
    once.train(until=10)
    assert all(tensor.equal(frozen[name]) for name, tensor in expert(once, PRUNED).items())
    assert not any(tensor.equal(other[name]) for name, tensor in expert(once, 0).items())
    assert load(once)[PRUNED] == 0.0
    undo(once)
    once.train(until=11)
    assert load(once)[PRUNED] > 0
    assert not expert(once, PRUNED)["weight layers.0.moe.w_in"].equal(frozen["weight layers.0.moe.w_in"])
    once.close()


def test_undo_restores_the_logits_bit_for_bit(tmp_path: Path) -> None:
    with small_trainer(tmp_path, capacity_factor=1.0) as trainer:
        trainer.train(until=3)
        state, before = bits(trainer), [logits(trainer, training=mode) for mode in (False, True)]
        trainer.prune_expert(1, PRUNED)
        assert not logits(trainer).equal(before[0]), "masked at once"
        undo(trainer)
        assert [logits(trainer, training=mode).equal(old) for mode, old in zip((False, True), before, strict=True)] == [
            True
        ] * 2
        assert bits(trainer) == state


def test_capacity_follows_the_experts_that_are_left(tmp_path: Path) -> None:
    with small_trainer(tmp_path, use_mod=False, capacity_factor=1.0, gradient_accumulation_steps=1) as trainer:
        for index in range(6):
            trainer.prune_expert(0, index)
        trainer.train(until=1)
        # Two experts, two choices of each token, and room for all of them at the fair share.
        assert trainer._loop.newest["moe.tokens_dropped.layer0"] == 0.0
        assert load(trainer) == pytest.approx([0.0] * 6 + [0.5] * 2)


def test_a_layer_with_one_expert_left_has_not_collapsed(tmp_path: Path) -> None:
    """Its only expert is in even use: no guard opens its depth and no detector calls its router broken."""
    with small_trainer(tmp_path, num_experts=2, moe_top_k=1, check_interval=10) as trainer:
        trainer.train(until=12)
        trainer.prune_expert(0, 1)
        trainer.train(until=40)
        newest = trainer._loop.newest
        assert newest["moe.routing_entropy.layer0"] == newest["moe.load_entropy.layer0"] == 1.0
        assert newest["moe.expert_efficiency.layer0"] == 1.0 - newest["moe.drop_fraction.layer0"]
        assert "router_collapse" not in {entry.doc.get("cause") for entry in trainer._session.journal.entries}


def test_as_many_experts_as_a_token_needs_always_stay(tmp_path: Path) -> None:
    with small_trainer(tmp_path, num_experts=3) as trainer:
        trainer.prune_expert(0, 1)
        state = bits(trainer)
        for args, code, said in (
            ((0, 2), "unsupported", "layer 0 has 2 experts left, and each token needs 2"),
            ((0, 1), "bad_argument", "layer 0 has lost expert 1 already"),
            ((0, 3), "out_of_range", "layer 0 has experts 0 to 2, no expert 3"),
            ((5, 0), "out_of_range", "layer 5 has no experts; layers with experts: 0, 1"),
        ):
            with pytest.raises(lumina.Refusal) as refused:
                trainer.prune_expert(*args)
            assert (refused.value.code, said in refused.value.message) == (code, True), refused.value.message
        assert bits(trainer) == state
        trainer.train(until=3)
        assert trainer._loop.newest["loss"] > 0


def test_an_added_expert_may_be_pruned_and_a_pruned_one_is_never_copied(tmp_path: Path) -> None:
    with small_trainer(tmp_path, expert_ramp_steps=2) as trainer:
        trainer.train(until=3)
        busiest = trainer._steering.controls.experts(0).busiest
        trainer.prune_expert(0, busiest)
        trainer.add_expert(0)
        assert applied(trainer)[-1].doc["resolved"]["source_expert"] != busiest
        assert applied(trainer)[-1].doc["after"] == {"num_experts": 8, "capacity_factor": pytest.approx(1.25 * 8 / 7)}
        trainer.train(until=5)
        assert load(trainer)[8] > 0
        trainer.prune_expert(0, 8)
        trainer.train(until=6)
        assert load(trainer)[8] == load(trainer)[busiest] == 0.0
        undo(trainer)
        trainer.train(until=8)
        assert load(trainer)[8] > 0, "its ramp goes on"


def test_a_new_expert_is_a_noisy_copy(tmp_path: Path) -> None:
    with small_trainer(tmp_path) as trainer:
        trainer.train(until=2)
        state = bits(trainer)
        stacked = torch.randn(4, 50, 30)
        (grown,) = trainer._initialize_new_expert(2, [stacked])
        assert grown[:4].equal(stacked)
        noise = grown[4] - stacked[2]
        assert 0.005 < float(noise.std() / stacked[2].std()) < 0.02
        assert bits(trainer) == state
        # As add_expert does it with the layer's own tensors.
        owned = [canonical(trainer).params[f"layers.0.moe.{name}"] for name in ("router", "w_in", "w_out")]
        trainer.add_expert(0)
        source = applied(trainer)[-1].doc["resolved"]["source_expert"]
        made = [canonical(trainer).params[f"layers.0.moe.{name}"] for name in ("router", "w_in", "w_out")]
        expected = trainer._initialize_new_expert(source, owned)
        assert [one.equal(other) for one, other in zip(made, expected, strict=True)] == [True, True, True]


def test_a_router_that_is_sure_of_one_expert_sends_nothing_to_a_pruned_one(tmp_path: Path) -> None:
    with small_trainer(tmp_path, router_init_bias=30.0, use_mod=False) as trainer:
        trainer.adjust_routing_temperature(0.1)  # the probabilities of all others are zero in float32
        for index in (*range(1, 4), *range(5, 8)):
            trainer.prune_expert(0, index)
        trainer.train(until=1)
        assert load(trainer) == pytest.approx([0.5, 0, 0, 0, 0.5, 0, 0, 0])
