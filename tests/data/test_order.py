"""Orders that are computed, not stored: each is a permutation, and the same wherever one starts."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.data.order import BLOCK, Blocks, Rising, Shuffled, permute

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)


@EXAMPLES
@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_a_permutation_takes_every_index_somewhere_else(size: int, key: int) -> None:
    found = permute(np.arange(size), size, key)
    assert sorted(found.tolist()) == list(range(size))


def test_a_permutation_of_a_million_million_costs_what_one_of_a_thousand_does() -> None:
    size = 10**12
    found = permute(np.array([0, 1, size - 1]), size, 3)
    assert len(set(found.tolist())) == 3
    assert ((found >= 0) & (found < size)).all()


def test_a_permutation_looks_random() -> None:
    found = permute(np.arange(10_000), 10_000, 11)
    assert abs(np.corrcoef(np.arange(10_000), found)[0, 1]) < 0.03
    assert np.bincount(found[:1000] // 1000, minlength=10).min() > 60
    assert (permute(np.arange(10_000), 10_000, 12) == found).mean() < 0.01


@EXAMPLES
@given(count=st.integers(1, 2 * BLOCK + 50), passes=st.integers(0, 3), blocks=st.booleans(), seed=st.integers(0, 99))
def test_each_pass_has_everything_once_in_an_order_of_its_own(count: int, passes: int, blocks: bool, seed: int) -> None:
    order = Blocks(count, seed) if blocks else Shuffled(count, seed)
    first, later = order.rows(np.arange(count)), order.rows(np.arange(count) + passes * count)
    assert sorted(later.tolist()) == list(range(count))
    if passes and count > 20:
        assert (first != later).any()


def test_neighbours_of_blocks_are_close_in_length() -> None:
    rows = Blocks(8 * BLOCK, 1).rows(np.arange(8 * BLOCK)).reshape(-1, 16)
    spread = (rows.max(1) - rows.min(1)) % (7 * BLOCK)
    assert np.median(spread) < BLOCK


@EXAMPLES
@given(count=st.integers(1, 400), strength=st.floats(0.0, 1.0), share=st.floats(0.05, 1.0), seed=st.integers(0, 9))
def test_a_rising_order_repeats_nothing(count: int, strength: float, share: float, seed: int) -> None:
    horizon = max(1, int(count * share))
    order = Rising(np.arange(count)[::-1], seed, strength, horizon, Shuffled(count, seed))
    rows = order.rows(np.arange(horizon))
    assert len(set(rows.tolist())) == horizon
    again = order.rows(np.arange(count, 2 * count))
    assert sorted(again.tolist()) == list(range(count))


def test_aggressiveness_decides_how_steadily_difficulty_rises() -> None:
    difficulty = np.random.default_rng(0).permutation(1000)
    easiest = np.argsort(difficulty)

    def rise(strength: float) -> float:
        rows = Rising(easiest, 0, strength, 1000, Shuffled(1000, 0)).rows(np.arange(1000))
        return float(np.corrcoef(np.arange(1000), difficulty[rows])[0, 1])

    assert abs(rise(0.0)) < 0.1
    assert 0.6 < rise(0.5) < rise(0.9) < rise(1.0)
    assert rise(1.0) > 0.999
