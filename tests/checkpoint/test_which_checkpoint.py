"""Which checkpoint is tried when one is damaged, which are kept, and what the overview says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from disk import full_disk
from small_states import flip, saved

from lumina.checkpoint import list_checkpoints, load_checkpoint
from lumina.checkpoint.load import set_aside
from lumina.checkpoint.retention import Keep, prune, prune_set_aside, write_overview
from lumina.checkpoint.save import sweep
from lumina.store.errors import Refusal


def damage(folder: Path) -> None:
    model = folder / "model.safetensors"
    flip(model, 8 * model.stat().st_size - 1)


def names(root: Path) -> list[str]:
    return [folder.name for folder, _ in list_checkpoints(root)]


def steps(root: Path) -> list[int]:
    return [manifest.step for _, manifest in list_checkpoints(root)]


def test_the_order_is_latest_previous_best_and_then_the_others(tmp_path: Path) -> None:
    for step, val_loss in ((1, 2.0), (2, 1.0), (3, 3.0), (4, None), (5, None)):
        saved(tmp_path, step, val_loss=val_loss)
    for expected in (5, 4, 2, 3, 1):
        _, manifest, attempts = load_checkpoint(tmp_path, "latest")
        assert manifest.step == expected
        damage(tmp_path / f"checkpoint_step_{expected}")
    told = [(attempt.name, attempt.message.split(":")[0]) for attempt in attempts]
    assert told == [
        ("checkpoint_step_5", "latest"),
        ("checkpoint_step_4", "previous"),
        ("checkpoint_step_2", "best_val"),
        ("checkpoint_step_3", "older"),
        ("checkpoint_step_1", "older"),
    ]
    with pytest.raises(Refusal, match=r"step_1: older: model\.safetensors does not match") as refused:
        load_checkpoint(tmp_path, "latest")
    assert refused.value.code == "corrupt"


def test_the_best_is_the_one_with_the_lowest_loss_of_its_own(tmp_path: Path) -> None:
    for step, val_loss in ((1, 2.0), (2, 1.0), (3, None), (4, float("nan"))):
        saved(tmp_path, step, val_loss=val_loss)
    assert load_checkpoint(tmp_path, "best_val")[1].step == 2
    damage(tmp_path / "checkpoint_step_2")
    assert load_checkpoint(tmp_path, "best_val")[1].step == 1


def test_a_step_that_is_asked_for_has_no_substitute(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    damage(saved(tmp_path, 2))
    with pytest.raises(Refusal, match="can be loaded"):
        load_checkpoint(tmp_path, 2)
    with pytest.raises(Refusal, match="no checkpoint of step 3; there are: 1, 2"):
        load_checkpoint(tmp_path, 3)


def test_damaged_ones_are_set_aside_so_that_they_are_not_the_latest_again(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    damage(saved(tmp_path, 2))
    (tmp_path / "checkpoint_step_3").mkdir()
    set_aside(tmp_path, load_checkpoint(tmp_path, "latest")[2])
    assert names(tmp_path) == ["checkpoint_step_1"]
    assert sorted(path.name for path in (tmp_path / "damaged").iterdir()) == ["checkpoint_step_2", "checkpoint_step_3"]


def test_the_latest_and_the_best_stay(tmp_path: Path) -> None:
    for step, val_loss in ((1, 2.0), (2, 1.0), (3, 1.5), (4, 3.0), (5, 4.0)):
        saved(tmp_path, step, val_loss=val_loss)
    prune(tmp_path, Keep(best=2))
    assert steps(tmp_path) == [2, 3, 5]


def test_without_losses_newer_ones_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        saved(tmp_path, step)
    prune(tmp_path, Keep(best=2))
    assert steps(tmp_path) == [3, 4]


def test_what_epochs_pins_and_undo_need_stays(tmp_path: Path) -> None:
    for step in range(1, 9):
        saved(tmp_path, step, epoch=1 if step == 2 else None, journal_seq=10 * step)
    keep = Keep(best=1, epochs=True, pinned=frozenset({"checkpoint_step_4"}), undoable=(61, 5))
    prune(tmp_path, keep)
    assert steps(tmp_path) == [2, 4, 6, 8]
    prune(tmp_path, Keep(best=1))
    assert steps(tmp_path) == [8]


def test_the_one_just_written_stays_whatever_else_lies_there(tmp_path: Path) -> None:
    newest = saved(tmp_path, 3)
    saved(tmp_path, 9)
    prune(tmp_path, Keep(best=1), newest)
    assert steps(tmp_path) == [3, 9]


def age(folder: Path, seconds: int) -> None:
    """As if the folder had been written at that time."""
    os.utime(folder, (seconds, seconds))


def test_of_what_was_set_aside_the_newest_three_stay(tmp_path: Path) -> None:
    for number in range(5):
        branch, damaged = tmp_path / "abandoned" / f"branch{number // 2}", tmp_path / "damaged"
        for place in (branch, damaged):
            place.mkdir(parents=True, exist_ok=True)
            age(saved(place, 9 - number), 1000 + number)
    (tmp_path / "abandoned" / "notes.txt").write_text("why I went back")
    prune_set_aside(tmp_path)
    assert (tmp_path / "abandoned" / "notes.txt").exists()
    left = sorted(folder.relative_to(tmp_path).as_posix() for folder in tmp_path.glob("*/**/checkpoint_*"))
    assert left == [
        "abandoned/branch1/checkpoint_step_6",
        "abandoned/branch1/checkpoint_step_7",
        "abandoned/branch2/checkpoint_step_5",
        *(f"damaged/checkpoint_step_{step}" for step in (5, 6, 7)),
    ]
    assert not (tmp_path / "abandoned" / "branch0").exists(), "no empty folder stays behind"


def test_what_somebody_forks_from_stays_on_a_branch_that_was_left(tmp_path: Path) -> None:
    branch = tmp_path / "abandoned" / "branch"
    branch.mkdir(parents=True)
    for step in range(1, 6):
        age(saved(branch, step), 1000 + step)
    prune_set_aside(tmp_path, ["checkpoint_step_1"])
    assert steps(branch) == [1, 3, 4, 5]


def test_a_removal_that_was_cut_off_is_ended_at_the_next_start(tmp_path: Path) -> None:
    left = tmp_path / "abandoned" / "branch" / ".0123.removed"
    left.mkdir(parents=True)
    sweep(tmp_path)
    assert not left.exists()


def test_the_overview_is_made_from_the_manifests_and_never_read(tmp_path: Path) -> None:
    for step, val_loss in ((1, 2.0), (2, 1.0), (3, None)):
        saved(tmp_path, step, val_loss=val_loss)
    overview = tmp_path / "metadata.json"
    overview.write_text('{"latest": "checkpoint_step_1", "best_val": "nonsense"')
    assert load_checkpoint(tmp_path, "latest")[1].step == 3
    write_overview(tmp_path, ["checkpoint_step_1"])
    document = json.loads(overview.read_text())
    assert (document["latest"], document["best_val"]) == ("checkpoint_step_3", "checkpoint_step_2")
    assert [(row["name"], row["val_loss"], row["pinned"]) for row in document["list"]] == [
        ("checkpoint_step_1", 2.0, True),
        ("checkpoint_step_2", 1.0, False),
        ("checkpoint_step_3", None, False),
    ]
    size = sum(
        file.stat().st_size for file in (tmp_path / "checkpoint_step_1").iterdir() if "manifest" not in file.name
    )
    assert document["list"][0]["bytes"] == size


@pytest.mark.parametrize("operation", ["mkdir", "create", "write", "fsync", "rename", "fsync_dir"])
def test_a_full_disk_leaves_the_old_ones_and_nothing_half(tmp_path: Path, operation: str) -> None:
    saved(tmp_path, 1)
    with full_disk(operation, within="step_2") as failed, pytest.raises(OSError, match="No space left"):
        saved(tmp_path, 2)
    assert failed
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["checkpoint_step_1"]
    assert saved(tmp_path, 2).name == "checkpoint_step_2"
