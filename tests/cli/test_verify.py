"""`lumina verify` reads every checkpoint and says which is damaged, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factories import new_run
from small_states import flip, saved

from lumina.checkpoint import list_checkpoints


def checkpoints(runs: Path) -> Path:
    return new_run(runs, "first").checkpoints


def test_whole_checkpoints_are_ok(lumina: Any, runs: Path) -> None:
    root = checkpoints(runs)
    for step in (1, 2):
        saved(root, step)
    answer = lumina("verify", "first", "--json")
    assert answer.code == 0
    assert (answer.document["run"], answer.document["damaged"]) == ("first", 0)
    assert [(row["name"], row["state"]) for row in answer.document["checkpoints"]] == [
        ("checkpoint_step_1", "ok"),
        ("checkpoint_step_2", "ok"),
    ]


def test_damage_is_found_and_its_place_named(lumina: Any, runs: Path) -> None:
    root = checkpoints(runs)
    one, two, three, _ = [saved(root, step) for step in (1, 2, 3, 4)]
    for name in ("model.safetensors", "optimizer.safetensors"):
        flip(one / name, 8 * (one / name).stat().st_size - 1)
    flip(two / "state.json", 5)
    flip(three / "manifest.json", 5)
    answer = lumina("verify", "first", "--json")
    assert (answer.code, answer.document["damaged"]) == (1, 3)
    told = {row["name"]: (row["state"], row["what"]) for row in answer.document["checkpoints"]}
    assert told["checkpoint_step_1"] == (
        "damaged",
        "model.safetensors does not match its checksum; optimizer.safetensors does not match its checksum",
    )
    assert told["checkpoint_step_2"] == ("damaged", "state.json does not match its checksum")
    assert told["checkpoint_step_3"] == ("damaged", "its manifest is missing or damaged")
    assert told["checkpoint_step_4"][0] == "ok"
    shown = lumina("verify", "first")
    assert shown.code == 1
    assert shown.out.splitlines()[0].split() == ["CHECKPOINT", "STATE", "WHAT"]
    assert shown.out.splitlines()[-1] == "first: 1 ok, 3 damaged"
    assert len(list_checkpoints(root)) == 3, "nothing is moved or deleted"


def test_a_missing_file_is_damage(lumina: Any, runs: Path) -> None:
    (saved(checkpoints(runs), 1) / "optimizer.safetensors").unlink()
    answer = lumina("verify", "first")
    assert answer.code == 1
    assert "optimizer.safetensors" in answer.out


def test_a_run_without_checkpoints_and_no_run(lumina: Any, runs: Path) -> None:
    checkpoints(runs)
    answer = lumina("verify", "first")
    assert (answer.code, answer.out) == (0, "")
    assert answer.err == "lumina: first has no checkpoint\n"
    assert lumina("verify", "second").code == 2
