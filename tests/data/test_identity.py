"""Whether a run's files are still what they were is told by content, file by file."""

from __future__ import annotations

from pathlib import Path

from lumina.config import load_config
from lumina.data import changed_files, contents


def test_changed_gone_and_new_files_are_named(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"text of {name}")
    config = load_config("debug", {"data.base_paths": [str(tmp_path)]})
    before = contents(config)
    (tmp_path / "a.txt").touch()
    assert changed_files(before, contents(config)) == []
    (tmp_path / "a.txt").write_text("text of A")
    (tmp_path / "b.txt").unlink()
    (tmp_path / "d.txt").write_text("new")
    told = changed_files(before, contents(config))
    assert [sentence.split("/")[-1] for sentence in told] == [
        "a.txt has other content now",
        "b.txt is not part of the data any more",
        "d.txt was not part of the data",
    ]
