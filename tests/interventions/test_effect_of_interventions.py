"""What an intervention did is measured in a real run, journalled, and taken back where it hurt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_trainer import SIZE, applied, bits, small_trainer

import lumina
from lumina import views
from lumina.client import Run
from lumina.store.inbox import Command, send
from lumina.store.layout import new_id

# One expert does all the work, so that the run cannot do without it.
ONE_EXPERT: dict[str, Any] = {
    **SIZE,
    "model.num_layers": 1,
    "model.intermediate_size": 64,
    "moe.num_experts": 4,
    "moe.moe_top_k": 1,
    "moe.router_init_bias": 6.0,
    "moe.load_balancing_weight": 0.0,
    "moe.capacity_factor": None,
    "use_mod": False,
    "check_interval": 10,
    "batch_size": 16,
    "gradient_accumulation_steps": 1,
    "warmup_steps": 0,
    "learning_rate": 3e-3,
    "lr_schedule": "constant",
    "intervention_threshold": 0.9,
}
APPLIED, KNOWN, ASKED = 100, 130, 140


def effects(trainer: lumina.Trainer) -> list[tuple[int, str | None, str]]:
    return [(e.step, e.id, e.doc["state"]) for e in trainer._session.journal.entries if e.type == "effect"]


def pruned(directory: Path, **changes: Any) -> lumina.Trainer:
    """A trainer that has lost the expert it depends on, at the step at which that is known."""
    trainer = lumina.Trainer("debug", name="pruned", steps=220, directory=directory, **{**ONE_EXPERT, **changes})
    trainer.train(until=APPLIED)
    trainer.prune_expert(layer_idx=0, expert_idx=0)
    trainer.train(until=ASKED)
    return trainer


def test_an_effect_is_pending_until_the_steps_after_it_are_there(tmp_path: Path) -> None:
    with small_trainer(tmp_path, check_interval=10) as trainer:
        trainer.train(until=15)
        trainer.adjust_routing_temperature(1.5)
        trainer.train(until=44)
        id = applied(trainer)[0].id
        assert effects(trainer) == [(15, id, "pending")]
        trainer.train(until=45)
        assert [(step, known) for step, known, _ in effects(trainer)] == [(15, id), (45, id)]
        trainer._session.writer.flush(10.0)
        (receipt,) = views.receipts(trainer._session.paths, 1)
        (mark,) = views.marks(trainer._session.paths)
        effect = receipt["effect"]
        assert effect == mark["effect"]
        assert effect["state"] in ("helped", "neutral", "hurt", "inconclusive")
        assert (effect["first_step"], effect["last_step"]) == (1, 45)
        assert effect["signals"]["moe.routing_entropy"]["before"] is not None


def test_a_change_that_hurts_asks_for_its_undo_and_the_approval_takes_it_back(tmp_path: Path) -> None:
    with pruned(tmp_path) as trainer:
        session = trainer._session
        receipt = applied(trainer)[0].doc
        assert effects(trainer)[-1] == (KNOWN, receipt["id"], "hurt")
        session.writer.flush(10.0)
        run = Run(session.paths)
        proposal = next(p for p in run.proposals() if p["method"] == "undo")
        assert proposal["args"] == {"receipt": receipt["id"]}
        assert "prune_expert at step 100 made things worse" in proposal["evidence"]["summary"]
        (told,) = [e["message"] for e in views.events(session.paths) if e["kind"] == "health" and e["step"] == ASKED]
        assert "an intervention hurt" in told
        assert "/" not in told
        with pytest.raises(lumina.Refusal, match="no arguments to change"):
            run.approve(proposal["id"], receipt="other")
        answer = run.approve(proposal["id"])
        trainer.train(until=ASKED + 1)
        assert (receipt_of := answer.wait(10)).state == "verified", receipt_of.reason
        assert receipt_of.after == receipt["before"]
        session.writer.flush(10.0)
        assert next(p for p in run.proposals(None) if p["id"] == proposal["id"])["state"] == "approved"
        trainer.train(until=ASKED + 60)
        step, id, state = effects(trainer)[-1]
        assert (step, id) == (ASKED + 30, answer.id), "the undo is measured, too"
        assert state != "pending"
        assert not [p for p in run.proposals() if p["method"] == "undo"]


def test_what_would_be_asked_is_told_as_a_person_writes_it(tmp_path: Path) -> None:
    with pruned(tmp_path, autonomy="observe") as trainer:
        session = trainer._session
        session.writer.flush(10.0)
        told = [e["message"] for e in views.events(session.paths, limit=500) if e["kind"] == "observe"]
        assert any(message.startswith(f"would propose undo(receipt={applied(trainer)[0].id})") for message in told), (
            told
        )


def test_a_rejected_undo_is_not_asked_for_again(tmp_path: Path) -> None:
    with pruned(tmp_path) as trainer:
        session = trainer._session
        (proposal,) = [p for p in session.ledger.open() if p["method"] == "undo"]
        send(session.paths, Command(new_id(), "reject", None, {"why": "patience"}, proposal["id"], {"name": "a"}))
        trainer.train()
        assert session.ledger.proposals[proposal["id"]]["state"] == "rejected"
        assert len([p for p in session.ledger.proposals.values() if p["method"] == "undo"]) == 1


def test_in_auto_what_hurts_is_taken_back_at_once(tmp_path: Path) -> None:
    with pruned(tmp_path, autonomy="auto", check_interval=10, intervention_threshold=0.999) as trainer:
        undone = [entry.doc for entry in applied(trainer) if entry.doc["kind"] == "undo"]
        assert [(doc["method"], doc["author"]["name"]) for doc in undone] == [("prune_expert", "orchestrator")]


def test_an_added_expert_is_taken_back_in_place(tmp_path: Path) -> None:
    with small_trainer(tmp_path) as trainer:
        trainer.train(until=2)
        trainer.add_expert(1)
        trainer.train(until=4)
        added = applied(trainer)[0].doc
        done = trainer._steering.acts.undo(added["id"], {"name": "a", "via": "test"}, id=new_id())
        assert added["after"] == {"num_experts": 9, "capacity_factor": 1.25 * 9 / 8}
        assert done["after"] == {"num_experts": 8, "capacity_factor": 1.25}
        trainer.train(until=6)
        assert trainer._loop.newest_arrays["expert_live"][1].tolist() == [1.0] * 8 + [0.0]


@pytest.mark.parametrize("cut", [105, 125, 135])
def test_a_resumed_run_measures_and_asks_as_the_uninterrupted_one(tmp_path: Path, cut: int) -> None:
    trainer = pruned(tmp_path / "whole")
    trainer.train(until=160)
    whole, whole_bits = [(e.step, e.type) for e in decisions(trainer)], bits(trainer)
    trainer.close()

    halves = lumina.Trainer("debug", name="pruned", steps=220, directory=tmp_path / "halves", **ONE_EXPERT)
    halves.train(until=APPLIED)
    halves.prune_expert(layer_idx=0, expert_idx=0)
    halves.train(until=cut)
    halves.close()
    again = lumina.Trainer.open(halves._session.paths, resume="latest")
    again.train(until=160)
    assert [(e.step, e.type) for e in decisions(again)] == whole
    assert bits(again) == whole_bits
    again.close()


def decisions(trainer: lumina.Trainer) -> list[Any]:
    return [entry for entry in trainer._session.journal.entries if entry.type in ("applied", "effect", "proposal")]
