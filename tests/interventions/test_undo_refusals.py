"""An undo is refused, with its reason, where a later change lies on top, or where it is not possible any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_trainer import applied, hparams, reopened, small_trainer

import lumina
from lumina import views
from lumina.store.errors import Refusal


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[lumina.Trainer]:
    with small_trainer(tmp_path, save_every_n_batches=2) as made:
        made.train(until=2)
        yield made


def newest(trainer: lumina.Trainer) -> str:
    return str(applied(trainer)[-1].id)


def undo(trainer: lumina.Trainer, receipt: str) -> dict[str, Any]:
    """As a person asks for it: the receipt that comes back."""
    trainer._session.writer.flush(10)
    pending = lumina.Run(trainer._session.paths).undo(receipt)
    trainer._steering.at_boundary()
    return dict(pending.wait(1))


def told_beforehand(trainer: lumina.Trainer, receipt: str) -> str | None:
    """What a screen knows before anybody clicks."""
    return next(mark["undo"] for mark in views.marks(trainer._session.paths) if mark["id"] == receipt)


def test_beneath_a_later_change_of_the_same_value(trainer: lumina.Trainer) -> None:
    trainer.adjust_routing_temperature(1.5)
    first = newest(trainer)
    trainer.adjust_routing_temperature(2.0)
    second = newest(trainer)
    trainer.adjust_routing_temperature(1.5)  # the value is the first one's again; its undo would hit this one
    third = newest(trainer)
    refused = undo(trainer, first)
    assert (refused["state"], refused["code"]) == ("refused", "superseded")
    assert (
        f"adjust_routing_temperature of step 2 (receipt {third[:8]}) changed routing_temperature" in refused["reason"]
    )
    assert told_beforehand(trainer, first) == refused["reason"]
    assert hparams(trainer)["routing_temperature"] == 1.5
    for receipt, value in ((third, 2.0), (second, 1.5), (first, 1.0)):  # from the top down they all come off
        assert told_beforehand(trainer, receipt) is None
        assert undo(trainer, receipt)["after"] == {"routing_temperature": value}


def test_a_later_change_of_another_value_does_not_matter(trainer: lumina.Trainer) -> None:
    trainer.adjust_weight_decay(0.2)
    decay = newest(trainer)
    trainer.adjust_routing_temperature(2.0)
    trainer.emergency_lr_reduction(2)
    assert undo(trainer, decay)["after"] == {"weight_decay": 0.01}


def test_a_pruned_expert_after_another_prune(trainer: lumina.Trainer) -> None:
    trainer.prune_expert(0, 3)
    first = newest(trainer)
    trainer.prune_expert(0, 5)
    trainer.train(until=4)
    assert undo(trainer, first)["after"]["pruned_experts"] == [5]
    trainer.train(until=5)


def test_an_added_expert_beneath_another(trainer: lumina.Trainer) -> None:
    trainer.add_expert(1)
    first = newest(trainer)
    trainer.add_expert(1)
    assert "add_expert of step 2" in undo(trainer, first)["reason"]
    trainer.prune_expert(0, 1)  # another layer
    assert "add_expert of step 2" in undo(trainer, first)["reason"]


def test_an_undo_is_not_undone(trainer: lumina.Trainer) -> None:
    trainer.adjust_routing_temperature(1.5)
    changed = newest(trainer)
    undo(trainer, changed)
    refused = undo(trainer, newest(trainer))
    assert refused["code"] == "unsupported"
    assert "is itself an undo; send adjust_routing_temperature again instead" in refused["reason"]
    assert "was undone already, at step 2" in undo(trainer, changed)["reason"]


def test_what_a_rewind_left_behind(trainer: lumina.Trainer) -> None:
    trainer.adjust_weight_decay(0.2)
    kept = newest(trainer)
    trainer.train(until=5)
    trainer.adjust_routing_temperature(1.5)
    lost = newest(trainer)
    trainer.train(until=7)
    trainer.rollback_steps(3)
    rewound = trainer._session.journal.entries[-1].doc["receipt"]["id"]
    assert trainer.step == 4
    with pytest.raises(Refusal, match="adjust_routing_temperature of step 5 was left behind by a later rewind"):
        undo(trainer, lost)
    with pytest.raises(Refusal, match="went back to step 4; what it left stays a branch of the run"):
        undo(trainer, rewound)
    with pytest.raises(Refusal, match="no intervention"):
        undo(trainer, "0" * 32)
    assert undo(trainer, kept)["after"] == {"weight_decay": 0.01}


def test_after_a_resume_all_is_as_before(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, save_every_n_batches=2)
    trainer.train(until=3)
    trainer.adjust_routing_temperature(1.5)
    first = newest(trainer)
    trainer.adjust_routing_temperature(2.0)
    second = newest(trainer)
    trainer.adjust_weight_decay(0.3)
    undone = newest(trainer)
    undo(trainer, undone)
    with reopened(trainer) as again:
        again.train(until=5)
        assert undo(again, first)["code"] == "superseded"
        assert "was undone already" in undo(again, undone)["reason"]
        assert undo(again, second)["after"] == {"routing_temperature": 1.5}
        assert undo(again, first)["after"] == {"routing_temperature": 1.0}


def test_of_an_unknown_receipt_names_what_is_in_force_and_nothing_else(trainer: lumina.Trainer) -> None:
    trainer.adjust_routing_temperature(1.5)
    taken_back = newest(trainer)
    trainer.adjust_weight_decay(0.2)
    in_force = newest(trainer)
    assert undo(trainer, taken_back)["state"] == "verified"
    trainer._session.writer.flush(10)
    with pytest.raises(Refusal) as refused:
        lumina.Run(trainer._session.paths).undo("f" * 32)
    assert refused.value.code == "not_found"
    assert f"there are: {in_force[:8]} (adjust_weight_decay at step 2)" in refused.value.message
    assert taken_back[:8] not in refused.value.message
