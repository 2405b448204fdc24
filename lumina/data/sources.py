"""Reads files into documents, and says of every line that is none why.

It knows which reader a file needs; it must not know tokens. `documents_of` is what a run trains on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from lumina.data.clean import cleaned
from lumina.data.documents import Document, Message, Reading
from lumina.data.files import LINES, TABLES, TEXT, expand, format_of
from lumina.data.jsonvalues import Found, in_lines, line_values, values
from lumina.data.quality import Judged, judge
from lumina.data.records import BadRecord, document
from lumina.data.report import Issue
from lumina.data.streams import lines, opened, too_long
from lumina.data.tables import rows

__all__ = ["Document", "Message", "Reading", "documents_of", "expand", "judged", "read_documents"]

LONG_LINE = 2000  # characters: such a line of a text file is a document of its own
BLOCK = 4000  # characters up to which shorter blocks of a text file are joined to one document
LONGEST = 100_000  # characters after which a block without an empty line ends at the end of a line
DEFAULT = Reading()


def documents_of(paths: Sequence[Path], reading: Reading = DEFAULT) -> Iterator[Document]:
    """All samples of the files that a run trains on, in order: well-formed, and of the wanted quality.

    Raises `DataError` for a file that is damaged.
    """
    for path in paths:
        if reading.quality_threshold <= 0.0:  # everything is good enough, so that no score is needed
            yield from (item for item in read_documents(path, reading) if isinstance(item, Document))
            continue
        for item in judged(path, reading):
            if isinstance(item, Judged) and item.quality.score >= reading.quality_threshold:
                yield item.document


def judged(path: Path, reading: Reading = DEFAULT) -> Iterator[Judged | Issue]:
    """Every sample of a file with its quality, or the issue that stands in its place. Raises `DataError`."""
    return judge(read_documents(path, reading))


def read_documents(path: Path, reading: Reading = DEFAULT) -> Iterator[Document | Issue]:
    """Every sample of a file, cleaned if that is asked for, or the issue that stands in its place.

    The documents of a text file are its lines of 2,000 characters or more, and otherwise its blocks between blank
    lines, joined up to about 4,000 characters. Raises `DataError` for a file that is damaged.
    """
    for item in _found(path, reading):
        if isinstance(item, Issue):
            yield item
            continue
        placed = replace(item, file=str(path))
        kept = cleaned(placed) if reading.cleaning else placed
        yield kept if kept is not None else Issue(placed.line, "nothing is left of it after cleaning")


def _found(path: Path, reading: Reading) -> Iterator[Document | Issue]:
    kind = format_of(path) or ""
    suffix = f".{kind.split('.')[0]}"
    if suffix in TABLES:
        yield from _documents(rows(path, reading), reading)
        return
    with opened(path) as stream:
        if suffix in TEXT:
            yield from _text_documents(stream, reading)
            return
        head = _first_line(path, reading.max_sample_bytes)
        if in_lines(head, named_lines=suffix in LINES):
            yield from _documents(line_values(stream, reading.max_sample_bytes), reading)
        else:
            yield from _documents(values(stream, reading.max_sample_bytes, str(path)), reading)


def _first_line(path: Path, limit: int) -> bytes:
    """The first line that is not empty, without the spaces around it."""
    with opened(path) as stream:
        for _, line in lines(stream, limit):
            if isinstance(line, bytes) and line.strip():
                return line.strip()
    return b""


def _documents(found: Iterable[Found], reading: Reading) -> Iterator[Document | Issue]:
    for item in found:
        if isinstance(item, Issue):
            yield item
            continue
        line, record = item
        try:
            yield replace(document(record, reading), line=line)
        except BadRecord as error:
            yield Issue(line, str(error))


def _text_documents(stream: BinaryIO, reading: Reading) -> Iterator[Document | Issue]:
    block: list[str] = []
    held = start = 0
    for number, raw in lines(stream, reading.max_sample_bytes):
        line = _text_line(number, raw, reading)
        whole = isinstance(line, Issue) or len(line) >= LONG_LINE
        if whole or held >= LONGEST or (held >= BLOCK and not str(line).strip()):
            if block:
                yield Document(text="\n".join(block).strip("\n"), line=start)
            block, held = [], 0
        if isinstance(line, Issue):
            yield line
            continue
        if whole:
            yield Document(text=line, line=number)
            continue
        if line.strip() or block:
            start = start if block else number
            block.append(line)
            held += len(line) + 1
    rest = "\n".join(block).strip()
    if rest:
        yield Document(text=rest, line=start)


def _text_line(number: int, raw: bytes | int, reading: Reading) -> str | Issue:
    if isinstance(raw, int):
        return Issue(number, f"the line has {too_long(raw, reading.max_sample_bytes)}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Issue(number, f"not UTF-8 text (byte {error.start + 1})")
