"""The figures of `lumina data check` against Python's own, with rows put together many times and only once."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest

from lumina.data import statistics as table
from lumina.data.statistics import Table


@pytest.fixture(params=[7, 1 << 16], ids=["put together often", "put together once"])
def _rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "ROWS", request.param)


@pytest.mark.usefixtures("_rows")
@pytest.mark.parametrize("samples", [1, 2, 999, 1000])
def test_figures_of_tokens_are_those_of_the_single_samples(samples: int) -> None:
    draw = random.Random(samples)
    lengths = [int(draw.paretovariate(0.7)) + 2 for _ in range(samples)]
    made = Table()
    for length in lengths:
        made.add("text", "text", draw.randrange(1001), False, length, length - 1)
        made.add("alpaca", "conversation", 500, True, None, 0)  # not trained on, so not counted
    assert made.tokens() == {
        "samples": samples,
        "total": sum(lengths),
        "with_loss": sum(lengths) - samples,
        "mean": pytest.approx(statistics.fmean(lengths), abs=1e-3),
        "median": statistics.median(lengths),
        "max": max(lengths),
        "min": min(lengths),
        "std": pytest.approx(statistics.pstdev(lengths), rel=1e-6, abs=1e-3),
    }
    buckets = made.distribution()
    for bucket in buckets:
        inside = [length for length in lengths if bucket["from"] <= length <= bucket["to"]]
        assert len(inside) == bucket["samples"]
    assert sum(bucket["samples"] for bucket in buckets) == samples
    assert all(one["to"] + 1 == other["from"] for one, other in itertools.pairwise(buckets))


@pytest.mark.usefixtures("_rows")
def test_quality_forms_and_kinds_are_counted_over_all_valid_samples() -> None:
    made = Table()
    for score in range(100):
        made.add(
            "sharegpt" if score % 3 else "text", "conversation" if score % 3 else "text", score, score < 85, None, 0
        )
    assert made.quality() == {"valid": 100, "below": 85, "mean": pytest.approx(0.0495), "min": 0.0}
    assert made.counts("form") == {"text": 34, "sharegpt": 66}
    assert made.counts("kind") == {"text": 34, "conversation": 66}


def test_a_file_without_a_sample_has_no_figures() -> None:
    made = Table()
    assert made.quality() == {"valid": 0, "below": 0, "mean": None, "min": None}
    assert made.tokens() == {"samples": 0, "total": 0, "with_loss": 0} | dict.fromkeys(
        ("mean", "median", "max", "min", "std")
    )
    assert made.distribution() == ()
