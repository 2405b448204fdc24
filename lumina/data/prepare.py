"""Makes the training data of a run: documents, a held-out share, a tokenizer, packed sequences; cached by content."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from lumina.config import Config
from lumina.data import corpus
from lumina.data.identity import digest_of
from lumina.data.report import DataError
from lumina.data.sequences import SequenceSet, load, pack, store
from lumina.data.sources import Document, documents_of, expand
from lumina.data.tokenizer import PAD, byte_tokenizer, encode, load_tokenizer, special_id, train_bpe

FORMAT = 1  # raise it when the same input would give other sequences
CHUNK = 256  # documents tokenised between two calls of progress
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Dataset:
    """What a run trains on.

    `unigram_entropy` is the entropy, in nats per token, of the distribution of all training tokens: the loss of the
    best model that ignores context. `facts` counts documents, tokens and what was left out.
    """

    train: SequenceSet
    validation: SequenceSet
    tokenizer: Tokenizer
    vocab_size: int
    unigram_entropy: float
    tokens_per_epoch: int
    facts: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """For the store: counts, entropy, sizes."""
        return {**self.facts, "unigram_entropy": self.unigram_entropy, "vocab_size": self.vocab_size}


def cache_root() -> Path:
    """LUMINA_CACHE, else the user's cache directory."""
    explicit = os.environ.get("LUMINA_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lumina"


def prepare(config: Config, *, cache: Path | None = None, progress: Progress | None = None) -> Dataset:
    """Data of a run; the second time from the cache. Raises `DataError` when nothing can be trained on."""
    tell = progress or (lambda *_: None)
    tell("reading data", 0.0)
    train_files, eval_files, left_out = _files(config)
    key = _key(config, train_files, eval_files)
    folder = (cache or cache_root()) / "datasets" / key
    if not (folder / "facts.json").exists():
        _build(config, train_files, eval_files, left_out, folder, tell)
    facts = json.loads((folder / "facts.json").read_text())
    return Dataset(
        train=load(folder / "train"),
        validation=load(folder / "validation"),
        tokenizer=Tokenizer.from_str((folder / "tokenizer.json").read_text()),
        vocab_size=facts.pop("vocab_size"),
        unigram_entropy=facts.pop("unigram_entropy"),
        tokens_per_epoch=facts["train_tokens"],
        facts=facts,
    )


def _files(config: Config) -> tuple[list[Path], list[Path], list[str]]:
    data, mode = config.data, config.data.training_mode
    base, tuned = expand(data.base_paths), expand(data.finetuning_paths)
    if mode == "base_only":
        return base, expand(data.base_eval_paths), [str(path) for path in tuned]
    if mode == "finetuning_only":
        return tuned, expand(data.finetuning_eval_paths), [str(path) for path in base]
    return [*base, *tuned], expand([*data.base_eval_paths, *data.finetuning_eval_paths]), []


def _key(config: Config, train: Sequence[Path], held: Sequence[Path]) -> str:
    """Content of every file, and every parameter that the sequences depend on."""
    data, training = config.data, config.training
    digest = hashlib.sha256()
    given = Path(data.tokenizer) if data.tokenizer not in ("bpe", "bytes") else None
    for path in [*train, None, *held, None, *([given] if given else [])]:
        digest.update(digest_of(path) if path is not None else b"|")
    built_in = None if train else (data.corpus_documents, training.seed)
    parameters = [
        FORMAT, data.tokenizer, config.model.vocab_size, config.sequence_length, data.validation_fraction,
        data.mask_user_tokens, training.seed, built_in,
    ]  # fmt: skip
    digest.update(json.dumps(parameters).encode())
    return digest.hexdigest()[:32]


def contents(config: Config) -> dict[str, str]:
    """Path → SHA-256 of every file that the data of this configuration is made from; the built-in corpus has none.

    Raises `DataError` for a file that cannot be read.
    """
    train, held, _ = _files(config)
    given = [Path(config.data.tokenizer)] if config.data.tokenizer not in ("bpe", "bytes") else []
    return {str(path): digest_of(path).hex() for path in [*train, *held, *given]}


def _build(config: Config, train_files: Sequence[Path], eval_files: Sequence[Path], left_out: list[str],
           folder: Path, tell: Progress) -> None:  # fmt: skip
    documents = list(documents_of(train_files) if train_files else corpus.generate(
        config.training.seed, config.data.corpus_documents
    ))  # fmt: skip
    held = list(documents_of(eval_files))
    train, validation = (documents, held) if held else _split(config, documents)
    seen = {_text_of(document) for document in train}
    overlap = sum(_text_of(document) in seen for document in validation)
    tell("training the tokenizer", 0.0)
    tokenizer = _tokenizer(config, train)
    order = np.random.default_rng([config.training.seed, 7]).permutation(len(train))
    length, pad = config.sequence_length, special_id(tokenizer, PAD)
    mask_user = config.data.mask_user_tokens
    rows = pack(_encoded(tokenizer, [train[i] for i in order], mask_user, "tokenizing", tell), length, pad)
    held_rows = pack(_encoded(tokenizer, validation, mask_user, "tokenizing validation", tell), length, pad)
    counts = np.bincount(rows.tokens[:, 1:].reshape(-1))
    counts[pad] = 0
    share = counts[counts > 0] / counts.sum()
    facts = {
        "train_documents": len(train),
        "validation_documents": len(validation),
        "validation_overlap": overlap,
        "train_tokens": int(counts.sum()),
        "train_sequences": rows.count,
        "validation_sequences": held_rows.count,
        "left_out": left_out,
        "built_in": not train_files,
        "vocab_size": max(tokenizer.get_vocab_size(), 1),
        "unigram_entropy": float(-(share * np.log(share)).sum()),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
    store(rows, building / "train")
    store(held_rows, building / "validation")
    (building / "tokenizer.json").write_text(tokenizer.to_str())
    (building / "facts.json").write_text(json.dumps(facts))
    try:
        building.rename(folder)
    except OSError:  # another run built the same meanwhile
        shutil.rmtree(building)


def _split(config: Config, documents: list[Document]) -> tuple[list[Document], list[Document]]:
    """A seeded share of the documents is held out; a single document is cut, its end held out."""
    if not documents:
        raise DataError("there is no document to train on")
    fraction = config.data.validation_fraction
    if len(documents) == 1:
        text = _text_of(documents[0])
        cut = math.ceil(len(text) * (1 - fraction))
        return [Document(text=text[:cut])], [Document(text=text[cut:] or text)]
    count = min(len(documents) - 1, max(1, round(fraction * len(documents))))
    chosen = set(np.random.default_rng([config.training.seed, 3]).permutation(len(documents))[:count].tolist())
    train = [document for index, document in enumerate(documents) if index not in chosen]
    return train, [documents[index] for index in sorted(chosen)]


def _tokenizer(config: Config, documents: Sequence[Document]) -> Tokenizer:
    kind = config.data.tokenizer
    if kind == "bytes":
        return byte_tokenizer()
    if kind == "bpe":
        return train_bpe((text for document in documents for text in _texts(document)), config.model.vocab_size)
    return load_tokenizer(Path(kind))


def _texts(document: Document) -> Iterator[str]:
    if document.text:
        yield document.text
    yield from (message.content for message in document.messages)


def _text_of(document: Document) -> str:
    return "\n".join(_texts(document))


def _encoded(tokenizer: Tokenizer, documents: list[Document], mask_user: bool, phase: str,
             tell: Progress) -> Iterator[tuple[list[int], list[int]]]:  # fmt: skip
    for start in range(0, len(documents), CHUNK):
        tell(phase, start / len(documents))
        yield from encode(tokenizer, documents[start : start + CHUNK], mask_user)
