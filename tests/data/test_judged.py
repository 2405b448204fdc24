"""A file that was judged is not read again while it stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.client import check_needs
from lumina.config import load_config
from lumina.data import DataError, validate


def test_the_second_check_reads_nothing_and_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "good"}\n' * 30 + "{oops\n")
    config = load_config("debug", {"base_paths": file})
    first = check_needs(config)
    with monkeypatch.context() as patch:
        patch.setattr(validate, "_check_file", lambda *_: pytest.fail("read again"))
        assert check_needs(config) == first
        assert first.files[0].issues[0].line == 31
    file.write_text('{"text": "good"}\n' * 30)
    assert check_needs(config).totals["invalid"] == 0


def test_another_limit_is_another_judgement_and_an_error_stays_one(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "good"}\n' * 9 + "{oops\n")
    assert check_needs(load_config("debug", {"base_paths": file, "max_bad_fraction": 0.2})).totals["invalid"] == 1
    for _ in range(2):
        with pytest.raises(DataError, match=r"a.jsonl:10"):
            check_needs(load_config("debug", {"base_paths": file}))
