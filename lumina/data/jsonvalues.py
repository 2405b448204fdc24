"""JSON values out of `.jsonl` and `.json` files one at a time, each with its line; what is no JSON gets a reason.

It knows JSON, not samples. A `.json` file may be an array, an object, objects one after the other, JSON Lines, or an
object with the array under `data` or the like.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from lumina.data.report import DataError, Issue
from lumina.data.streams import BLOCK, lines, too_long

_OUTSIDE = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'["\\]')
_SPACE = b" \t\r\n"
AROUND = ("data", "train", "samples", "examples", "instances", "rows")  # keys under which a file's samples may stand
_BEFORE_SAMPLES = re.compile(rb'"(?:%b)"\s*:\s*\Z' % "|".join(AROUND).encode())
_KEY_BYTES = 64
_BLANKS = 256  # that may stand before the first sample of a list
Found = tuple[int, Any] | Issue


class _Refused(ValueError):
    """JSON that Python would read and that means nothing certain."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _Refused(f"the key {twice[:40]!r} is there twice in one object")
    return made


def _no_number(word: str) -> NoReturn:
    raise _Refused(f"{word} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number)


def parse(line: int, data: bytes) -> Found:
    """The value that `data` is, with its line, or why it is none."""
    try:
        return line, _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Issue(line, f"not UTF-8 text (byte {error.start + 1})")
    except json.JSONDecodeError as error:
        inner = line + error.lineno - 1
        return Issue(inner, f"not JSON ({error.msg}, column {error.colno})")
    except RecursionError:
        return Issue(line, "JSON nested too deeply")
    except _Refused as error:
        return Issue(line, str(error))
    except ValueError:  # Python's limit on the digits of an integer
        return Issue(line, "a number with more digits than can be read")


def line_values(stream: BinaryIO, limit: int) -> Iterator[Found]:
    """One value per line; empty lines are skipped."""
    for number, line in lines(stream, limit):
        if isinstance(line, int):
            yield Issue(number, f"the line has {too_long(line, limit)}")
        elif line.strip():
            yield parse(number, line)


def values(stream: BinaryIO, limit: int, file: str) -> Iterator[Found]:
    """The elements of the array that the file is, or the values that follow each other in it.

    Raises `DataError` when the file ends inside a value.
    """
    splitter = _Splitter(limit)
    first = True
    while chunk := stream.read(BLOCK):
        if first:
            chunk, first = chunk.removeprefix(b"\xef\xbb\xbf"), False
        for line, item in splitter.feed(chunk):
            yield _value(line, item, limit)
    if (rest := splitter.rest()) is not None:
        yield _value(*rest, limit)
    if splitter.open_since is not None:
        raise DataError("the file ends inside this JSON value: it is cut off", file, splitter.open_since)


def _value(line: int, item: bytes | int, limit: int) -> Found:
    return Issue(line, f"the value has {too_long(item, limit)}") if isinstance(item, int) else parse(line, item)


def in_lines(head: bytes, *, named_lines: bool) -> bool:
    """Whether a file whose first line that is not empty is `head` has one value per line."""
    if head.startswith(b"[") or head == b"{":
        return False
    return named_lines or not (isinstance(found := parse(1, head), Issue) or _stands_around(found[1]))


def _stands_around(value: Any) -> bool:
    """Whether a value holds the samples of its file in a list."""
    lists = [value.get(key) for key in AROUND] if isinstance(value, dict) else []
    return any(isinstance(one, list) and one and isinstance(one[0], dict) for one in lists)


class _Splitter:
    """Cuts a stream of JSON where its elements end, counting lines; that they are JSON is for `parse` to say."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._depth = 0
        self._base = 0  # depth of the elements: 1 inside an outermost array, 2 inside one in an object, 0 without one
        self._found = self._over = False  # a value was found; the array in an object has been read
        self._in_string = self._escaped = False
        self._held = bytearray()
        self._size = 0  # of the value being read, also of one that is not kept
        self._line = self._start = 1  # of the next byte; of the value being read

    @property
    def open_since(self) -> int | None:
        """The line of what is not closed yet: a value, or the array around all of them."""
        if self._depth == 0 and not self._in_string:
            return None
        return self._start if self._size else self._line

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | int]]:
        """The values that end in `chunk`, each with its line; one above the limit as its size."""
        at, position = 0, int(self._escaped)  # an escaped byte may be the first of a chunk
        self._escaped = False
        while found := (_INSIDE if self._in_string else _OUTSIDE).search(chunk, position):
            position, mark = found.end(), found.group()
            if mark == b'"':
                self._in_string = not self._in_string
            elif mark == b"\\":
                self._escaped = position == len(chunk)
                position += 1
            elif mark == b"[" and self._begins_samples(chunk[at : position - 1], chunk[position : position + _BLANKS]):
                self._take(chunk[at:position])
                self._drop()
                at, self._depth, self._base = position, 2, 2
            elif (ends := self._ends(mark, chunk[at : position - 1])) is not None:
                self._take(chunk[at : position if ends else position - 1])
                at = position
                if self._size:
                    yield self._start, self._end()
                self._follow_samples()
        self._take(chunk[at:])

    def _ends(self, mark: bytes, before: bytes) -> bool | None:
        """Follows one of []{}, outside of strings. A value ends with it (True), before it (False), or not (None)."""
        outermost = self._depth == 0
        if mark in b"{[":
            self._depth += 1
            if outermost:
                self._base = int(mark == b"[" and not self._size and not before.strip(_SPACE))
            return False if outermost and self._base else None
        if mark == b",":
            return False if outermost or self._depth == self._base else None
        if outermost:  # closes what was never opened
            return True
        self._depth -= 1
        if self._depth < self._base:  # the outermost array closes
            return False
        return True if self._depth == self._base else None

    def _begins_samples(self, before: bytes, after: bytes) -> bool:
        """Whether a bracket opens the list of samples in the object that the whole file is; samples are objects."""
        inside = self._depth == 1 and self._base == 0 and not self._found
        return (
            inside
            and after.lstrip(_SPACE)[:1] in (b"{", b"")
            and bool(_BEFORE_SAMPLES.search(bytes(self._held[-_KEY_BYTES:]) + before[-_KEY_BYTES:]))
        )

    def _follow_samples(self) -> None:
        """Nothing is kept from the end of such a list to the end of its object."""
        if self._depth < self._base == 2:
            self._over = self._depth > 0
            self._found = self._found and self._over

    def _take(self, piece: bytes) -> None:
        if self._over:
            self._line += piece.count(b"\n")
            return
        if not self._size:
            stripped = piece.lstrip(_SPACE)
            self._line += piece.count(b"\n", 0, len(piece) - len(stripped))
            self._start, piece = self._line, stripped
        self._line += piece.count(b"\n")
        self._size += len(piece)
        if self._size <= self._limit:
            self._held += piece
        else:
            self._held.clear()

    def _end(self) -> bytes | int:
        held, size = bytes(self._held), self._size
        self._drop()
        self._found = True
        return held if size <= self._limit else size

    def _drop(self) -> None:
        self._held.clear()
        self._size = 0

    def rest(self) -> tuple[int, bytes | int] | None:
        """What stands at the end of the file outside of any brackets."""
        return (self._start, self._end()) if self._size and self.open_since is None else None
