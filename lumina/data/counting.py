"""The tokenizer that the statistics of files are counted with, and what to say about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lumina.data.documents import Reading
from lumina.data.files import expand
from lumina.data.report import DataError, Issue
from lumina.data.sources import read_documents
from lumina.data.tokenizer import byte_tokenizer, load_tokenizer, train_bpe

LEARNT_FROM = 4_000_000  # characters, in equal parts from the beginnings of the files


def tokenizer_for(
    name: str, vocab_size: int, paths: Sequence[str | Path], reading: Reading
) -> tuple[Tokenizer | None, dict[str, Any]]:
    """bytes, a tokenizer.json, bpe as a run on these files would train it, or none; and a description of it.

    Raises `DataError` for a tokenizer.json that is none.
    """
    if name == "none":
        return None, {"name": None, "vocab_size": None}
    if name == "bytes":
        made, about = byte_tokenizer(), "bytes"
    elif name == "bpe":
        made, about = train_bpe(_beginnings(paths, reading), vocab_size), "bpe, trained on the beginning of these files"
    else:
        made, about = load_tokenizer(Path(name)), name
    return made, {"name": about, "vocab_size": made.get_vocab_size()}


def _beginnings(paths: Sequence[str | Path], reading: Reading) -> Iterator[str]:
    files = _readable(paths)
    for path in files:
        left = LEARNT_FROM // len(files)
        try:
            for item in read_documents(path, reading):
                if isinstance(item, Issue):
                    continue
                yield from item.texts
                left -= sum(map(len, item.texts))
                if left <= 0:
                    break
        except DataError:  # the report will say so; what was read so far is good enough to learn from
            continue


def _readable(paths: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for given in paths:
        try:
            found += expand([given])
        except DataError:  # as above
            continue
    return found
