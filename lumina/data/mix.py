"""The four training modes: which source the sequence at a position comes from, and how long an epoch is.

Everything is a function of the position, so a mixture can be entered anywhere and does not know batches or files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lumina.config import Config
from lumina.data.order import Index, key_of, permute

BASE, FINETUNING = "base", "finetuning"
STRETCH = 1000  # sequences within which a random mixture has its exact share
FINEST = 10_000  # largest denominator of a ratio

Located = tuple[NDArray[np.int64], Index]  # source of each position, and how many of that source came before it


def mode_of(config: Config) -> tuple[str, str]:
    """The training mode and why it is that one."""
    data = config.data
    if data.training_mode is not None:
        return data.training_mode, "as configured"
    if data.base_paths and data.finetuning_paths:
        return "hybrid_interleaved", "there are base texts and conversations"
    if data.finetuning_paths:
        return "finetuning_only", "all files are conversations"
    return "base_only", "all files are base texts" if data.base_paths else "the built-in corpus"


class Mixture(Protocol):
    """Assigns every position to a source, without gaps or repeats in any of them."""

    def locate(self, position: Index) -> Located:
        """The source of each position, and how many of that source came before it."""


@dataclass(frozen=True)
class Single:
    """One source alone."""

    source: int = 0

    def locate(self, position: Index) -> Located:
        """Every position is of the one source."""
        return np.full_like(position, self.source), position


@dataclass(frozen=True)
class Sequential:
    """The first source up to `boundary`, the second from there on."""

    boundary: int

    def locate(self, position: Index) -> Located:
        """From the boundary on, positions count in the second source."""
        second = position >= self.boundary
        return second.astype(np.int64), np.where(second, position - self.boundary, position)


@dataclass(frozen=True)
class Interleaved:
    """Runs of `unit` sequences of either source, spread evenly: of any n runs, the first source has `ratio` * n, to
    the nearest one below. A unit of 1 gives every batch its share; a unit of one step makes steps take turns."""

    ratio: Fraction
    unit: int = 1

    def locate(self, position: Index) -> Located:
        """Positions by the run that they are in."""
        run, inside = position // self.unit, position % self.unit
        before = run * self.ratio.numerator // self.ratio.denominator
        first = (run + 1) * self.ratio.numerator // self.ratio.denominator > before
        nth = np.where(first, before, run - before) * self.unit + inside
        return np.where(first, 0, 1), nth


@dataclass(frozen=True)
class Shuffle:
    """Sources in random order, drawn without replacement within each stretch of 1,000 sequences."""

    ratio: Fraction
    seed: int

    def locate(self, position: Index) -> Located:
        """Positions by the draw of their stretch."""
        stretch, slot = position // STRETCH, position % STRETCH
        before = stretch * STRETCH * self.ratio.numerator // self.ratio.denominator
        after = (stretch + 1) * STRETCH * self.ratio.numerator // self.ratio.denominator
        drawn = np.empty_like(slot)
        for one in np.unique(stretch):
            here = stretch == one
            drawn[here] = permute(slot[here], STRETCH, key_of(self.seed, 6, int(one)))
        first = drawn < after - before
        nth = np.where(first, before + drawn, stretch * STRETCH - before + drawn - (after - before))
        return np.where(first, 0, 1), nth


@dataclass(frozen=True)
class Program:
    """What a mode makes of the sources' sizes (sequences by name; one entry for a mode with one source).

    One epoch: every sequence once; with a `base_ratio`, until the source that lasts longer at that ratio has been seen
    once. The first phase of hybrid_sequential ends after `base_epochs` passes.
    """

    config: Config
    counts: Mapping[str, int]

    @property
    def mode(self) -> str:
        """The training mode."""
        return mode_of(self.config)[0]

    @property
    def ratio(self) -> Fraction:
        """Share of base sequences in an interleaved mixture; without a `base_ratio`, as many as there are."""
        wanted = self.config.data.base_ratio
        if wanted is None:
            return Fraction(self.counts[BASE], sum(self.counts.values()))
        return Fraction(wanted).limit_denominator(FINEST)

    @property
    def sequences_per_epoch(self) -> int:
        """Length of an epoch."""
        if self.mode != "hybrid_interleaved":
            return sum(self.counts.values())
        shares = {BASE: self.ratio, FINETUNING: 1 - self.ratio}
        return max(math.ceil(self.counts[name] / share) for name, share in shares.items() if share)

    def per_epoch(self) -> dict[str, float]:
        """Sequences of each source in an epoch."""
        if self.mode != "hybrid_interleaved":
            return {name: float(count) for name, count in self.counts.items()}
        length = self.sequences_per_epoch
        return {BASE: float(length * self.ratio), FINETUNING: float(length * (1 - self.ratio))}

    def phases(self, epochs: int) -> tuple[int, int]:
        """Sequences of the two phases of hybrid_sequential in a run of `epochs`."""
        data = self.config.data
        first = self.counts[BASE] * (data.base_epochs or epochs)
        return first, self.counts[FINETUNING] * (data.finetuning_epochs or epochs)

    def describe(self, epochs: int) -> str:
        """`epochs` in words."""
        data = self.config.data
        if self.mode != "hybrid_sequential" or not (data.base_epochs or data.finetuning_epochs):
            return f"{epochs} epochs"
        return f"{data.base_epochs or epochs} epochs of base text, {data.finetuning_epochs or epochs} of conversations"

    def sequences(self, epochs: int) -> int:
        """Length of a run of `epochs`."""
        if self.mode == "hybrid_sequential":
            return sum(self.phases(epochs))
        return epochs * self.sequences_per_epoch

    def boundary(self, epochs: int, asked: int | None) -> int | None:
        """Where the second phase begins; a run that was `asked` to be of another length divides it the same way."""
        if self.mode != "hybrid_sequential":
            return None
        first, second = self.phases(epochs)
        return first if asked is None else round(asked * first / (first + second))

    def mixture(self, boundary: int | None, unit: int) -> Mixture:
        """The mixture of a run; `unit` is the number of sequences in a step."""
        data = self.config.data
        if boundary is not None:
            return Sequential(boundary)
        if self.mode != "hybrid_interleaved":
            return Single()
        if data.interleave_strategy == "random":
            return Shuffle(self.ratio, self.config.training.seed)
        return Interleaved(self.ratio, unit if data.interleave_strategy == "alternating" else 1)
