"""The loader over one epoch: exactly once in every mode, on one and two ranks, from wherever it is started."""

from __future__ import annotations

import threading
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sets import loader, packed, padded

from lumina.data.difficulty import LossHistory
from lumina.data.loader import NO_LOSS, THREAD_NAME, Batch, Loader
from lumina.data.mix import Interleaved, Mixture, Sequential, Shuffle, Single
from lumina.data.order import Blocks, Shuffled

EXAMPLES = settings(max_examples=50, deadline=None, derandomize=True)
BASE = packed([7] * 40, length=8)
CHAT = packed([11] * 15, length=8, first_id=1000)
BOTH = [BASE, CHAT]
SHARE = Fraction(BASE.count, BASE.count + CHAT.count)
MODES: dict[str, tuple[list[object], Mixture]] = {
    "base_only": ([BASE], Single()),
    "finetuning_only": ([CHAT], Single()),
    "hybrid_sequential": (BOTH, Sequential(BASE.count)),
    "hybrid_interleaved": (BOTH, Interleaved(SHARE)),
}


def counted(mode: str, **more: int) -> tuple[Loader, int]:
    parts, mixture = MODES[mode]
    return loader(parts, mixture, **more), sum(part.count for part in parts)


def labels(batches: list[Batch]) -> list[int]:
    return sorted(int(x) for batch in batches for x in batch.labels.reshape(-1) if x != NO_LOSS)


@pytest.mark.parametrize("mode", MODES)
@EXAMPLES
@given(world=st.integers(1, 3), size=st.integers(1, 13), stop=st.integers(0, 60), later=st.integers(1, 13))
def test_an_epoch_has_every_sequence_once_on_all_ranks_and_across_a_resume(
    mode: str, world: int, size: int, stop: int, later: int
) -> None:
    whole, epoch = counted(mode)
    everything = whole.batch(0, epoch)
    stop = min(stop, epoch)
    found: list[Batch] = []
    for first, last, count in ((0, stop, size), (stop, epoch, later)):  # a resume, with another batch size
        ranks = [counted(mode, rank=rank, world=world)[0] for rank in range(world)]
        for at in range(first, last, count):
            found += [one.batch(at, min(count, last - at)) for one in ranks]
    ids = [int(number) for batch in found for number in batch.ids]
    assert sorted(ids) == list(range(epoch))
    assert labels(found) == labels([everything])


@EXAMPLES
@given(ratio=st.fractions(0, 1, max_denominator=20), passes=st.integers(1, 3), random=st.booleans())
def test_in_a_mixture_each_source_has_passes_of_its_own(ratio: Fraction, passes: int, random: bool) -> None:
    mixture = Shuffle(ratio, 3) if random else Interleaved(ratio)
    ids = loader(BOTH, mixture).batch(0, 3000).ids
    base = ids[ids < BASE.count]
    counts = np.bincount(base, minlength=BASE.count)
    whole = len(base) // BASE.count
    assert counts.min(initial=whole) >= whole
    assert counts.max(initial=0) <= whole + 1


@pytest.mark.parametrize("mode", MODES)
def test_the_position_alone_says_what_comes_next(mode: str) -> None:
    one, epoch = counted(mode)
    far = 10**9 * epoch + 17
    long = one.batch(far, 12)
    halves = [counted(mode)[0].batch(far + start, 6) for start in (0, 6)]
    assert np.array_equal(long.ids, np.concatenate([half.ids for half in halves]))
    assert np.array_equal(long.labels, np.concatenate([half.labels for half in halves]))


def test_threads_read_ahead_and_change_nothing() -> None:
    plain, _ = counted("hybrid_interleaved")
    ahead, _ = counted("hybrid_interleaved", workers=2)
    try:
        for position in [*range(0, 40, 4), 400, 404, 8]:  # on, a jump forward, and back
            assert np.array_equal(ahead.batch(position, 4).tokens, plain.batch(position, 4).tokens)
        assert any(thread.name.startswith(THREAD_NAME) for thread in threading.enumerate())
    finally:
        ahead.close()
    assert not any(thread.name.startswith(THREAD_NAME) for thread in threading.enumerate())


def test_rows_of_different_width_are_padded_without_loss() -> None:
    mixed = loader([padded([6] * 20, length=64), padded([50] * 20, length=64)], Interleaved(Fraction(1, 2)))
    batch = mixed.batch(0, 8)
    assert batch.tokens.shape == (8, 64)
    assert batch.documents is not None
    short = (batch.documents >= 0).sum(1) == 6
    assert short.sum() == 4
    assert (batch.labels[batch.documents < 0] == NO_LOSS).all()


def test_a_harder_sequence_takes_the_place_of_an_easier_one_and_of_no_unseen_one() -> None:
    def rows(known: int) -> np.ndarray:
        history = LossHistory([BASE.count], 1.0, 0)
        history.record(np.arange(known), np.linspace(1, 2, max(1, known), dtype=np.float32)[:known])
        made = Loader([(BASE, Shuffled(BASE.count, 5))], Single(), history=history)
        return made.locate(0, BASE.count)[1]

    plain = loader([BASE], Single()).locate(0, BASE.count)[1]
    assert np.array_equal(rows(0), plain)
    assert (rows(BASE.count) >= plain).all()
    assert rows(BASE.count).mean() > plain.mean() + 3


def test_lengths_stay_together_where_sequences_are_padded() -> None:
    part = padded(list(range(2, 66)) * 40, length=64)
    made = loader([part], Single(), [Blocks(part.count, 1)])
    widths = [made.batch(at, 8).tokens.shape[1] for at in range(0, 2048, 8)]
    assert set(widths) == {32, 64}
    assert widths.count(32) > 80


def test_many_threads_open_the_same_tokens_at_once() -> None:
    for _ in range(20):
        part = packed([9] * 200, length=8)
        made, plain = loader([part], Single(), workers=8), loader([part], Single())
        try:
            assert np.array_equal(made.batch(0, 16).tokens, plain.batch(0, 16).tokens)
            assert np.array_equal(made.batch(16, 16).tokens, plain.batch(16, 16).tokens)
        finally:
            made.close()
