"""Sequences cut from stored tokens: every token is predicted once, documents keep apart, padding carries nothing."""

from __future__ import annotations

import sys

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sets import PAD, packed, padded, stored

from lumina.data.sequences import Rows
from lumina.data.tokens import BATCH, TOKENS_FILE

EXAMPLES = settings(max_examples=80, deadline=None, derandomize=True)
LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) > 1)


def predicted(rows: Rows) -> list[int]:
    """The tokens that carry loss (as labels: the first of a row is nobody's label)."""
    return sorted(rows.tokens[:, 1:][rows.loss[:, 1:]].tolist())


@EXAMPLES
@given(lengths=LENGTHS, length=st.integers(2, 16), stride=st.integers(0, 15), boundaries=st.booleans())
def test_packing_predicts_every_token_once(lengths: list[int], length: int, stride: int, boundaries: bool) -> None:
    sequences = packed(lengths, length, min(stride, length - 1), boundaries)
    rows = sequences.rows(np.arange(sequences.count))
    firsts = {1 + sum(lengths[:number]) for number in range(len(lengths))}
    wanted = set(range(1, sum(lengths) + 1)) - (firsts if boundaries else {1})
    assert predicted(rows) == sorted(wanted)
    assert sequences.tokens == int((rows.document[:, :-1] >= 0).sum()) - int(
        (rows.tokens[-1, :-1] == sum(lengths)).sum()
    )


@EXAMPLES
@given(lengths=LENGTHS, length=st.integers(2, 16), stride=st.integers(0, 15))
def test_padding_predicts_every_token_of_every_document_once(lengths: list[int], length: int, stride: int) -> None:
    sequences = padded(lengths, length, min(stride, length - 1))
    if not sequences.count:
        assert max(lengths) < 2
        return
    rows = sequences.rows(np.arange(sequences.count))
    firsts = {1 + sum(lengths[:number]) for number in range(len(lengths))}
    assert predicted(rows) == sorted(set(range(1, sum(lengths) + 1)) - firsts)
    assert set(np.unique(rows.document).tolist()) <= {0, -1}
    assert (rows.tokens[rows.document < 0] == PAD).all()


def test_documents_of_a_row_are_numbered_and_their_first_tokens_carry_no_loss() -> None:
    rows = packed([3, 4, 5], length=8).rows(np.array([0]))
    assert rows.tokens.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9]]
    assert rows.document.tolist() == [[0, 0, 0, 1, 1, 1, 1, 2, 2]]
    assert rows.loss[0].tolist() == [False, True, True, False, True, True, True, False, True]


def test_a_batch_is_padded_to_its_longest_sequence_only() -> None:
    sequences = padded([10, 20, 30, 200, 250], length=256)
    assert sequences.rows(np.array([0, 1, 2])).tokens.shape == (3, 33)
    assert sequences.rows(np.array([3, 4])).tokens.shape == (2, 257)
    assert sequences.rows(np.array([3])).tokens.shape == (1, 225)


def test_windows_reach_over_record_batches() -> None:
    store = stored([BATCH - 3, 10], vocab=1 << 21)
    ids, _ = store.window(BATCH - 5, BATCH + 5)
    assert ids.tolist() == list(range(BATCH - 4, BATCH + 6))
    assert store.document_lengths().tolist() == [BATCH - 3, 10]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what is mapped of a file")
@pytest.mark.parametrize("width", [257, 1 << 17])
def test_little_of_a_large_file_stays_in_memory_wherever_it_is_read(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumina.data.tokens.KEPT_MAPPED", 1 << 20)
    store = stored([1 << 20] * 6, vocab=1 << 23)
    file, held = store.folder / TOKENS_FILE, list[int]()
    for number, start in enumerate(np.random.default_rng(0).integers(0, len(store) - width, 300)):
        store.window(int(start), int(start) + width)
        if number % 10 == 0:
            held += [one.rss for one in psutil.Process().memory_maps() if one.path == str(file)]
    assert 0 < max(held) < file.stat().st_size // 2
