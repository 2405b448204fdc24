"""A run that was cut off anywhere and resumed has the same bits and the same series as one that was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainer import bits, figures, killed, small_trainer

import lumina
from lumina.engine.torch_engine import TorchEngine
from lumina.store.journal import Entry, read_entries

STEPS = 26
BUSY: dict[str, Any] = {
    "save_every_n_batches": 4,
    "save_total_limit": 50,
    "eval_interval": 3,
    "check_interval": 5,
    "warmup_steps": 10,
    "mod_warmup_steps": 4,
    "mod_anneal_steps": 12,
    "expert_ramp_steps": 6,
    "expert_dropout": 0.1,
    "router_init_bias": 8.0,
    "load_balancing_weight": 0.0,
    "gradient_accumulation_steps": 2,
}
BY_HAND: dict[int, Callable[[lumina.Trainer], None]] = {
    6: lambda trainer: trainer.adjust_routing_temperature(1.5),
    11: lambda trainer: trainer.add_expert(0),
    14: lambda trainer: trainer.adjust_batch_size(1),
    17: lambda trainer: trainer.emergency_lr_reduction(2.0),
}


def go_on(trainer: lumina.Trainer, until: int) -> None:
    """Trains, and does by hand what nobody did before."""
    held = [entry.step for entry in trainer._session.journal.entries if entry.type == "applied"]
    for step in range(trainer.step, until + 1):
        trainer.train(until=step)
        if step in BY_HAND and step not in held and step < until:
            BY_HAND[step](trainer)


def decided(paths: Any) -> list[tuple[int, str, Any]]:
    kinds = ("applied", "proposal", "decision", "effect", "oom_split", "batch_skipped")
    about = ("method", "args", "after", "decision", "cause")
    return sorted(
        (entry.step, entry.type, repr([entry.doc.get(key) for key in about]))
        for entry in read_entries(paths) if entry.type in kinds
    )  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], list[Any]]:
    trainer = small_trainer(tmp_path_factory.mktemp("straight"), **BUSY)
    go_on(trainer, STEPS)
    wanted = bits(trainer)
    paths = killed(trainer)
    return wanted, figures(paths), decided(paths)


@pytest.mark.parametrize("kills", [(5,), (7, 13), (11, 12, 12), (15, 18, 19, 25), (3, 9, 10, 17, 21)])
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, straight: Any, kills: tuple[int, ...]) -> None:
    trainer = small_trainer(tmp_path, **BUSY)
    for step in kills:
        go_on(trainer, step)
        trainer = lumina.Trainer.open(killed(trainer), resume="latest")
    go_on(trainer, STEPS)
    assert bits(trainer) == straight[0]
    paths = killed(trainer)
    found = figures(paths)
    assert found["step"] == list(range(1, STEPS + 1)), "no gap, no double step"
    assert found == straight[1]
    assert decided(paths) == straight[2]


def test_a_checkpoint_taken_while_decisions_are_repeated_forgets_none(tmp_path: Path, straight: Any) -> None:
    trainer = small_trainer(tmp_path, **BUSY)
    go_on(trainer, 19)
    paths = killed(trainer)
    for folder in paths.checkpoints.glob("checkpoint_step_*"):
        if int(folder.name.split("_")[2]) > 4:
            (folder / "manifest.json").unlink()
    trainer = lumina.Trainer.open(paths, resume="latest")
    assert trainer.step == 4
    trainer.train(until=9)
    trainer._saver.save("emergency")  # what was done after steps 11, 14 and 17 still lies ahead
    trainer = lumina.Trainer.open(killed(trainer), resume="latest")
    assert trainer.step == 9
    go_on(trainer, STEPS)
    assert bits(trainer) == straight[0]
    assert decided(killed(trainer)) == straight[2]


def test_a_stop_at_any_step_is_no_different(tmp_path: Path, straight: Any) -> None:
    trainer = small_trainer(tmp_path, **BUSY)
    for step in (1, 2, 8, 16):
        go_on(trainer, step)
        paths = trainer._session.paths
        trainer.close()
        trainer = lumina.Trainer.open(paths, resume="latest")
        assert trainer.step == step
    go_on(trainer, STEPS)
    assert bits(trainer) == straight[0]
    assert figures(killed(trainer)) == straight[1]


def test_when_every_checkpoint_is_damaged_nothing_starts_again(tmp_path: Path) -> None:
    with small_trainer(tmp_path, **BUSY) as trainer:
        trainer.train(until=9)
        paths = trainer._session.paths
    for folder in paths.checkpoints.glob("checkpoint_step_*"):
        (folder / "optimizer.safetensors").write_bytes(b"")
    before = read_entries(paths)
    with pytest.raises(lumina.Refusal, match="no checkpoint") as refused:
        lumina.Trainer.open(paths, resume="latest")
    assert refused.value.code == "corrupt"
    assert "latest: optimizer.safetensors has 0 bytes" in refused.value.message
    assert read_entries(paths) == before


def test_a_damaged_checkpoint_is_told_and_set_aside(tmp_path: Path) -> None:
    with small_trainer(tmp_path, **BUSY) as trainer:
        trainer.train(until=9)
        wanted, paths = bits(trainer), trainer._session.paths
    (paths.checkpoints / "checkpoint_step_9" / "state.json").write_bytes(b"{}")
    with lumina.Trainer.open(paths, resume="latest") as again:
        assert again.step == 8
        again.train(until=9)
        assert bits(again) == wanted
    assert (paths.checkpoints / "damaged" / "checkpoint_step_9").is_dir()
    told = [event["message"] for event in lumina.Run(paths).events() if event["level"] == "critical"]
    assert told == ["Checkpoint checkpoint_step_9 cannot be used: latest: state.json does not match its checksum; "
                    "step 8 is used instead"]  # fmt: skip


def skipped(trainer: lumina.Trainer) -> list[Entry]:
    return [entry for entry in trainer._session.journal.entries if entry.type == "batch_skipped"]


def test_a_gradient_that_is_not_finite_changes_nothing_and_the_batch_is_recorded(tmp_path: Path) -> None:
    with small_trainer(tmp_path) as trainer:
        trainer.train(until=2)
        session = trainer._session
        assert isinstance(session.engine, TorchEngine)
        before = session.engine.export_state()
        ids = session.loader.batch(session.state.position, 12).ids.tolist()
        hook = session.engine.model.embedding.register_hook(lambda gradient: gradient * torch.inf)
        trainer.train(until=3)
        hook.remove()
        after = session.engine.export_state()
        for table in ("params", "exp_avg", "exp_avg_sq", "buffers"):
            kept, found = getattr(before, table), getattr(after, table)
            assert all(torch.equal(kept[name], found[name]) for name in kept), table
        assert after.adam_step == before.adam_step
        (line,) = skipped(trainer)
        assert (line.step, line.doc["position"], line.doc["sequences"], line.doc["ids"]) == (3, 24, 12, ids)
        trainer.train(until=4)
        assert session.state.position == 48, "the next step has the next sequences"
        assert trainer._session.engine.export_state().adam_step != before.adam_step
