"""Documents into stored tokens, as a stream: read, encoded and written side by side, in memory that does not grow.

It knows tokens and documents; which files they come from and what sequences are made of them is not its business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lumina.data.order import WORD, key_of, scrambled
from lumina.data.sources import Document
from lumina.data.tokenizer import BOS, EOS, encode, encode_texts, pieces_of, special_id
from lumina.data.tokens import FIRST, LOSS, Flags, TokenWriter

BATCH_CHARS = 1 << 19  # text encoded at once; its encodings take about a hundred bytes a token
BATCH_DOCUMENTS = 1 << 12
GOLDEN = 0x9E3779B97F4A7C15
Batch = list[Document]
Encoded = tuple[NDArray[Any], Flags]
Tell = Callable[[int], None]  # characters so far


class HeldOut:
    """Which documents are held out for validation: one of every 1 / `fraction`, at a random place among them."""

    def __init__(self, fraction: float, seed: int) -> None:
        self._share, self._key = Fraction(fraction).limit_denominator(1_000_000), key_of(seed, 3)

    def __call__(self, number: int) -> bool:
        group = number * self._share.numerator // self._share.denominator
        first, last = (-(-one * self._share.denominator // self._share.numerator) for one in (group, group + 1))
        return number == first + scrambled(self._key ^ group) % (last - first)


def write_documents(documents: Iterable[Document], tokenizer: Tokenizer, mask_user: bool,
                    writer_of: Callable[[int], TokenWriter], tell: Tell) -> None:  # fmt: skip
    """Encodes documents and gives number n to `writer_of(n)`. One batch is read while another is encoded."""
    number = characters = 0
    with ThreadPoolExecutor(1, thread_name_prefix="lumina-tokenise") as pool:
        waiting: tuple[Batch, Future[list[Encoded]]] | None = None
        for batch in _batches(documents):
            started = (batch, pool.submit(_encode, tokenizer, batch, mask_user))
            if waiting is not None:
                number, characters = _write(*waiting, writer_of, number, characters)
                tell(characters)
            waiting = started
        if waiting is not None:
            number, characters = _write(*waiting, writer_of, number, characters)
            tell(characters)


def _write(batch: Batch, encoded: Future[list[Encoded]], writer_of: Callable[[int], TokenWriter], number: int,
           characters: int) -> tuple[int, int]:  # fmt: skip
    for document, (ids, flags) in zip(batch, encoded.result(), strict=True):
        writer = writer_of(number)
        writer.add(ids, flags)
        writer.end_document(len(ids), content_of(document))
        number, characters = number + 1, characters + sum(map(len, texts_of(document)))
    return number, characters


def _batches(documents: Iterable[Document]) -> Iterator[Batch]:
    batch: Batch = []
    held = 0
    for document in documents:
        batch.append(document)
        held += sum(map(len, texts_of(document)))
        if held >= BATCH_CHARS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _encode(tokenizer: Tokenizer, batch: Batch, mask_user: bool) -> list[Encoded]:
    if any(document.messages for document in batch):
        return [_flagged(ids, mask) for ids, mask in encode(tokenizer, batch, mask_user)]
    pieces = [list(pieces_of(document.text)) for document in batch]
    flat = [piece for one in pieces for piece in one]
    encoded = encode_texts(tokenizer, flat)
    begin, end = special_id(tokenizer, BOS), special_id(tokenizer, EOS)
    result = []
    for one in pieces:
        ids = [begin]
        for _ in one:
            ids += next(encoded)
        ids.append(end)
        flags = np.full(len(ids), LOSS, dtype=np.uint8)
        flags[0] |= FIRST
        result.append((np.array(ids, dtype=np.uint32), flags))
    return result


def _flagged(ids: list[int], mask: list[int]) -> Encoded:
    flags = np.where(np.array(mask, dtype=np.uint8) > 0, LOSS, 0).astype(np.uint8)
    flags[:1] |= FIRST
    return np.array(ids, dtype=np.uint32), flags


def texts_of(document: Document) -> tuple[str, ...]:
    """Every piece of text in a document."""
    return (document.text,) if document.text else tuple(message.content for message in document.messages)


def content_of(document: Document) -> int:
    """A hash of a document's words, the same whatever is between them."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts_of(document):
        digest.update(text.strip().encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return int.from_bytes(digest.digest(), "little")


def sampled(documents: Iterable[Document], rate: float, limit: int, seed: int) -> Iterator[str]:
    """About `rate` of the text, in pieces drawn evenly over all documents, and never more than `limit` characters."""
    taken = 0
    key, bound = key_of(seed, 7), int(min(rate, 1.0) * WORD)
    pieces = (piece for document in documents for text in texts_of(document) for piece in pieces_of(text))
    for number, piece in enumerate(pieces):
        if (number * GOLDEN + key) & WORD > bound:  # a Weyl sequence: evenly spread, and cheap for many pieces
            continue
        yield piece
        taken += len(piece)
        if taken >= limit:
            return
