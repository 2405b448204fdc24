"""Reads files into documents, and says of every line that is none why. It knows formats, not tokens."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.data.report import DataError, Issue

SUFFIXES = (".txt", ".jsonl")
LATER = (".json", ".parquet", ".jsonl.gz", ".jsonl.zst")
LONG_LINE = 2000  # characters: such a line of a .txt file is a document of its own
BLOCK = 4000  # characters up to which shorter blocks of a .txt file are joined to one document
ROLES = {"human": "user", "gpt": "assistant", "function": "tool", "observation": "tool", "function_call": "assistant"}
KNOWN_ROLES = frozenset({"system", "user", "assistant", "tool"})


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True)
class Document:
    """One sample: text, or a conversation."""

    text: str = ""
    messages: tuple[Message, ...] = ()

    @property
    def kind(self) -> str:
        return "conversation" if self.messages else "text"


def expand(paths: Iterable[str | Path]) -> list[Path]:
    """Files behind paths, folders and patterns, sorted and without repeats.

    Raises `DataError`: missing, of an unknown kind, or a folder with nothing to read.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given)
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in SUFFIXES)
            if not inside:
                raise DataError(f"no {' or '.join(SUFFIXES)} files in this folder", str(path))
            found.update(dict.fromkeys(inside))
        elif path.is_file():
            found[_readable(path)] = None
        else:
            matches = sorted(Path(match) for match in glob.glob(str(given)))
            if not matches:
                raise DataError("there is no such file or folder", str(path))
            found.update(dict.fromkeys(_readable(match) for match in matches if match.is_file()))
    return list(found)


def _readable(path: Path) -> Path:
    if path.suffix in SUFFIXES:
        return path
    if path.name.endswith(LATER):
        raise DataError(f"this format is not available yet; use {' or '.join(SUFFIXES)}", str(path))
    raise DataError(f"unknown kind of file; use {' or '.join(SUFFIXES)}", str(path))


def read_documents(path: Path) -> Iterator[Document | Issue]:
    """Every sample of a file, or the issue that stands in its place.

    A .txt file's documents are its lines of 2,000 characters or more, and otherwise its blocks between blank lines,
    joined up to about 4,000 characters. Raises `DataError` for text that is not UTF-8, naming the line.
    """
    return _text_documents(path) if path.suffix == ".txt" else _json_documents(path)


def _lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Numbered lines without their ends; None where a line is not UTF-8. A byte order mark is dropped."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            data = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            try:
                yield number, data.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield number, None


def _text_documents(path: Path) -> Iterator[Document | Issue]:
    block: list[str] = []
    held = 0
    for number, line in _lines(path):
        if line is None:
            raise DataError("not UTF-8 text", str(path), number)
        if len(line) >= LONG_LINE or (not line.strip() and held >= BLOCK):
            if block:
                yield Document(text="\n".join(block).strip("\n"))
            block, held = [], 0
            if line.strip():
                yield Document(text=line)
            continue
        if line.strip() or block:
            block.append(line)
            held += len(line) + 1
    rest = "\n".join(block).strip()
    if rest:
        yield Document(text=rest)


def _json_documents(path: Path) -> Iterator[Document | Issue]:
    for number, line in _lines(path):
        if line is None:
            yield Issue(number, "not UTF-8 text")
        elif line.strip():
            yield _parse_line(number, line)


def _parse_line(number: int, line: str) -> Document | Issue:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return Issue(number, f"not JSON ({error.msg}, column {error.colno})")
    except RecursionError:
        return Issue(number, "JSON nested too deeply")
    if not isinstance(record, dict):
        return Issue(number, f"a JSON object is needed, not {type(record).__name__}")
    try:
        return _document(record)
    except ValueError as error:
        return Issue(number, str(error))


def _document(record: dict[str, Any]) -> Document:
    for field in ("conversation", "messages", "conversations"):
        if field in record:
            return Document(messages=_messages(record[field], field))
    if isinstance(record.get("instruction"), str) and "output" in record:
        parts = [part for part in (record["instruction"], record.get("input")) if isinstance(part, str) and part]
        turns = [{"role": "user", "content": "\n".join(parts)}, {"role": "assistant", "content": record["output"]}]
        return Document(messages=_messages(turns, "output"))
    if "text" not in record:
        raise ValueError(f"neither text nor conversation; its fields are {', '.join(list(record)[:6]) or 'none'}")
    text = record["text"]
    if not isinstance(text, str):
        raise ValueError(f"field text is {type(text).__name__}, not text")
    if not text.strip():
        raise ValueError("field text is empty")
    return Document(text=text)


def _messages(turns: Any, field: str) -> tuple[Message, ...]:
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"field {field} is not a list of messages")
    messages = []
    for index, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise ValueError(f"{field}[{index}] is not an object")
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        role = ROLES.get(role, role) if isinstance(role, str) else role
        if role not in KNOWN_ROLES:
            raise ValueError(f"{field}[{index}] has the unknown role {role!r}")
        if not isinstance(content, str):
            raise ValueError(f"{field}[{index}].content is not text")
        messages.append(Message(role, content))
    return tuple(messages)


def documents_of(paths: Sequence[Path]) -> Iterator[Document]:
    """All usable samples of the files, in order."""
    for path in paths:
        for item in read_documents(path):
            if isinstance(item, Document):
                yield item
