"""A corpus that tries to break whoever reads it: damaged, lying, oversized and half-right files, made by a generator.

Every entry says exactly what a reader must find: how many samples are good, and which line is bad for what reason.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import zstandard

GOOD = b'{"text": "a good sample"}\n'
CHAT = {"messages": [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Well."}]}
LIMIT = 4096  # bytes for one sample, so that "too long" is quick to make


@dataclass(frozen=True)
class Hostile:
    """A file and what is to be found in it; `error` is why the file as a whole cannot be used."""

    name: str
    write: Callable[[Path], object]
    valid: int
    issues: tuple[tuple[int, str], ...] = ()
    error: str | None = None


def _bytes(name: str, content: bytes, valid: int, *issues: tuple[int, str], error: str | None = None) -> Hostile:
    return Hostile(name, lambda path: path.write_bytes(content), valid, issues, error)


def _line(name: str, line: bytes, reason: str) -> Hostile:
    """A bad line among good ones."""
    return _bytes(name + ".jsonl", GOOD * 3 + line + b"\n" + GOOD, 4, (4, reason))


def _record(name: str, record: Any, reason: str) -> Hostile:
    return _line(name, json.dumps(record).encode(), reason)


def _turns(name: str, turns: Any, reason: str) -> Hostile:
    return _record(name, {"messages": turns}, reason)


ENCODING = [
    _line("invalid-utf8", b'{"text": "na\xefve"}', "not UTF-8 text (byte 13)"),
    _bytes("invalid-utf8.txt", b"fine\n\nand good\nna\xefve\nagain\n", 2, (4, "not UTF-8 text (byte 3)")),
    _bytes("bom.jsonl", b"\xef\xbb\xbf" + GOOD * 2, 2),
    _bytes("bom.json", b"\xef\xbb\xbf[" + GOOD + b"]", 1),
    _bytes("utf16.txt", "text".encode("utf-16"), 0,
           error="this is UTF-16 text (by its byte order mark); save it as UTF-8"),
    _bytes("crlf.jsonl", GOOD.replace(b"\n", b"\r\n") * 3, 3),
    _line("nul", b'{"text": "a\x00b"}', "not JSON (Invalid control character at, column 12)"),
    _bytes("nul-escaped.jsonl", b'{"text": "a\\u0000b"}\n' + GOOD * 3, 4,
           (1, "quality 0.00 is below 0.85 (control 1.00)")),
    _bytes("nul.txt", b"text\x00" * 20, 1, (1, "quality 0.00 is below 0.85 (control 1.00)")),
    _line("lone-surrogate", b'{"text": "x\\ud800y"}', "half a surrogate pair (\\ud800) at character 2: not text"),
    _turns("lone-surrogate-in-a-turn", [{"role": "user", "content": "\udc00"}, {"role": "assistant", "content": "x"}],
           "half a surrogate pair (\\udc00) at character 1: not text"),
]  # fmt: skip
JSON = [
    _line("broken", b'{"text": "a"', "not JSON (Expecting ',' delimiter, column 13)"),
    _line("nested-100000-deep", b'{"text": ' + b"[" * 1000000 + b"]" * 1000000 + b"}",
          f"the line has {2000010:,} bytes; a sample may have at most {LIMIT:,} (data.max_sample_bytes)"),
    _line("nested", b'{"text": ' + b"[" * 2000 + b"]" * 2000 + b"}", "JSON nested too deeply"),
    _line("nan", b'{"text": NaN}', "NaN is not JSON"),
    _line("infinity", b'{"text": "a", "score": -Infinity}', "-Infinity is not JSON"),
    _line("huge-number", b'{"text": ' + b"9" * 4400 + b"}", "the line has 4,410 bytes; a sample may have at most 4,096 "
          "(data.max_sample_bytes)"),
    _line("twice", b'{"text": "a", "text": "b"}', "the key 'text' is there twice in one object"),
    _line("twice-inside", b'{"messages": [{"role": "user", "role": "assistant", "content": "x"}]}',
          "the key 'role' is there twice in one object"),
    _line("two-on-a-line", b'{"text": "a"} {"text": "b"}', "not JSON (Extra data, column 15)"),
    _line("list", b"[1, 2]", "a JSON object is needed, not a list"),
    _line("number", b"7", "a JSON object is needed, not a number"),
    _line("long", b'{"text": "' + b"x" * LIMIT + b'"}', f"the line has {LIMIT + 12:,} bytes; a sample may have at most "
          f"{LIMIT:,} (data.max_sample_bytes)"),
    _bytes("cut-off.json", b'[{"text": "a good sample"},\n {"text": "ano', 1,
           (2, "the file ends inside this JSON value: it is cut off"),
           error="the file ends inside this JSON value: it is cut off"),
    _bytes("unclosed.json", b"[" + GOOD + b"," + GOOD, 2, (3, "the file ends inside this JSON value: it is cut off"),
           error="the file ends inside this JSON value: it is cut off"),
    _bytes("mixed.json", json.dumps([{"text": "a good sample"}, 3, {"text": 4}, {"text": "a good sample"}]).encode(), 2,
           (1, "a JSON object is needed, not a number"), (1, "field text is a number, not text")),
    _bytes("element.json", b'[\n' + GOOD + b",\n{\"text\" 3},\n" + GOOD + b"]", 2,
           (4, "not JSON (Expecting ':' delimiter, column 9)")),
    _bytes("brackets-in-text.json", json.dumps([{"text": 'a ]}", \\" [{'}, {"text": "a \\"}]).encode(), 2),
]  # fmt: skip
SAMPLES = [
    _record("text-is-a-number", {"text": 3}, "field text is a number, not text"),
    _record("text-is-null", {"text": None}, "field text is null, not text"),
    _record("text-is-a-list", {"text": ["a"]}, "field text is a list, not text"),
    _record("empty-text", {"text": " \n"}, "field text is empty"),
    _record("nothing", {}, "neither text nor conversation; its fields are none"),
    _record("samples-inside", {"data": [{"text": "a good sample"}]}, "field data is a list of objects: if these are "
            "the samples, make the list itself the file"),
    _record("preferences", {"prompt": "a", "chosen": "b", "rejected": "c"}, "a pair of a chosen and a rejected answer, "
            "which no training mode takes; give the chosen one as messages"),
    _turns("no-turns", [], "field messages is an empty list"),
    _turns("turns-are-text", "hello", "field messages is text, not a list of messages"),
    _turns("turns-are-null", None, "field messages is null, not a list of messages"),
    _turns("a-turn-is-text", ["hello"], "messages[0] is text, not a message"),
    _turns("no-role", [{"content": "x"}], "messages[0] has no role"),
    _turns("role-is-a-number", [{"role": 1, "content": "x"}], "messages[0] has a role that is a number, not text"),
    _turns("role-is-a-list", [{"role": ["user"], "content": "x"}], "messages[0] has a role that is a list, not text"),
    _turns("unknown-role", [*CHAT["messages"], {"role": "narrator", "content": "x"}],
           "messages[2] has the unknown role 'narrator'; known are system, user, assistant, tool"),
    _turns("content-is-null", [{"role": "user", "content": None}], "messages[0].content is null, not text"),
    _turns("content-is-a-number", [{"role": "user", "content": 1}], "messages[0].content is a number, not text"),
    _turns("an-image", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
           "messages[0].content has a part of type image_url; only text can be trained on"),
    _turns("all-empty", [{"role": "user", "content": ""}, {"role": "assistant", "content": " "}],
           "every message of messages is empty"),
    _turns("nobody-answers", [{"role": "user", "content": "Hello?"}], "messages has no answer of the assistant"),
    _record("sharegpt-to-nobody", {"conversations": [{"from": "human", "value": 3}]},
            "conversations[0].content is a number, not text"),
    _record("alpaca-without-answer", {"instruction": "Do.", "input": "", "output": None},
            "field output is null, not text"),
]  # fmt: skip
LINES = b"".join(b'{"text": "sample number %d of a corpus"}\n' % number for number in range(20000))
CUT_GZIP, CUT_ZSTD = gzip.compress(LINES)[:-4000], zstandard.compress(LINES)[:-1000]


def _bomb(path: Path) -> None:
    """600 MB of one letter in 600 KB, without a line end."""
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(600):
            file.write(b"a" * 1_000_000)


def _table(columns: dict[str, Any]) -> Callable[[Path], object]:
    return lambda path: pyarrow.parquet.write_table(pa.table(columns), path)


def _half_a_table(path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"text": ["a good sample"] * 1000}), path)
    path.write_bytes(path.read_bytes()[:400])


FILES = [
    _bytes("empty.jsonl", b"", 0, error="the file is empty"),
    _bytes("blank.jsonl", b"\n \n", 0, error="no usable sample"),
    _bytes("empty.json", b"[]", 0, error="no usable sample"),
    _bytes("not-gzip.jsonl.gz", GOOD, 0, error="not gzip data, whatever its name says"),
    _bytes("gzip.jsonl", gzip.compress(GOOD), 0, error="its content is gzip, not text; give it the name of what it is"),
    _bytes("pdf.txt", b"%PDF-1.7 ...", 0, error="its content is PDF, not text; give it the name of what it is"),
    _bytes("empty.jsonl.gz", gzip.compress(b""), 0, error="no usable sample"),
    Hostile("bomb.jsonl.gz", _bomb, 0, error="decompresses to more than 500 times its size"),
    Hostile("no-column.parquet", _table({"id": [1, 2], "score": [0.5, 0.1]}), 0, error="no column has text or "
            "conversations; its columns are id, score (data.text_field names another)"),
    Hostile("wrong-type.parquet", _table({"text": [1, 2]}), 0, ((1, "field text is a number, not text"),
            (2, "field text is a number, not text")), error="no usable sample (first: line 1, field text"),
    Hostile("nulls.parquet", _table({"text": ["a good sample", None, "a good sample"]}), 2,
            ((2, "field text is null, not text"),)),
    Hostile("half.parquet", _half_a_table, 0, error="not an intact parquet file"),
    _bytes("text.parquet", b"text", 0, error="not an intact parquet file"),
    _bytes("text.arrow", b"text", 0, error="not an intact arrow file"),
]  # fmt: skip
CORPUS = [*ENCODING, *JSON, *SAMPLES, *FILES]
CUT = {"cut.jsonl.gz": CUT_GZIP, "cut.jsonl.zst": CUT_ZSTD}
