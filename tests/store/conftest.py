"""Fixtures of the store's tests: a run folder, and faults in its durable writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lumina.store import atomic
from lumina.store.layout import RunPaths


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """An empty run folder."""
    run = RunPaths(tmp_path / "first")
    run.make_folders()
    return run


@pytest.fixture
def fail_at() -> Iterator[Callable[[str], None]]:
    """`fail_at("rename")`: from now on that operation fails as a full disk does; undone after the test."""

    def fail(wanted: str) -> None:
        def hook(operation: str, path: Path) -> None:
            if operation == wanted:
                raise OSError(28, "No space left on device", str(path))

        atomic.fault_hook = hook

    yield fail
    atomic.fault_hook = None
