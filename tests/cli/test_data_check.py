"""`lumina data check`: the whole report, as a table and as JSON, also of what cannot be used."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from factories import new_run

from lumina.data.tokenizer import byte_tokenizer

CHAT = {"messages": [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Well, well."}]}
TEXTS = [f"sample {'very ' * number}long" for number in range(50)]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Text, chat and something broken."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS) + "{oops\n")
    (folder / "b.json").write_text(json.dumps([CHAT] * 20 + [{"messages": []}] + [CHAT] * 20))
    return folder


def report(lumina: Any, *words: object) -> dict[str, Any]:
    document: dict[str, Any] = lumina("data", "check", *words, "--json").document
    return document


def test_the_report_has_the_statistics_of_every_file(lumina: Any, files: Path) -> None:
    document = report(lumina, files, "--tokenizer", "bytes")
    text, chat = document["files"]
    lengths = [len(text) + 2 for text in TEXTS]
    assert {name: text[name] for name in ("format", "samples", "valid", "invalid")} == {
        "format": "jsonl", "samples": 51, "valid": 50, "invalid": 1,
    }  # fmt: skip
    assert text["tokens"] == {
        "samples": 50,
        "total": sum(lengths),
        "with_loss": sum(lengths),
        "mean": pytest.approx(statistics.mean(lengths), abs=1e-3),
        "median": statistics.median(lengths),
        "max": max(lengths),
        "min": min(lengths),
        "std": pytest.approx(statistics.pstdev(lengths), abs=1e-3),
    }
    assert sum(bucket["samples"] for bucket in text["lengths"]) == 50
    for bucket in text["lengths"]:
        assert bucket["samples"] == sum(bucket["from"] <= length <= bucket["to"] for length in lengths)
    assert text["quality"]["mean"] > 0.85
    assert (chat["kind"], chat["roles"]) == ("conversation", {"user": 40, "assistant": 40})
    assert chat["issues"] == [{"line": 1, "reason": "field messages is an empty list"}]
    assert document["totals"]["valid"] == 90
    assert document["totals"]["roles"] == chat["roles"]
    assert document["totals"]["tokens"] == text["tokens"]["total"] + chat["tokens"]["total"]


def test_only_the_assistant_is_counted_with_loss_when_that_is_set(lumina: Any, files: Path) -> None:
    words = (files / "b.json", "--tokenizer", "bytes", "--set", "mask_user_tokens=true", "--samples", 1)
    chat = report(lumina, *words)["files"][0]
    assert chat["tokens"]["with_loss"] == 40 * (len("Well, well.") + 1)
    [sample] = chat["shown"]
    assert "".join(sample["tokens"]) == "<bos><user>Well?<sep><assistant>Well, well.<eos>"
    with_loss = [text for text, flag in zip(sample["tokens"], sample["loss"], strict=True) if flag]
    assert "".join(with_loss) == "Well, well.<eos>"
    special = [text for text, flag in zip(sample["tokens"], sample["special"], strict=True) if flag]
    assert special == ["<bos>", "<user>", "<sep>", "<assistant>", "<eos>"]


def test_every_rejected_line_stands_under_the_table(lumina: Any, files: Path) -> None:
    answer = lumina("data", "check", files)
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0].split()[:3] == ["FILE", "FORMAT", "SIZE"]
    assert "tokens: bpe, trained on the beginning of these files" in answer.out
    assert "messages: user 40, assistant 40" in answer.out
    assert f"  {files}/a.jsonl:51: not JSON" in answer.out
    assert f"  {files}/b.json:1: field messages is an empty list" in answer.out


def test_a_file_that_cannot_be_used_does_not_hide_the_others(lumina: Any, files: Path) -> None:
    (files / "c.jsonl").write_text("".join(f"broken {number}\n" for number in range(500)))
    answer = lumina("data", "check", files, files / "gone.txt", "--json")
    assert answer.code == 2
    document = answer.document
    assert [file["usable"] for file in document["files"]] == [True, True, False, False]
    assert len(document["files"][2]["issues"]) == 500
    assert document["files"][3]["issues"] == [{"line": 0, "reason": "there is no such file or folder"}]
    assert document["usable"] is False
    few = report(lumina, files, "--issues", 3)["files"][2]
    assert (len(few["issues"]), few["issues_not_listed"]) == (3, 497)
    table = lumina("data", "check", files)
    assert (table.code, table.out.count(": not JSON (Expecting value")) == (2, 500)
    assert table.err.count("\n") == 1


def test_low_quality_is_counted_apart_and_never_trained_on(lumina: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ["a fine sample", "\0\0\0 noise"]))
    [file] = report(lumina, path)["files"]
    assert (file["valid"], file["invalid"], file["low_quality"], file["tokens"]["samples"]) == (2, 0, 1, 1)
    assert file["issues"][0]["line"] == 2
    assert file["issues"][0]["reason"].startswith("quality 0.00 is below 0.85 (control ")
    assert report(lumina, path, "--set", "quality_threshold=0")["totals"]["low_quality"] == 0


def test_cleaning_makes_a_damaged_sample_a_good_one(lumina: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps({"text": "\ufeffCafe\u0301\u0000 au lait   \r\n\r\n\r\n\r\n\r\nand\ud800 cake\u0007\n"}) + "\n"
    )
    words = ("--tokenizer", "bytes", "--samples", 1, "--set")
    assert lumina("data", "check", path).code == 2
    [file] = report(lumina, path, *words, "automatic_data_cleaning=true")["files"]
    text = byte_tokenizer().decode(byte_tokenizer().encode("Café au lait\n\n\nand cake").ids)
    assert file["tokens"]["total"] == len(text.encode()) + 2
    assert (file["valid"], file["low_quality"]) == (1, 0)


def test_what_the_tokenizer_was_is_told(lumina: Any, files: Path, tmp_path: Path) -> None:
    byte_tokenizer().save(str(tmp_path / "mine.json"))
    assert report(lumina, files)["tokenizer"]["name"] == "bpe, trained on the beginning of these files"
    mine = report(lumina, files, "--tokenizer", tmp_path / "mine.json")["tokenizer"]
    assert mine == {"name": str(tmp_path / "mine.json"), "vocab_size": 264}
    none = report(lumina, files, "--tokenizer", "none")
    assert (none["tokenizer"]["name"], none["files"][0]["tokens"]) == (None, None)
    answer = lumina("data", "check", files, "--tokenizer", tmp_path / "gone.json")
    assert (answer.code, "gone.json: cannot be read" in answer.err) == (2, True)


def test_a_run_says_how_its_files_are_read(lumina: Any, runs: Path, files: Path) -> None:
    new_run(
        runs, **{"data.finetuning_paths": [str(files / "b.json")], "data.tokenizer": "bytes", "data.format": "messages"}
    )
    document = report(lumina, "--run", "first")
    assert document["tokenizer"] == {"name": "of the run first", "vocab_size": 264}
    assert [file["path"] for file in document["files"]] == [str(files / "b.json")]
    other = lumina("data", "check", files / "a.jsonl", "--run", "first")
    assert (other.code, "not of the form messages (data.format)" in other.err) == (2, True)
    new_run(runs, name="second")
    assert "second trains on the built-in corpus" in lumina("data", "check", "--run", "second").err
