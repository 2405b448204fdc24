"""A run that was started a moment ago: its tables are there, and nothing is in them yet."""

from __future__ import annotations

from pathlib import Path

from lumina import views
from lumina.store.layout import RunPaths
from lumina.store.schema import connect_writer


def test_a_run_can_be_watched_before_anything_is_stored(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "first")
    paths.make_folders()
    connect_writer(paths.database, "WAL").close()
    live = views.live(paths)
    assert live["full"]
    assert live["series"] == {}
    assert views.live(paths, live["cursor"])["full"]
