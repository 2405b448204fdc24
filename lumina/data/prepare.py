"""Makes the training data of a run: sources, a held-out share of each, a tokenizer, stored tokens; cached by content.

The stored tokens do not depend on how sequences are cut or mixed, so changing that costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lumina.config import Config
from lumina.data import corpus
from lumina.data.cache import cache_root
from lumina.data.dataset import Dataset, open_dataset
from lumina.data.identity import content_hash
from lumina.data.mix import BASE, FINETUNING, mode_of
from lumina.data.overlap import Overlap, measure
from lumina.data.report import DataError
from lumina.data.sources import Document, Reading, documents_of, expand
from lumina.data.tokenise import HeldOut, sampled, write_documents
from lumina.data.tokenizer import byte_tokenizer, load_tokenizer, train_bpe
from lumina.data.tokens import TokenStore, TokenWriter

FORMAT = 5  # raise it when the same input would give other tokens
SAMPLE = 32_000_000  # characters of text that a tokenizer is trained on
STALE_SECONDS = 86_400.0  # an unfinished folder that old was left by a process that died
Progress = Callable[[str, float], None]
Part = tuple[str, int, int]  # folder of the tokens, and the range in it


@dataclass(frozen=True)
class Given:
    """Where a source comes from: files, or the built-in corpus with one kind of document (or both: None)."""

    files: tuple[Path, ...] = ()
    held: tuple[Path, ...] = ()
    kind: str | None = None

    @property
    def bytes(self) -> int:
        """Size of the files that are trained on."""
        return sum(path.stat().st_size for path in self.files)


def prepare(config: Config, *, cache: Path | None = None, progress: Progress | None = None) -> Dataset:
    """Data of a run; the second time from the cache. Raises `DataError` when nothing can be trained on."""
    tell = progress or (lambda *_: None)
    tell("reading data", 0.0)
    root = cache or cache_root()
    given = sources_of(config)
    folder = root / "datasets" / _key(config, given, root, tell)
    if not (folder / "facts.json").exists():
        _build(config, given, folder, tell)
    return open_dataset(config, folder)


def contents(config: Config) -> dict[str, str]:
    """Path → SHA-256 of every file that the data of this configuration is made from; the built-in corpus has none.

    Raises `DataError` for a file that cannot be read.
    """
    tokenizer = [Path(config.data.tokenizer)] if config.data.tokenizer not in ("bpe", "bytes") else []
    files = [path for one in sources_of(config).values() for path in (*one.files, *one.held)]
    return {str(path): content_hash(path, cache_root()) for path in [*files, *tokenizer]}


def sources_of(config: Config) -> dict[str, Given]:
    """The sources of the run's mode, base first; validation files of a kind that is not trained on count as well."""
    data, mode = config.data, mode_of(config)[0]
    held = {BASE: tuple(expand(data.base_eval_paths)), FINETUNING: tuple(expand(data.finetuning_eval_paths))}
    if mode in ("base_only", "finetuning_only"):
        name = BASE if mode == "base_only" else FINETUNING
        files = tuple(expand(data.base_paths if name == BASE else data.finetuning_paths))
        kind = None if files or name == BASE else "conversation"
        return {name: Given(files, (*held[BASE], *held[FINETUNING]), kind)}
    if not data.base_paths and not data.finetuning_paths:
        return {
            BASE: Given(held=held[BASE], kind="text"),
            FINETUNING: Given(held=held[FINETUNING], kind="conversation"),
        }
    return {
        BASE: Given(tuple(expand(data.base_paths)), held[BASE]),
        FINETUNING: Given(tuple(expand(data.finetuning_paths)), held[FINETUNING]),
    }


def _key(config: Config, given: Mapping[str, Given], cache: Path, tell: Progress) -> str:
    """Content of every file, and every parameter that the tokens depend on."""
    data, training = config.data, config.training

    def hashed(path: Path) -> str:
        return content_hash(path, cache, lambda done: tell(f"reading {path.name}", done))

    contents = {
        name: [list(map(hashed, one.files)), list(map(hashed, one.held)), one.kind] for name, one in given.items()
    }
    tokenizer = data.tokenizer if data.tokenizer in ("bpe", "bytes") else hashed(Path(data.tokenizer))
    built_in = None if all(one.files for one in given.values()) else data.corpus_documents
    parameters = [
        FORMAT, contents, tokenizer, config.model.vocab_size, data.validation_fraction, data.mask_user_tokens,
        training.seed, built_in, Reading.of(data).key(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parameters).encode()).hexdigest()[:32]


def _build(config: Config, given: Mapping[str, Given], folder: Path, tell: Progress) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder.parent)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
    try:
        tell("training the tokenizer", 0.0)
        tokenizer = _tokenizer(config, given)
        vocab = max(tokenizer.get_vocab_size(), 1)
        counts = np.zeros(vocab, dtype=np.int64)
        sources = {}
        for name, one in given.items():
            sources[name], seen = _write(config, one, tokenizer, vocab, building, name, tell)
            counts += seen
        tell("comparing validation and training data", 0.0)
        overlap = _overlap(building, sources.values())
        np.save(building / "counts.npy", counts)
        (building / "tokenizer.json").write_text(tokenizer.to_str())
        facts = _facts(config, given, sources, counts, overlap)
        (building / "facts.json").write_text(json.dumps({**facts, "vocab_size": vocab, "sources": sources}))
        building.rename(folder)
    except OSError:
        if not (folder / "facts.json").exists():  # else another run built the same meanwhile
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _remove_stale(root: Path) -> None:
    for left in root.glob(".building-*"):
        if time.time() - left.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _documents(config: Config, files: Iterable[Path], kind: str | None) -> Iterator[Document]:
    files = tuple(files)
    if files:
        yield from documents_of(files, Reading.of(config.data))
        return
    for document in corpus.generate(config.training.seed, config.data.corpus_documents):
        if kind in (None, document.kind):
            yield document


def _tokenizer(config: Config, given: Mapping[str, Given]) -> Tokenizer:
    kind = config.data.tokenizer
    if kind == "bytes":
        return byte_tokenizer()
    if kind != "bpe":
        return load_tokenizer(Path(kind))
    size = sum(one.bytes for one in given.values())
    rate = SAMPLE / size if size > SAMPLE else 1.0
    documents = (document for one in given.values() for document in _documents(config, one.files, one.kind))
    return train_bpe(sampled(documents, rate, 2 * SAMPLE, config.training.seed), config.model.vocab_size)


def _write(config: Config, given: Given, tokenizer: Tokenizer, vocab: int, building: Path, name: str,
           tell: Progress) -> tuple[dict[str, Any], NDArray[np.int64]]:  # fmt: skip
    """Tokens of one source; returns its entry in the facts, and how often each token occurs in training."""
    data, size = config.data, given.bytes
    train_folder, held_folder = building / name / "train", building / name / "held"
    with TokenWriter(train_folder, vocab) as train, TokenWriter(held_folder, vocab) as held:
        out = HeldOut(data.validation_fraction, config.training.seed)
        write_documents(
            _documents(config, given.files, given.kind), tokenizer, data.mask_user_tokens,
            lambda number: held if not given.held and out(number) else train,
            lambda done: tell(f"tokenizing {name}", min(1.0, done / size) if size else 0.0),
        )  # fmt: skip
        if given.held:
            write_documents(
                documents_of(given.held, Reading.of(data)), tokenizer, data.mask_user_tokens, lambda _: held,
                lambda _: tell(f"tokenizing {name} validation", 0.0),
            )  # fmt: skip
    if train.documents + held.documents == 0:
        raise DataError(f"there is no document to train on ({name})")
    parts, documents = _parts(name, train, held, data.validation_fraction)
    return {**parts, **documents}, train.counts


def _parts(name: str, train: TokenWriter, held: TokenWriter,
           fraction: float) -> tuple[dict[str, Part], dict[str, int]]:  # fmt: skip
    """Where training and validation data lie. Too few documents for a share of them: the last one is held out, of a
    single one its end; and where that is nothing, validation repeats the training data."""
    if train.documents == 0:
        train, held = held, train
        name_train, name_held = f"{name}/held", f"{name}/train"
    else:
        name_train, name_held = f"{name}/train", f"{name}/held"
    if held.documents:
        parts = {"train": (name_train, 0, train.tokens), "held": (name_held, 0, held.tokens)}
        return parts, {"train_documents": train.documents, "validation_documents": held.documents}
    kept = train.tokens - (train.last_document if train.documents > 1 else max(2, round(train.tokens * fraction)))
    kept = kept if kept >= 2 else train.tokens
    start = kept if kept < train.tokens else 0
    parts = {"train": (name_train, 0, kept), "held": (name_train, start, train.tokens)}
    return parts, {"train_documents": max(1, train.documents - 1), "validation_documents": 1}


def _overlap(building: Path, sources: Iterable[Mapping[str, Any]]) -> Overlap:
    parts = [(TokenStore(building / one[0], *one[1:]), TokenStore(building / two[0], *two[1:]))
             for one, two in ((source["train"], source["held"]) for source in sources)]  # fmt: skip
    return measure([train for train, _ in parts], [held for _, held in parts])


def _facts(config: Config, given: Mapping[str, Given], sources: Mapping[str, Mapping[str, Any]],
           counts: NDArray[np.int64], overlap: Overlap) -> dict[str, Any]:  # fmt: skip
    share = counts[counts > 0] / counts.sum()
    return {
        "train_documents": sum(source["train_documents"] for source in sources.values()),
        "validation_documents": sum(source["validation_documents"] for source in sources.values()),
        "validation_overlap": overlap.exact,
        "validation_near_overlap": overlap.near,
        "validation_runs_seen": round(overlap.runs, 4),
        "built_in": not any(one.files for one in given.values()),
        "unigram_entropy": float(-(share * np.log(share)).sum()),
    }
