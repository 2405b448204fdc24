"""Child runs know their parent, and keep a checkpoint of it from being deleted while they live."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.config import Config
from lumina.launch import create_run
from lumina.store import pins
from lumina.store.errors import Refusal
from lumina.store.family import child_name, children_of, parent_of, parent_paths
from lumina.store.lock import RunLock


def test_a_child_is_found_from_its_parent_and_back(tmp_path: Path) -> None:
    parent = create_run(Config(), "first", tmp_path)
    create_run(Config(), "first.else", tmp_path)
    made = [
        create_run(Config(), child_name(parent, "replay"), tmp_path, {"run": "first", "kind": "replay", "to": number})
        for number in (7, 8)
    ]
    assert [child.name for child in made] == ["first.replay-1", "first.replay-2"]
    assert [child.name for child in children_of(parent)] == ["first.replay-1", "first.replay-2"]
    assert parent_of(made[0]) == {"run": "first", "kind": "replay", "to": 7}
    assert parent_paths(made[1]) == parent
    assert parent_of(parent) is None
    with pytest.raises(Refusal, match="is gone"):
        parent_paths(parent)


def test_a_pin_holds_as_long_as_its_child_lives(tmp_path: Path) -> None:
    parent = create_run(Config(), "first", tmp_path)
    child = create_run(Config(), "first.rehearsal-1", tmp_path, {"run": "first", "kind": "rehearsal"})
    with RunLock.acquire(child):
        pins.pin(parent, child, "checkpoint_step_10")
        assert pins.pinned(parent) == {"checkpoint_step_10"}
        pins.unpin(parent, child)
        assert pins.pinned(parent) == frozenset()
        pins.pin(parent, child, "checkpoint_step_20")
    assert pins.pinned(parent) == frozenset(), "whoever pinned it died"
    assert list(parent.checkpoints.glob("pins/*")) == []
