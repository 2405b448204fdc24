"""Bytes of a file, decompressed and cut into lines, in bounded memory whatever the file holds.

It knows compression and line ends; it must not know what a line means.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from lumina.data.report import DataError

CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
BLOCK = 1 << 20
STEP = 1 << 13  # decompressed at a time; of a damaged file so much may be missing before the damage
BOMB_BYTES = 256 << 20  # below that much, no ratio is suspicious
BOMB_RATIO = 500  # text compresses 3 to 20 times, very repetitive logs 100 times
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PAR1\x15": "Parquet",
    b"PK\x03\x04": "a zip archive",
    b"%PDF-": "PDF",
    b"ARROW1": "Arrow",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class _Decompressed(io.RawIOBase):
    """A compressed file as a stream; damage and bombs are `DataError`, with nothing read ahead."""

    def __init__(self, path: Path, codec: str) -> None:
        import pyarrow as pa

        self._path, self._codec = path, codec
        self._size = path.stat().st_size
        self._stream = pa.CompressedInputStream(pa.OSFile(str(path)), codec)
        self._out = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Decompresses a little into the buffer. Raises `DataError` for damage and bombs."""
        try:
            data = self._stream.read(min(len(buffer), STEP))
        except OSError as error:
            ended = "Truncated" in str(error)
            raise DataError(
                f"the {self._codec} data ends too early: the file is cut off"
                if ended
                else f"not intact {self._codec} data ({_short(error)})",
                str(self._path),
            ) from error
        self._out += len(data)
        if self._out > max(BOMB_BYTES, BOMB_RATIO * self._size):
            raise DataError(
                f"decompresses to more than {BOMB_RATIO} times its size ({self._size:,} bytes): not read on",
                str(self._path),
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Closes the compressed file, too."""
        self._stream.close()
        super().close()


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:120]


def codec_of(path: Path) -> str | None:
    """gzip, zstd or bz2 by the file's last suffix, or None."""
    return CODECS.get(path.suffix.lower())


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file of text. Raises `DataError`: unreadable, or plainly something else."""
    codec = codec_of(path)
    try:
        with path.open("rb") as file:
            head = file.read(8)
            _refuse_other_content(path, head, codec)
            if codec is None:
                file.seek(0)
                yield file
                return
        with _Decompressed(path, codec) as raw, io.BufferedReader(raw, BLOCK) as stream:
            yield cast(BinaryIO, stream)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", str(path)) from error


def _refuse_other_content(path: Path, head: bytes, codec: str | None) -> None:
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    if codec in ("gzip", "zstd") and head and found != codec:
        raise DataError(f"not {codec} data, whatever its name says", str(path))
    if codec is None and found is not None:
        raise DataError(f"its content is {found}, not text; give it the name of what it is", str(path))
    if codec is None and head.startswith(_UTF16):
        raise DataError("this is UTF-16 text (by its byte order mark); save it as UTF-8", str(path))


def lines(stream: BinaryIO, limit: int) -> Iterator[tuple[int, bytes | int]]:
    """(number, line without its end) for every line; a line above `limit` bytes is given as its size and not kept.

    A byte order mark at the start is dropped.
    """
    number = 0
    while raw := stream.readline(limit + 2):
        number += 1
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if raw.endswith(b"\n") or len(raw) < limit + 2:
            line = raw.rstrip(b"\r\n")
            yield number, line if len(line) <= limit else len(line)
            continue
        size = len(raw)
        while rest := stream.readline(BLOCK):
            size += len(rest)
            if rest.endswith(b"\n"):
                size -= 1
                break
        yield number, size


def too_long(size: int, limit: int) -> str:
    """The reason why a sample of `size` bytes is not read."""
    return f"{size:,} bytes; a sample may have at most {limit:,} (data.max_sample_bytes)"
