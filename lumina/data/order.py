"""In which order sequences come: permutations that are computed where they are needed and never stored.

Whatever order is asked for, position n of it costs the same anywhere, in time and in memory. It knows counts only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
ROUNDS = 6
BLOCK = 256  # sequences of similar length that stay together where sequences are padded
WORD = (1 << 64) - 1
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea & Flood, 2014): a fixed mixing of 64 bits, elementwise."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in _MIX:
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def scrambled(x: int) -> int:
    """`scramble` of one number."""
    x = (x + 0x9E3779B97F4A7C15) & WORD
    for shift, factor in _MIX:
        x = ((x ^ (x >> shift)) * factor) & WORD
    return x ^ (x >> 31)


def key_of(*parts: int) -> int:
    """One 64-bit key of several numbers."""
    key = 0
    for part in parts:
        key = scrambled(key ^ (part & WORD))
    return key


def draws(index: Index, key: int) -> NDArray[np.uint64]:
    """A number of 64 random bits for each index."""
    return scramble(scramble(index.astype(np.uint64)) ^ np.uint64(key))


def permute(index: Index, size: int, key: int) -> Index:
    """Where a pseudo-random permutation of 0 ... size - 1 takes each index.

    A Feistel network (Luby & Rackoff, 1988) over the next even number of bits, walked along its cycles until it lands
    inside (Black & Rogaway, 2002): a bijection for every size and key, at less than four rounds of it on average.
    """
    if size <= 1:
        return np.zeros_like(index)
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    keys = [np.uint64(key_of(key, number)) for number in range(ROUNDS)]
    out = _feistel(index.astype(np.uint64), half, keys)
    while (outside := out >= size).any():
        out[outside] = _feistel(out[outside], half, keys)
    return out.astype(np.int64)


def _feistel(x: NDArray[np.uint64], half: np.uint64, keys: list[np.uint64]) -> NDArray[np.uint64]:
    low = np.uint64((1 << int(half)) - 1)
    left, right = x >> half, x & low
    for key in keys:
        left, right = right, left ^ (scramble(right ^ key) & low)
    joined: NDArray[np.uint64] = (left << half) | right
    return joined


class Order(Protocol):
    """Which sequence comes as the n-th of a source, counted over all its passes."""

    def rows(self, nth: Index) -> Index:
        """The sequences at these places."""


@dataclass(frozen=True)
class Stored:
    """The order of the file, again and again."""

    count: int

    def rows(self, nth: Index) -> Index:
        """As they are stored."""
        return nth % self.count


@dataclass(frozen=True)
class Shuffled:
    """A new permutation in each pass."""

    count: int
    seed: int

    def rows(self, nth: Index) -> Index:
        """By the permutation of the pass that each place is in."""
        return _per_pass(nth, self.count, self._pass)

    def _pass(self, index: Index, number: int) -> Index:
        return permute(index, self.count, key_of(self.seed, number))


@dataclass(frozen=True)
class Blocks:
    """Neighbours stay together (sequences are sorted by length, and a batch is padded to its longest): the blocks come
    in a new order in each pass, begin elsewhere, and are shuffled inside."""

    count: int
    seed: int

    def rows(self, nth: Index) -> Index:
        """Block by block."""
        return _per_pass(nth, self.count, self._pass)

    def _pass(self, index: Index, number: int) -> Index:
        whole = self.count // BLOCK
        block, inside = index // BLOCK, index % BLOCK
        rest = index >= whole * BLOCK  # the last, shorter block stays last
        moved = np.where(rest, block, permute(np.where(rest, 0, block), whole, key_of(self.seed, number, 1)))
        mixed = np.empty_like(inside)
        for one in np.unique(moved):
            here = moved == one
            size = BLOCK if one < whole else self.count - whole * BLOCK
            mixed[here] = permute(inside[here], size, key_of(self.seed, number, 2, int(one)))
        begin = key_of(self.seed, number, 3) % self.count
        return (moved * BLOCK + mixed + begin) % self.count


@dataclass(frozen=True)
class Rising:
    """The first `horizon` sequences from easy to hard, then `after`.

    `easiest` lists all sequences by difficulty. With `aggressiveness` a the stretch goes through about 1 / (1 - a)
    stages; within a stage the order is shuffled: 0 is no order at all, 1 is strictly rising. A horizon below the number
    of sequences (a run that ends before its first pass does) takes one sequence of each equal slice of the list.
    """

    easiest: Index
    seed: int
    aggressiveness: float
    horizon: int
    after: Order

    def rows(self, nth: Index) -> Index:
        """Up to the horizon from easy to hard, then as `after` says."""
        found = self.after.rows(nth)
        early = nth < self.horizon
        if early.any():
            found[early] = self.easiest[self._rank(nth[early])]
        return found

    def _rank(self, nth: Index) -> Index:
        stage = max(1, round(self.horizon * (1.0 - self.aggressiveness)))
        window, inside = nth // stage, nth % stage
        place = np.empty_like(nth)
        for one in np.unique(window):
            here = window == one
            size = min(stage, self.horizon - int(one) * stage)
            place[here] = one * stage + permute(inside[here], size, key_of(self.seed, 4, int(one)))
        count = len(self.easiest)
        low, high = place * count // self.horizon, (place + 1) * count // self.horizon
        return low + (draws(place, key_of(self.seed, 5)) % (high - low).astype(np.uint64)).astype(np.int64)


def _per_pass(nth: Index, count: int, one_pass: object) -> Index:
    number, index = nth // count, nth % count
    rows = np.empty_like(index)
    for one in np.unique(number):
        here = number == one
        rows[here] = one_pass(index[here], int(one))  # type: ignore[operator]
    return rows
