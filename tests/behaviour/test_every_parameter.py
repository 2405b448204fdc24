"""Every parameter that the configuration offers does something, and the same thing each time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from parameter_table import TABLE

from lumina.config import parameters
from lumina.data.tokenizer import train_bpe

AVAILABLE = {info.path: info for info in parameters() if info.available is not False}
TALK = {"messages": [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Well."}]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the table names."""
    folder = tmp_path_factory.mktemp("files")
    text = [json.dumps({"text": f"sample {number} of a small corpus"}) + "\n" for number in range(40)]
    (folder / "a.jsonl").write_text("".join(text))
    (folder / "b.jsonl").write_text("".join(text[:11]))
    (folder / "broken.jsonl").write_text("".join(text[:9]) + "{oops\n")
    mixed = [TALK, {"text": "a good text \r\n"}, {"body": "elsewhere"}, {"text": "long " * 50}, {"text": "\0" * 9}]
    (folder / "mixed.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in mixed for _ in range(10)))
    (folder / "chat.jsonl").write_text((json.dumps(TALK) + "\n") * 25)
    train_bpe(["words of a small corpus"] * 5, 270).save(str(folder / "tokenizer.json"))
    return folder


def test_the_table_has_every_available_parameter_and_no_other() -> None:
    assert set(TABLE) == set(AVAILABLE)


@pytest.mark.parametrize("path", TABLE)
def test_changing_the_parameter_changes_behaviour(path: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    case = TABLE[path]
    seen = [case.seen(path, value) for value in case.values]
    assert len(seen) >= 2
    for number, one in enumerate(seen):
        assert all(one != other for other in seen[number + 1 :]), f"{case.values} do the same: {seen}"
    assert case.seen(path, case.values[0]) == seen[0], "the same value twice must not look like a change"
