"""A file is judged once, and again as soon as it, or the way of reading it, changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lumina.data import DataError, Reading, check_paths, remembered, validate
from lumina.data.report import FileReport

GOOD = '{"text": "a good sample"}\n'


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The files that were read, in order."""
    names: list[str] = []
    really = validate._check_file

    def noted(path: Path, *rest: object) -> FileReport:
        names.append(path.name)
        return really(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(validate, "_check_file", noted)
    monkeypatch.setattr(remembered, "SETTLED_SECONDS", -1.0)
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    return names


def test_a_file_is_read_again_only_when_it_or_its_reading_changes(judged: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(GOOD * 30 + "{oops\n")
    first, second = check_paths([path]), check_paths([path])
    assert first == second
    assert judged == ["a.jsonl"]
    check_paths([path], reading=Reading(quality_threshold=0.5))
    assert len(judged) == 2
    path.write_text(GOOD * 30 + "{nope\n")
    os.utime(path, ns=(0, 0))
    assert check_paths([path]).totals["valid"] == 30
    assert len(judged) == 3


def test_a_file_that_is_still_being_written_is_read_again(
    judged: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "SETTLED_SECONDS", 60.0)
    (tmp_path / "a.jsonl").write_text(GOOD)
    for _ in range(2):
        check_paths([tmp_path / "a.jsonl"])
    assert len(judged) == 2


def test_a_failure_is_not_remembered_and_a_damaged_memory_is_no_failure(judged: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{oops\n")
    for _ in range(2):
        with pytest.raises(DataError):
            check_paths([tmp_path / "bad.jsonl"])
    (tmp_path / "good.jsonl").write_text(GOOD)
    before = check_paths([tmp_path / "good.jsonl"])
    for stored in (tmp_path / "cache" / "checks").iterdir():
        stored.write_text('{"path": ')
    assert check_paths([tmp_path / "good.jsonl"]) == before
    assert judged == ["bad.jsonl"] * 2 + ["good.jsonl"] * 2
