"""Every common form of training data is found, read and reported, and can be forced."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import polars
import pyarrow as pa
import pytest
import zstandard

from lumina.data import DataError, Reading, check_paths, survey_paths
from lumina.data.sources import Document, Message, read_documents

TURNS = (Message("user", "What is a heron?"), Message("assistant", "A bird that waits."))
CHAT = [{"role": "user", "content": "What is a heron?"}, {"role": "assistant", "content": "A bird that waits."}]
PARTS = [{"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]} for turn in CHAT]
SHAREGPT = [{"from": "human", "value": "What is a heron?"}, {"from": "gpt", "value": "A bird that waits."}]
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "the source's form": ({"conversation": CHAT}, "conversation"),
    "messages": ({"messages": CHAT}, "messages"),
    "messages of typed parts": ({"messages": PARTS}, "messages"),
    "ShareGPT": ({"id": "x", "conversations": SHAREGPT}, "sharegpt"),
    "Alpaca": ({"instruction": "What is a heron?", "input": "", "output": "A bird that waits."}, "alpaca"),
    "Alpaca with its prompt": (
        {"instruction": "What is a heron?", "input": "", "output": "A bird that waits.", "text": "### Instruction"},
        "alpaca",
    ),
    "Dolly": ({"instruction": "What is a heron?", "context": "", "response": "A bird that waits."}, "alpaca"),
    "prompt and completion": ({"prompt": "What is a heron?", "completion": "A bird that waits."}, "pairs"),
    "XTuner": ({"conversation": [{"input": "What is a heron?", "output": "A bird that waits."}]}, "xtuner"),
    "question and answer": ({"question": "What is a heron?", "answer": "A bird that waits."}, "pairs"),
}


def read(path: Path, reading: Reading | None = None) -> list[tuple[str, Any]]:
    """What stands in a file: text or turns, and reasons."""
    found = []
    for item in read_documents(path, reading or Reading()):
        if isinstance(item, Document):
            found.append((item.form, item.messages or item.text))
        else:
            found.append(("issue", (item.line, item.reason)))
    return found


def put(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(("record", "form"), FORMS.values(), ids=list(FORMS))
def test_conversations_are_read_in_every_common_form(tmp_path: Path, record: dict[str, Any], form: str) -> None:
    assert read(put(tmp_path / "a.jsonl", record)) == [(form, TURNS)]
    report = check_paths([tmp_path]).files[0]
    assert (report.format, report.kind, report.forms) == ("jsonl", "conversation", {form: 1})
    assert report.roles == {"user": 1, "assistant": 1}


def test_what_stands_beside_the_turns_is_kept(tmp_path: Path) -> None:
    records = [
        {"conversations": SHAREGPT, "system": "Be brief."},
        {"instruction": "And then?", "input": "On Monday.", "output": "Nothing.", "system": "Be brief.",
         "history": [["What happened?", "It rained."]]},
        {"system_prompt": "Be brief.", "question": "Who?", "response": "Nobody."},
    ]  # fmt: skip
    first, second, third = (turns for _, turns in read(put(tmp_path / "a.jsonl", *records)))
    assert first == (Message("system", "Be brief."), *TURNS)
    assert [turn.role for turn in second] == ["system", "user", "assistant", "user", "assistant"]
    assert second[3].content == "And then?\nOn Monday."
    assert third[0] == Message("system", "Be brief.")


def test_rounds_of_a_conversation_carry_loss_where_they_say(tmp_path: Path) -> None:
    rounds = [
        {"system": "Be brief.", "input": "Who?", "output": "Nobody.", "output_with_loss": False},
        {"input": "", "output": "Nobody at all."},
    ]
    put(tmp_path / "a.jsonl", {"conversation": rounds}, {"conversation": [*rounds, {"input": "Why?"}]})
    (form, turns), issue = read(tmp_path / "a.jsonl")
    assert form == "xtuner"
    assert [(turn.role, turn.content, turn.loss) for turn in turns] == [
        ("system", "Be brief.", True),
        ("user", "Who?", True),
        ("assistant", "Nobody.", False),
        ("assistant", "Nobody at all.", True),
    ]
    assert issue == (
        "issue", (2, "conversation[2] is no round: an object with text under input and output is needed")
    )  # fmt: skip


WRAPPED = {
    "in one line": json.dumps({"version": "1", "data": [{"text": "one"}, {"text": "two"}], "source": [{"text": "no"}]}),
    "over lines": json.dumps({"data": [{"text": "one"}, {"text": "two"}], "n": [[1, 2], [3]]}, indent=1),
    "after others": json.dumps({"about": {"rows": [1]}, "rows": [{"text": "one"}, {"text": "two"}]}, indent=2),
    "twice": '{"data": [{"text": "one"}], "more": {"a": [1, 2]}}\n{"data": [{"text": "two"}]}',
}


@pytest.mark.parametrize("content", WRAPPED.values(), ids=list(WRAPPED))
@pytest.mark.parametrize("block", [7, 1 << 20])
def test_samples_may_stand_in_a_list_inside_of_one_object(
    tmp_path: Path, content: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumina.data.jsonvalues.BLOCK", block)
    (tmp_path / "a.json").write_text(content)
    assert read(tmp_path / "a.json") == [("text", "one"), ("text", "two")]


def test_a_field_of_a_sample_is_no_list_of_samples(tmp_path: Path) -> None:
    samples = [{"text": word, "examples": ["a", "b"]} for word in ("one", "two")]
    (tmp_path / "a.json").write_text("\n".join(json.dumps(sample, indent=2) for sample in samples))
    assert read(tmp_path / "a.json") == [("text", "one"), ("text", "two")]


def test_a_list_of_samples_that_is_cut_off_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n"data": [\n{"text": "one"},\n{"text": "tw')
    with pytest.raises(DataError, match=r"a.json:4: the file ends inside this JSON value: it is cut off"):
        read(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{\n"data": [\n{"text": 1},\n{"text": "two"}],\n"n": 2')
    with pytest.raises(DataError, match=r"a.json:5: the file ends inside"):
        read(tmp_path / "a.json")


def test_a_tool_call_is_what_the_assistant_says(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Graz"}'}}
    turns = [
        {"role": "user", "content": "Is it raining in Graz?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
        {"role": "assistant", "content": "Yes.", "weight": 0},
    ]
    [(_, messages)] = read(put(tmp_path / "a.jsonl", {"messages": turns, "tools": []}))
    assert messages[1] == Message("assistant", '{"name": "weather", "arguments": "{\\"town\\": \\"Graz\\"}"}')
    assert messages[2:] == (Message("tool", "rain"), Message("assistant", "Yes.", loss=False))


TEXTS = [("text", f"sample number {number}") for number in range(5)]
RECORDS = [{"text": text} for _, text in TEXTS]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
WRITTEN: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_bytes(LINES),
    "a.ndjson": lambda path: path.write_bytes(LINES),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "two-members.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES[:24]) + gzip.compress(LINES[24:])),
    "a.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(LINES)),
    "two-frames.jsonl.zst": lambda path: path.write_bytes(
        zstandard.compress(LINES[:24]) + zstandard.compress(LINES[24:])
    ),
    "a.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(LINES)),
    "array.json": lambda path: path.write_text(json.dumps(RECORDS)),
    "pretty.json": lambda path: path.write_text(json.dumps(RECORDS, indent=4)),
    "array.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(RECORDS).encode())),
    "lines.json": lambda path: path.write_bytes(LINES),
    "pretty-objects.json": lambda path: path.write_text("\n".join(json.dumps(r, indent=2) for r in RECORDS)),
    "array.jsonl": lambda path: path.write_text(json.dumps(RECORDS, indent=1)),
    "a.parquet": lambda path: polars.DataFrame(RECORDS).write_parquet(path),
    "a.arrow": lambda path: polars.DataFrame(RECORDS).write_ipc(path),
    "stream.arrow": lambda path: polars.DataFrame(RECORDS).write_ipc_stream(path),
    "a.txt": lambda path: path.write_text("\n\n".join(text + "." * 4000 for _, text in TEXTS)),
    "a.txt.zst": lambda path: path.write_bytes(
        zstandard.compress("\n\n".join(text + "." * 4000 for _, text in TEXTS).encode())
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_kind_of_file_holds_the_same_samples(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITTEN[name](path)
    found = [(form, text.rstrip(".")) for form, text in read(path)]
    assert found == TEXTS
    assert survey_paths([path]).files[0].format == name.split(".", 1)[1]


def test_a_parquet_of_messages(tmp_path: Path) -> None:
    table = pa.table({"messages": [CHAT, CHAT], "source": ["a", "b"]})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [("messages", TURNS)] * 2


def test_a_dataset_that_datasets_saved(tmp_path: Path) -> None:
    made = datasets.Dataset.from_list(RECORDS)
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": made, "test": made.select(range(2))}).save_to_disk(str(tmp_path / "split"))
    (tmp_path / "one" / "cache-1234.arrow").write_bytes(b"left by a map")
    assert check_paths([tmp_path / "one"]).totals["valid"] == 5
    assert check_paths([tmp_path / "split"]).totals["valid"] == 5, "train is taken when no split is named"
    assert check_paths([tmp_path / "split" / "test"]).totals["valid"] == 2


def test_a_form_can_be_forced_and_a_field_named(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", {"messages": CHAT, "body": "The body."}, {"body": "Another."})
    assert read(path)[0] == ("messages", TURNS)
    assert read(path, Reading(text_field="body"))[1] == ("text", "Another.")
    assert read(path, Reading(form="text", text_field="body")) == [("text", "The body."), ("text", "Another.")]
    missing = "not of the form messages (data.format), field messages; its fields are body"
    assert read(path, Reading(form="messages")) == [("messages", TURNS), ("issue", (2, missing))]


def test_mixed_forms_are_counted_by_form(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", {"messages": CHAT}, {"text": "Some text."}, {"conversations": SHAREGPT})
    report = check_paths([tmp_path]).files[0]
    assert (report.kind, report.forms) == ("text and conversation", {"messages": 1, "text": 1, "sharegpt": 1})


def test_folders_and_patterns_give_their_data_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.jsonl", "in/b.jsonl", "in/deep/c.jsonl", ".hidden/d.jsonl", "in/.e.jsonl", "in/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        put(tmp_path / name, *RECORDS)
    (tmp_path / "README.md").write_text("About this data.")
    (tmp_path / "in" / "loop").symlink_to(tmp_path)
    (tmp_path / "in" / "deep" / "loop").symlink_to(tmp_path / "in")

    def names(*given: Path) -> list[str]:
        return [path.name for path in check_paths(given).paths]

    assert names(tmp_path) == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert names(tmp_path / "in" / "*.jsonl") == ["b.jsonl"]
    assert names(tmp_path / "**" / "*.jsonl") == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert names(tmp_path / "in" / "**" / "[c]*.jsonl") == ["c.jsonl"]
    assert names(tmp_path / "a.jsonl", tmp_path) == ["a.jsonl", "b.jsonl", "c.jsonl"], "no file is read twice"
    assert names(tmp_path / "README.md") == ["README.md"], "named, it is text like another"


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.csv", "a table becomes one with polars"), ("a.docx", "unknown kind of file"), ("none/at/all", "no such file")],
)
def test_other_kinds_of_files_are_refused_with_a_way_out(tmp_path: Path, name: str, said: str) -> None:
    if "/" not in name:
        (tmp_path / name).write_text("text\nsample")
    with pytest.raises(DataError, match=said):
        check_paths([tmp_path / name])


def test_a_dataset_of_the_hub_is_fetched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def load(name: str, split: str) -> datasets.Dataset:
        asked.append((name, split))
        return datasets.Dataset.from_list(RECORDS)

    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    monkeypatch.setattr("lumina.data.hub._check_network", lambda _: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [check_paths(["hf:someone/stories@test"]).totals["valid"] for _ in range(2)] == [5, 5]
    assert check_paths(["someone/stories"]).totals["valid"] == 5
    assert asked == [("someone/stories", "test"), ("someone/stories", "train")]


def test_a_hub_that_does_not_answer_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("lumina.data.hub.getproxies", dict)
    with pytest.raises(DataError, match=r"no such file or folder, and the Hugging Face hub cannot be reached"):
        check_paths(["someone/stories"])


def test_a_name_of_the_hub_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("hf:someone/stories", "someone/stories"):
        with pytest.raises(DataError, match="someone/stories: this is a dataset of the Hugging Face hub"):
            check_paths([name])


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(DataError, match="a path is empty"):
        check_paths([""])
