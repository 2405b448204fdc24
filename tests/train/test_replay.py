"""A run that was steered by hand is done again from its journal, bit for bit; or without one of its interventions."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "interventions"))
from small_memory import PHASES, memory_for
from small_trainer import applied, small_trainer

import lumina
from lumina import children, views
from lumina.store.errors import Refusal
from lumina.store.journal import read_entries
from lumina.store.layout import RunPaths
from lumina.store.lock import RunLock
from lumina.store.writer import StoreWriter
from lumina.train import replay
from lumina.train.interrupts import Interrupts
from lumina.train.replay import Comparison
from lumina.train.script import Script

SAVING: dict[str, Any] = {"save_every_n_batches": 5, "eval_interval": 8}


def replayed(paths: RunPaths, **asked: Any) -> dict[str, Any]:
    """What a replay of the run says, computed in this process."""
    child = children.create_replay(paths, **asked)
    replay.run(child, RunLock.acquire(child), StoreWriter(child), Interrupts())
    return views.replay(child)


def receipt(trainer: lumina.Trainer) -> str:
    return str(applied(trainer)[-1].id)


def undo_newest(trainer: lumina.Trainer) -> None:
    """As a person does, with a command and its receipt."""
    pending = lumina.Run(trainer._session.paths).undo(receipt(trainer))
    trainer._steering.at_boundary()
    assert pending.wait(1)["state"] == "verified"


@pytest.fixture
def steered(tmp_path: Path) -> RunPaths:
    """Temperature, batch size, a new expert that is used and pruned, an undo, a rewind, a change after it; extended."""
    with small_trainer(tmp_path, **SAVING) as trainer:
        trainer.train(until=3)
        trainer.adjust_routing_temperature(1.5)
        trainer.adjust_batch_size(3)
        trainer.train(until=6)
        trainer.add_expert(0)
        trainer.train(until=9)
        trainer.prune_expert(0, 8)
        trainer.add_expert(0)
        trainer.prune_expert(0, 1)
        trainer.train(until=11)
        undo_newest(trainer)
        trainer.emergency_lr_reduction(2)
        trainer.train(until=14)
        trainer.adjust_weight_decay(0.3)
        trainer.train(until=17)
        trainer.rollback_steps(6)
        assert trainer.step == 10
        trainer.train(until=12)
        trainer.enable_expert_dropout(0.2)
        trainer.train(until=19)
    paths = trainer._session.paths
    again = lumina.Trainer.open(paths, resume="latest", steps=24)
    again.train()
    again.close()
    return paths


def test_every_checkpoint_of_a_steered_run_is_met_again(steered: RunPaths) -> None:
    found = replayed(steered)
    assert found["verdict"] == "equal", found["checkpoints"]
    # Before each structural change, too; those after step 10 that the rewind left behind are not on the line.
    saved = [(one["step"], one["reason"]) for one in found["checkpoints"] if one["reason"] != "best_val"]
    assert saved == [(5, "periodic"), (6, "intervention"), (9, "intervention"), (9, "intervention"),
                     (9, "intervention"), (10, "periodic"), (15, "periodic"), (19, "final"),
                     (20, "periodic")]  # fmt: skip
    assert found["checkpoints"][-1]["step"] == 24
    child = RunPaths(steered.root.parent / found["child"])
    mine, theirs = (
        lumina.Run(paths).metrics(["loss", "grad_norm", "moe.routing_entropy"]) for paths in (child, steered)
    )
    assert mine.equals(theirs)
    assert [mark["id"] for mark in views.marks(child)] == [mark["id"] for mark in views.marks(steered)]


@pytest.mark.parametrize("phase", [*PHASES, "validation"])
def test_a_run_that_ran_out_of_memory_is_met_again(tmp_path: Path, phase: str) -> None:
    """Also where memory is not short: it goes on in the pieces in which it went on then."""
    with small_trainer(tmp_path, steps=12, eval_sequences=6, batch_size=6, gradient_accumulation_steps=2,
                       save_every_n_batches=2, eval_interval=4) as trainer:  # fmt: skip
        trainer.train(until=3)
        with memory_for(2, trainer._session.engine, phase):
            trainer.train(until=9)
        trainer.train()
        sizes = (trainer._session.batch_size, trainer._session.validation_batch_size)
    paths = trainer._session.paths
    splits = [entry.step for entry in read_entries(paths) if entry.type == "oom_split"]
    assert splits == ([4, 4] if phase == "validation" else [3, 3])
    found = replayed(paths)
    assert found["verdict"] == "equal", found["checkpoints"]
    assert [one["step"] for one in found["checkpoints"]] == [2, 4, 6, 8, 10, 12]
    child = RunPaths(paths.root.parent / found["child"])
    assert lumina.Run(child).metrics(["val_loss"]).equals(lumina.Run(paths).metrics(["val_loss"]))
    assert lumina.Run(child).status()["hparams"]["batch_size"] == sizes[0]


def test_a_run_that_acted_alone_is_met_again(tmp_path: Path) -> None:
    collapse = {"moe.router_init_bias": 6.0, "moe.load_balancing_weight": 0.0, "check_interval": 4, "autonomy": "auto"}
    with small_trainer(tmp_path, steps=44, gradient_accumulation_steps=2, save_every_n_batches=8,
                       **collapse) as trainer:  # fmt: skip
        trainer.train()
    paths = trainer._session.paths
    alone = [entry.doc for entry in read_entries(paths) if entry.type == "applied"]
    assert alone
    assert {doc["author"]["via"] for doc in alone} == {"auto"}
    found = replayed(paths)
    assert found["verdict"] == "equal", found["checkpoints"]
    assert found["checkpoints"][-1]["step"] == 44
    child = RunPaths(paths.root.parent / found["child"])
    again = [entry.doc for entry in read_entries(child) if entry.type == "applied"]
    assert [(doc["id"], doc["step"], doc["after"]) for doc in again] == [
        (doc["id"], doc["step"], doc["after"]) for doc in alone
    ]
    assert not [entry for entry in read_entries(child) if entry.type == "proposal"], "nothing was decided anew"


def test_a_replay_stops_where_it_is_told(steered: RunPaths) -> None:
    found = replayed(steered, to=12)
    assert found["step"] == found["last_step"] == 12
    assert [one["step"] for one in found["checkpoints"]] == [5, 6, 8, 9, 9, 9, 10]
    with pytest.raises(Refusal, match="before the first step"):
        children.create_replay(steered, to=0)


def test_what_depends_on_the_one_left_out_falls_with_it(steered: RunPaths) -> None:
    grown = next(mark for mark in views.marks(steered) if mark["method"] == "add_expert")
    found = replayed(steered, without=grown["id"][:8])
    # Its expert cannot be pruned; the expert that was added later has its number now, and is not mistaken for it.
    assert [(one["method"], one["args"]) for one in found["fallen"]] == [
        ("prune_expert", {"layer_idx": 0, "expert_idx": 8})
    ]
    assert "expert 8 of layer 0 was not added" in found["fallen"][0]["why"]
    assert [one["verdict"] for one in found["checkpoints"]] == ["equal", "equal"], "as it was, until then"
    loss = found["losses"]["loss"]
    assert (loss["step"], found["losses"]["val_loss"]["step"]) == (24, 24)
    assert loss["child"] - loss["parent"] == loss["difference"] != 0
    assert loss["paired"]["steps"] == 24 - grown["step"]
    child = RunPaths(steered.root.parent / found["child"])
    assert lumina.Run(child).status()["layers"]["experts"] == {"0": 8, "1": 8}


def test_an_undo_falls_with_what_it_undoes(tmp_path: Path) -> None:
    with small_trainer(tmp_path, **SAVING) as trainer:
        trainer.train(until=3)
        trainer.adjust_weight_decay(0.3)
        trainer.adjust_routing_temperature(1.5)
        hot = receipt(trainer)
        trainer.train(until=4)
        undo_newest(trainer)
        undone = receipt(trainer)
        trainer.train(until=6)
    paths = trainer._session.paths
    fallen = replayed(paths, without=hot)["fallen"]
    assert [(one["id"], one["kind"]) for one in fallen] == [(undone, "undo")]
    kept = replayed(paths, without=undone)
    child = RunPaths(paths.root.parent / kept["child"])
    assert lumina.Run(child).status()["hparams"]["routing_temperature"] == 1.5
    assert lumina.Run(child).status()["hparams"]["weight_decay"] == 0.3


def test_only_what_is_in_force_can_be_left_out(steered: RunPaths) -> None:
    left_behind = next(
        e for e in read_entries(steered) if e.type == "applied" and e.doc["method"] == "adjust_weight_decay"
    )
    with pytest.raises(Refusal, match="adjust_weight_decay of step 14 was left behind by a rewind"):
        children.create_replay(steered, without=str(left_behind.id))
    with pytest.raises(Refusal, match=r"no intervention 'feed' is in force; there are: .* \(add_expert at step 6\)"):
        children.create_replay(steered, without="feed")


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 400)
    with small_trainer(tmp_path, data=[str(text)], quality_threshold=0.0, **SAVING) as trainer:
        trainer.train(until=6)
    paths = trainer._session.paths
    assert replayed(paths)["verdict"] == "equal"
    text.write_text(text.read_text() + "!")
    with pytest.raises(Refusal, match=r"mine\.txt has other content now"):
        children.create_replay(paths)
    with pytest.raises(Refusal, match=r"mine\.txt has other content now"):
        lumina.Trainer.open(paths, resume="latest", steps=8)
    text.unlink()
    with pytest.raises(Refusal, match=r"mine\.txt"):
        children.create_replay(paths)


def test_another_machine_is_no_mismatch(steered: RunPaths) -> None:
    script = Script.of(steered, to=None, whole=False)
    here = dict(script.stretches[0].fingerprint)
    comparison = Comparison(script, None)
    for mark in script.marks:
        comparison.tell(mark, "0" * 64, {**here, "cpu": "AVX9", "threads": 7})
    assert {one["verdict"] for one in comparison.told} == {"not comparable"}
    assert "threads 1 there, 7 here" in comparison.told[0]["why"]
    comparison.tell(script.marks[0], "0" * 64, here)
    assert comparison.told[-1]["verdict"] == "differs"
    comparison.tell(script.marks[0], script.marks[0].state_hash, {**here, "cpu": "AVX9"})
    assert comparison.told[-1]["verdict"] == "equal", "equal bits are equal wherever they were computed"


def test_a_child_is_not_steered_nor_resumed(steered: RunPaths) -> None:
    child = RunPaths(steered.root.parent / replayed(steered, to=6)["child"])
    with pytest.raises(Refusal, match="is a replay of 'small'"):
        lumina.Run(child).resume(steps=99)
    with pytest.raises(Refusal, match="is a replay of 'small'"):
        children.create_replay(child)
    with pytest.raises(Refusal, match="no child run"):
        children.delete_child(steered)
    assert children.delete_children(steered) == [child.name]
    assert not child.root.exists()


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_interventions_and_undos_replays(tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    changes = [
        lambda t: t.adjust_routing_temperature(choose.choice([0.5, 2.0])),
        lambda t: t.adjust_batch_size(choose.choice([1, 2, 4])),
        lambda t: t.adjust_capacity_factor(choose.choice([0.8, 1.5])),
        lambda t: t.adjust_mod_capacity(choose.choice([0.4, 0.8])),
        lambda t: t.add_expert(choose.choice([0, 1])),
        lambda t: t.prune_expert(choose.choice([0, 1]), choose.randrange(9)),
        lambda t: t.emergency_lr_reduction(2),
        lambda t: t.rollback_steps(choose.randrange(1, 6)),
        lambda t: lumina.Run(t._session.paths).undo(choose.choice(views.marks(t._session.paths))["id"]),
    ]
    with small_trainer(tmp_path, steps=400, **SAVING) as trainer:
        for _ in range(12):
            trainer.train(until=trainer.step + choose.randrange(1, 4))
            try:
                choose.choice(changes)(trainer)
            except (Refusal, IndexError):  # nothing to undo yet, or it makes no sense here: the run goes on
                continue
        trainer.train(until=trainer.step + 3)
    found = replayed(trainer._session.paths)
    assert found["verdict"] == "equal", found["checkpoints"]
