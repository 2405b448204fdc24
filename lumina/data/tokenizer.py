"""Tokenizers: byte-level BPE trained on the run's own documents, plain bytes, or a given tokenizer.json."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lumina.data.documents import Document
from lumina.data.report import DataError

PAD, BOS, EOS, SEP = "<pad>", "<bos>", "<eos>", "<sep>"
ROLE_TOKENS = {role: f"<{role}>" for role in ("system", "user", "assistant", "tool")}
PIECE = 1 << 16  # characters of a longer document that are encoded as one text
AT_ONCE = 1 << 21  # characters that are encoded at once
SPECIAL = [PAD, BOS, EOS, SEP, *ROLE_TOKENS.values()]


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with at most `vocab_size` tokens, the special ones first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_tokenizer() -> Tokenizer:
    """One token for each byte, and the special ones."""
    return train_bpe((), len(SPECIAL) + 256)


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json, with Lumina's special tokens added where they are missing. Raises `DataError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", str(path)) from error
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises nothing narrower
        raise DataError(f"not a tokenizer.json ({error})", str(path)) from error
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a special token; Lumina adds all of them to every tokenizer."""
    found = tokenizer.token_to_id(token)
    assert found is not None
    return int(found)


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> Iterator[list[int]]:
    """The tokens of each text, and of nothing else: a special token that is spelled out in a text stays text."""
    tokenizer.encode_special_tokens = True  # "<assistant>" in a text must not become a turn of the assistant
    if sum(map(len, texts)) <= AT_ONCE:
        yield from (encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        return
    for text in texts:  # an encoding takes about a hundred bytes a token
        pieces, ids = list(pieces_of(text)), list[int]()
        for start in range(0, len(pieces), AT_ONCE // PIECE):
            for encoding in tokenizer.encode_batch_fast(
                pieces[start : start + AT_ONCE // PIECE], add_special_tokens=False
            ):
                ids += encoding.ids
        yield ids


def pieces_of(text: str) -> Iterator[str]:
    """A long text in pieces that end before a space, where a byte-level tokenizer would cut, too."""
    at = 0
    while len(text) - at > PIECE:
        cut = text.rfind(" ", at + PIECE // 2, at + PIECE)
        cut = cut if cut > at else at + PIECE
        yield text[at:cut]
        at = cut
    yield text[at:]


def encode(tokenizer: Tokenizer, documents: list[Document], mask_user: bool) -> list[tuple[list[int], list[int]]]:
    """(ids, mask) of each document; mask 0 is a token without loss.

    Text is BOS text EOS. A conversation is BOS, its messages with SEP between them, EOS; a message is its role's token
    and its content. With `mask_user` exactly the assistant's content and the SEP or EOS that ends it carry loss.
    """
    encoded = encode_texts(tokenizer, [text for document in documents for text in document.texts])
    special = {token: special_id(tokenizer, token) for token in SPECIAL}
    result = []
    for document in documents:
        if not document.messages:
            ids = [special[BOS], *next(encoded), special[EOS]]
            result.append((ids, [1] * len(ids)))
            continue
        ids, mask = [special[BOS]], [0 if mask_user else 1]
        last = len(document.messages) - 1
        for index, message in enumerate(document.messages):
            words = next(encoded)
            ids += [special[ROLE_TOKENS[message.role]], *words, special[EOS if index == last else SEP]]
            spoken = message.loss and message.role == "assistant" if mask_user else message.loss
            mask += [0 if mask_user else 1, *[int(spoken)] * (len(words) + 1)]
        result.append((ids, mask))
    return result
