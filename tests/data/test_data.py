from __future__ import annotations

from pathlib import Path

import pytest

from lumina.data import DataError, check_paths
from lumina.data.corpus import generate
from lumina.data.sources import Document, Message
from lumina.data.tokenizer import byte_tokenizer, encode


def test_broken_lines_are_counted_and_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "good"}\n' * 30 + '{"text": \n{"txt": 1}\n')
    report = check_paths([file], max_bad_fraction=0.1)
    assert [(issue.line, issue.reason.split(" ")[0]) for issue in report.files[0].issues] == [
        (31, "not"),
        (32, "neither"),
    ]
    with pytest.raises(DataError, match=r"a.jsonl:31: not JSON.*2 of 32 lines unusable"):
        check_paths([file])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("a.txt", b"", "empty"), ("b.txt", b"fine\n\xff\xfe\n", "b.txt:2: not UTF-8"), ("c.csv", b"x", "unknown kind")],
)
def test_unusable_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        check_paths([tmp_path / name])


def test_missing_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        check_paths([tmp_path / "gone.txt"])
    with pytest.raises(DataError, match=r"no .* files in this folder"):
        check_paths([tmp_path])


def test_exactly_the_assistant_carries_loss() -> None:
    tokenizer = byte_tokenizer()
    talk = Document(messages=(Message("user", "abc"), Message("assistant", "de")))
    [(ids, mask)] = encode(tokenizer, [talk], mask_user=True)
    assert tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "de"


def test_the_corpus_is_a_function_of_its_seed() -> None:
    assert list(generate(3, 20)) == list(generate(3, 20))
    assert list(generate(3, 20)) != list(generate(4, 20))
    assert any(document.messages for document in generate(3, 20))
