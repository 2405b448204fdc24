"""Checkpoints are written while training goes on: when, what is journalled, and what happens when they cannot be."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from disk import full_disk
from small_trainer import bits, killed, small_trainer

import lumina
from lumina.checkpoint import background, list_checkpoints, load_checkpoint, state_hash
from lumina.store.errors import Refusal
from lumina.store.journal import Entry


def lines(trainer: lumina.Trainer) -> list[Entry]:
    return [entry for entry in trainer._session.journal.entries if entry.type == "checkpoint"]


def names(trainer: lumina.Trainer) -> list[str]:
    return [folder.name for folder, _ in list_checkpoints(trainer._session.paths.checkpoints)]


def events(trainer: lumina.Trainer, kind: str) -> list[str]:
    trainer._session.writer.flush(10.0)
    return [event["message"] for event in lumina.Run(trainer._session.paths).events() if event["kind"] == kind]


def health(trainer: lumina.Trainer) -> dict[str, Any]:
    trainer._session.writer.flush(10.0)
    return dict(lumina.Run(trainer._session.paths).status()["health"])


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """No checkpoint gets its name before this event is set."""
    gate, publish = Event(), background.publish

    def waiting(*args: Any) -> Path:
        assert gate.wait(60)
        return publish(*args)

    monkeypatch.setattr(background, "publish", waiting)
    yield gate
    gate.set()


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, held_back: Event) -> None:
    with small_trainer(tmp_path, save_every_n_batches=4) as trainer:
        trainer.train(until=4)
        at_four = bits(trainer)
        trainer.train(until=6)
        assert names(trainer) == [], "it is not there, and two more steps were made"
        assert lines(trainer) == []
        held_back.set()
        trainer._saver.settle()
        (line,) = lines(trainer)
        assert (line.step, line.doc["step"], line.doc["name"]) == (6, 4, "checkpoint_step_4")
        state, manifest, _ = load_checkpoint(trainer._session.paths.checkpoints, 4)
        assert state_hash(state) == manifest.state_hash == line.doc["state_hash"] == at_four
        assert state.meta["trainer"]["step"] == 4


def test_what_was_applied_after_the_snapshot_is_not_in_it(tmp_path: Path, held_back: Event) -> None:
    with small_trainer(tmp_path, save_every_n_batches=4) as trainer:
        trainer.train(until=4)
        trainer.adjust_routing_temperature(1.7)
        held_back.set()
        trainer._saver.settle()
        state, manifest, _ = load_checkpoint(trainer._session.paths.checkpoints, 4)
        assert state.meta["hparams"]["routing_temperature"] == 1.0
        applied = next(entry for entry in trainer._session.journal.entries if entry.type == "applied")
        assert manifest.journal_seq < applied.seq < lines(trainer)[0].seq


def test_one_state_is_written_once(tmp_path: Path) -> None:
    with small_trainer(tmp_path, save_every_n_batches=4) as trainer:
        trainer.train(until=4)
        for _ in range(5):
            trainer._saver.request("manual")
        assert trainer._saver.save("final").name == "checkpoint_step_4"
        assert names(trainer) == ["checkpoint_step_4"]
        trainer.adjust_routing_temperature(1.5)
        assert trainer._saver.save("manual").name == "checkpoint_step_4_2", "the same step, and another state"


def test_a_second_request_waits_for_the_first(tmp_path: Path) -> None:
    with small_trainer(tmp_path, save_every_n_batches=1, save_total_limit=50) as trainer:
        trainer.train(until=8)
        trainer._saver.settle()
        assert names(trainer) == [f"checkpoint_step_{step}" for step in range(1, 9)]
        stalls = lumina.Run(trainer._session.paths).metrics(["checkpoint.stall_seconds"])
        assert stalls["step"].to_list() == list(range(1, 9))


def test_a_full_disk_is_told_and_tried_again(tmp_path: Path) -> None:
    with small_trainer(tmp_path, save_every_n_batches=3) as trainer:
        with full_disk("write", within="writing_step_3"):
            trainer.train(until=5)
            trainer._saver.settle()
        assert "step 3 could not be written" in events(trainer, "checkpoint")[0]
        assert health(trainer)["issues"][0]["code"] == "checkpoint"
        assert health(trainer)["status"] == "critical"
        trainer.train(until=7)
        trainer._saver.settle()
        assert names(trainer) == ["checkpoint_step_6"]
        assert (health(trainer)["status"], health(trainer)["issues"]) == ("healthy", [])


def test_nothing_structural_is_applied_without_a_way_back(tmp_path: Path) -> None:
    with small_trainer(tmp_path) as trainer:
        trainer.train(until=2)
        before = bits(trainer)
        with full_disk("write", within="writing_step_2"), pytest.raises(Refusal, match="No space left") as refused:
            trainer.add_expert(0)
        assert refused.value.code == "busy"
        assert bits(trainer) == before
        trainer.add_expert(0)
        (line,) = lines(trainer)
        assert line.doc["reason"] == "intervention"


def test_a_locked_database_puts_a_checkpoint_off_and_holds_no_step(tmp_path: Path) -> None:
    with small_trainer(tmp_path, save_every_n_batches=2) as trainer:
        trainer.train(until=1)
        other = sqlite3.connect(trainer._session.paths.database, isolation_level=None)
        trainer._session.writer.flush(10.0)
        other.execute("BEGIN IMMEDIATE")
        trainer.train(until=5)
        assert names(trainer) == [], "not before the points up to its step are durable"
        other.execute("ROLLBACK")
        other.close()
        trainer._session.writer.flush(30.0)
        trainer.train(until=7)
        trainer._saver.settle()
        assert names(trainer)[0] == "checkpoint_step_2"


def test_reasons_of_one_step_make_one_checkpoint(tmp_path: Path) -> None:
    sizes = {"eval_interval": 2, "save_every_n_batches": 4, "save_total_limit": 50}
    with small_trainer(tmp_path, **sizes) as trainer:
        trainer.train(until=8)
        trainer._saver.settle()
        reasons = {line.doc["step"]: line.doc["reason"] for line in lines(trainer)}
        losses = {line.doc["step"]: line.doc["val_loss"] for line in lines(trainer)}
        assert reasons[2] == "best_val"
        assert "periodic" in reasons[4]
        assert "best_val" in reasons[4]
        best = min((loss, step) for step, loss in losses.items() if loss is not None)[1]
        assert load_checkpoint(trainer._session.paths.checkpoints, "best_val")[1].step == best


RESTING: dict[str, Any] = {
    "learning_rate": 1e-6, "lr_schedule": "constant", "warmup_steps": 0, "precision": "fp32", "use_moe": False,
    "use_mod": False, "corpus_documents": 300, "eval_interval": 2, "save_every_n_batches": 20, "save_total_limit": 50,
}  # fmt: skip


def told(trainer: lumina.Trainer, first: int, last: int) -> dict[int, tuple[str, str]]:
    """Reason and priority of the checkpoints of these steps."""
    trainer._saver.settle()
    docs = [line.doc for line in lines(trainer) if first <= line.doc["step"] <= last]
    return {doc["step"]: (doc["reason"], doc["priority"]) for doc in docs}


def test_on_a_plateau_only_what_is_better_by_a_thousandth_is_saved_at_once(tmp_path: Path) -> None:
    with small_trainer(tmp_path, steps=80, **RESTING) as trainer:
        trainer.train(until=40)
        trainer._session.writer.flush(10.0)
        losses = lumina.Run(trainer._session.paths).metrics(["val_loss"])["val_loss"].drop_nulls().to_list()
        assert losses == sorted(set(losses), reverse=True), "each is better than all before, by a little"
        assert told(trainer, 1, 4) == {2: ("best_val", "high"), 4: ("best_val", "normal")}
        assert told(trainer, 18, 28) == {20: ("periodic", "low")}
        assert told(trainer, 34, 40) == {40: ("periodic", "low")}
        trainer.intervene("adjust_learning_rate", factor=1000.0)
        trainer.train(until=44)
        assert told(trainer, 41, 44) == {42: ("best_val", "high"), 44: ("best_val", "high")}
        assert events(trainer, "priority")[-2:] == [
            "Checkpoints have low priority, nothing better by 0.1% came on this plateau: only the periodic ones are "
            "saved",
            "Checkpoints have high priority, the newest validation is the best so far: saved at once",
        ]


def test_without_an_orchestrator_whatever_is_better_is_saved_at_once(tmp_path: Path) -> None:
    with small_trainer(tmp_path, use_adaptive_training=False, **RESTING) as trainer:
        trainer.train(until=30)
        assert list(told(trainer, 1, 30)) == list(range(2, 31, 2))


def test_a_resumed_run_saves_what_the_uninterrupted_one_saves(tmp_path: Path) -> None:
    def saved(trainer: lumina.Trainer) -> list[tuple[Any, ...]]:
        trainer._saver.settle()
        return [
            tuple(line.doc[name] for name in ("step", "reason", "priority", "state_hash")) for line in lines(trainer)
        ]

    with small_trainer(tmp_path, "whole", steps=80, **RESTING) as trainer:
        trainer.train(until=45)
        whole = saved(trainer)
    trainer = small_trainer(tmp_path, "cut", steps=80, **RESTING)
    trainer.train(until=29)
    with lumina.Trainer.open(killed(trainer), resume="latest") as again:
        assert again.step == 20, "what the plateau brought after it was not saved"
        again.train(until=45)
        assert saved(again) == whole


def test_the_best_stays_however_much_comes_after_it(tmp_path: Path) -> None:
    changes = {**RESTING, "save_every_n_batches": 4, "save_total_limit": 1}
    with small_trainer(tmp_path, steps=80, **changes) as trainer:
        trainer.train(until=10)
        for _ in range(2):
            trainer.intervene("adjust_learning_rate", factor=1000.0)  # ruins it
        trainer.train(until=40)
        trainer._saver.settle()
        assert names(trainer) == ["checkpoint_step_10", "checkpoint_step_40"]


def test_the_orchestrator_is_shown_how_long_checkpoints_held_the_run(tmp_path: Path) -> None:
    with small_trainer(tmp_path, save_every_n_batches=3) as trainer:
        trainer.train(until=10)
        trainer._session.writer.flush(10.0)
        held = lumina.Run(trainer._session.paths).metrics(["checkpoint.stall_seconds"])
        shown = trainer._session.orchestrator._signals.clock.window("checkpoint.stall_seconds")
        assert held["step"].to_list() == [3, 6, 9]
        assert {index + 1: seconds for index, seconds in enumerate(shown) if seconds} == {
            step + 1: seconds for step, seconds in zip(held["step"], held["checkpoint.stall_seconds"], strict=True)
        }


def test_the_end_of_an_epoch_is_kept_on_request(tmp_path: Path) -> None:
    sizes = {"batch_size": 8, "gradient_accumulation_steps": 8, "keep_epoch_checkpoints": True, "save_total_limit": 1}
    with small_trainer(tmp_path, **sizes) as trainer:
        per_epoch = trainer._session.loader.sequences_per_epoch
        last = 2 * per_epoch // 64 + 2
        trainer.train(until=last)
        trainer._saver.settle()
        ends = [line.doc["step"] for line in lines(trainer) if "epoch" in line.doc["reason"]]
        assert ends == [-(-per_epoch // 64), -(-2 * per_epoch // 64)]
        assert [int(name.split("_")[2]) for name in names(trainer)] == ends


def test_a_structural_change_can_be_rewound_long_after(tmp_path: Path) -> None:
    with small_trainer(tmp_path, save_every_n_batches=1, save_total_limit=1) as trainer:
        trainer.train(until=3)
        trainer.add_expert(0)
        trainer.train(until=9)
        trainer._saver.settle()
        assert names(trainer) == ["checkpoint_step_3", "checkpoint_step_9"]


def test_the_overview_follows(tmp_path: Path) -> None:
    with small_trainer(tmp_path, save_every_n_batches=4) as trainer:
        trainer.train(until=4)
        trainer._saver.settle()
        overview = trainer._session.paths.checkpoints / "metadata.json"
        assert json.loads(overview.read_text())["latest"] == "checkpoint_step_4"


def test_a_rewind_lets_what_is_in_flight_land_first(tmp_path: Path) -> None:
    with small_trainer(tmp_path, save_every_n_batches=2, save_total_limit=50) as trainer:
        trainer.train(until=4)
        trainer.rollback_steps(1)
        assert trainer.step == 2
        assert names(trainer) == ["checkpoint_step_2"]
        first, second = lines(trainer)
        assert {first.segment} == {second.segment} != {trainer._session.segment}
        trainer.train(until=4)
        trainer._saver.settle()
        assert names(trainer) == ["checkpoint_step_2", "checkpoint_step_4"]


def test_going_back_again_and_again_does_not_fill_the_disk(tmp_path: Path) -> None:
    with small_trainer(tmp_path, save_every_n_batches=1, **{"checkpoint.save_total_limit": 4}) as trainer:
        trainer.train(until=3)
        for _ in range(4):
            trainer.rollback_steps(2)
            trainer.train(until=3)
        trainer._saver.settle()
        checkpoints = trainer._session.paths.checkpoints
        assert len(list(checkpoints.glob("abandoned/*/checkpoint_*"))) == 3
        assert names(trainer)[-1].startswith("checkpoint_step_3")
