"""What a run trains on, opened from the cache: sources of sequences, a tokenizer, and the loaders over them.

Opening reads no tokens; it must not know how they were made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from lumina.config import Config
from lumina.data.difficulty import LossHistory, easiest_first, surprisal
from lumina.data.loader import Loader
from lumina.data.mix import Interleaved, Mixture, Program, Single, mode_of
from lumina.data.order import Blocks, Order, Rising, Shuffled, Stored, key_of
from lumina.data.report import DataError
from lumina.data.sequences import Packed, Padded, Sequences
from lumina.data.tokenizer import PAD, special_id
from lumina.data.tokens import TokenStore


@dataclass(frozen=True)
class Source:
    """One kind of training data: `base` or `finetuning`."""

    name: str
    train: Sequences
    validation: Sequences


@dataclass(frozen=True)
class Dataset:
    """What a run trains on.

    `unigram_entropy` is the entropy, in nats per token, of the distribution of all training tokens: the loss of the
    best model that ignores context. `facts` counts documents, tokens and what overlaps.
    """

    config: Config
    folder: Path
    sources: tuple[Source, ...]
    tokenizer: Tokenizer
    vocab_size: int
    unigram_entropy: float
    facts: Mapping[str, Any]

    @cached_property
    def program(self) -> Program:
        """Which sequences the run's mode takes, and how many."""
        return Program(self.config, {source.name: source.train.count for source in self.sources})

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens that a model sees in one epoch of the run's mode."""
        sequences = self.program.per_epoch()
        return round(sum(s.train.tokens * sequences[s.name] / s.train.count for s in self.sources))

    @property
    def validation_count(self) -> int:
        """Held-out sequences of all sources."""
        return sum(source.validation.count for source in self.sources)

    def summary(self) -> dict[str, Any]:
        """For the store: mode, counts, entropy, sizes."""
        return {**self.facts, "unigram_entropy": self.unigram_entropy, "vocab_size": self.vocab_size}

    def training_loader(self, *, unit: int, horizon: int, boundary: int | None = None, rank: int = 0,
                        world: int = 1) -> Loader:  # fmt: skip
        """Training batches of a run of `horizon` sequences, `unit` in each step; see `Program.boundary`."""
        data, seed = self.config.data, self.config.training.seed
        mixture = self.program.mixture(boundary, unit)
        source, nth = mixture.locate(np.arange(max(0, horizon - 1), max(1, horizon), dtype=np.int64))
        seen = {int(source[0]): int(nth[0]) + 1}
        seen.setdefault(1 - int(source[0]), horizon - seen[int(source[0])])
        history = None
        if data.difficulty_sampling:
            history = LossHistory([one.train.count for one in self.sources], data.difficulty_sampling, seed)
        orders = [self._order(number, one, seen.get(number, 0)) for number, one in enumerate(self.sources)]
        return Loader(
            [(one.train, order) for one, order in zip(self.sources, orders, strict=True)], mixture,
            rank=rank, world=world, workers=data.num_workers, history=history, epoch=self.program.sequences_per_epoch,
        )  # fmt: skip

    def validation_loader(self) -> Loader:
        """Held-out sequences of all sources, in proportion, always in the same order."""
        counts = [source.validation.count for source in self.sources]
        mixture: Mixture = Single()
        if len(counts) > 1:
            mixture = Interleaved(Fraction(counts[0], sum(counts)))
        padded = self.config.data.packing == "pad"
        orders = [Shuffled(count, 0) if padded else Stored(count) for count in counts]
        return Loader([(one.validation, order) for one, order in zip(self.sources, orders, strict=True)], mixture)

    def _order(self, number: int, source: Source, horizon: int) -> Order:
        count, seed = source.train.count, key_of(self.config.training.seed, number)
        order: Order = Blocks(count, seed) if self.config.data.packing == "pad" else Shuffled(count, seed)
        strength = self.config.data.curriculum_aggressiveness
        if strength == 0.0 or horizon == 0:
            return order
        data = self.config.data
        shape = f"{data.packing}-{self.config.sequence_length}-{data.stride}-{data.document_boundaries:d}"
        counts = np.load(self.folder / "counts.npy", allow_pickle=False)
        easiest = easiest_first(
            source.train, surprisal(counts), self.folder / "difficulty" / f"{source.name}-{shape}.i64"
        )
        return Rising(easiest, seed, strength, min(count, horizon), order)


def open_dataset(config: Config, folder: Path) -> Dataset:
    """The data in a cache folder, cut as the configuration says. Raises `DataError` where there is none to speak of."""
    facts = json.loads((folder / "facts.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pad, entries = special_id(tokenizer, PAD), facts.pop("sources")

    def cut(part: tuple[str, int, int]) -> Sequences:
        store = TokenStore(folder / part[0], part[1], part[2])
        data, length = config.data, config.sequence_length
        if data.packing == "pad":
            return Padded(store, length, data.stride, pad)
        return Packed(store, length, data.stride, pad, data.document_boundaries)

    sources = tuple(Source(name, cut(entry["train"]), cut(entry["held"])) for name, entry in entries.items())
    for source in sources:
        if source.train.count == 0:
            raise DataError(f"there is no token to train on ({source.name})")
    mode, reason = mode_of(config)
    facts.update(
        mode=mode,
        mode_reason=reason,
        train_tokens=sum(source.train.tokens for source in sources),
        train_sequences=sum(source.train.count for source in sources),
        validation_sequences=sum(source.validation.count for source in sources),
        sources={
            source.name: {
                "documents": entries[source.name]["train_documents"],
                "tokens": source.train.tokens,
                "sequences": source.train.count,
            }
            for source in sources
        },
    )
    return Dataset(config, folder, sources, tokenizer, facts.pop("vocab_size"), facts.pop("unigram_entropy"), facts)
