"""What a rehearsal says of two curves: the paired difference, how sure it is, and when the run has to pause for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from lumina.orchestrator.rehearse import Machine, PairedDifference, must_pause, paired_difference

GIB = 2**30


def series(values: Any, first: int = 11) -> dict[str, list[Any]]:
    return {"step": list(range(first, first + len(values))), "value": [float(value) for value in values]}


def compared(d: Any, base: Any) -> PairedDifference:
    found = paired_difference(series(np.asarray(base) + d), series(base))
    assert found is not None
    return found


def test_noise_that_both_share_does_not_hide_the_difference() -> None:
    rng = np.random.default_rng(1)
    base = 4 + rng.normal(0, 0.5, 60)  # batches are harder and easier: for both
    found = compared(-0.02 + rng.normal(0, 0.01, 60), base)
    assert found.mean == pytest.approx(-0.02, abs=0.005)
    assert found.verdict == "lower"
    assert found.high is not None
    assert found.high < 0


def test_independent_differences_give_the_interval_of_a_t_test() -> None:
    d = np.random.default_rng(4).normal(0.1, 1.0, 40)
    d = d[np.argsort(np.random.default_rng(5).random(40))]
    found = compared(d, np.zeros(40))
    lagged = ((d[1:] - d.mean()) * (d[:-1] - d.mean())).sum() / ((d - d.mean()) ** 2).sum()
    assert lagged < 0, "held at 0: all steps count"
    low, high = stats.t.interval(0.95, 39, d.mean(), d.std(ddof=1) / np.sqrt(40))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.independent_steps == 40


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    for memory, share in ((0.0, 0.93), (0.6, 0.90)):
        held = 0
        for _ in range(400):
            d = np.zeros(60)
            for t in range(1, 60):
                d[t] = memory * d[t - 1] + rng.normal(0, 1)
            found = compared(0.3 + d, np.zeros(60))
            assert found.low is not None
            assert found.high is not None
            held += found.low <= 0.3 <= found.high
        assert held / 400 >= share, f"lag-1 correlation {memory}"


def test_one_wild_step_does_not_widen_the_spread() -> None:
    calm = np.random.default_rng(2).normal(0, 0.1, 50)
    wild = calm.copy()
    wild[20] = 50.0
    assert compared(wild, np.zeros(50)).spread == pytest.approx(compared(calm, np.zeros(50)).spread, rel=0.1)


def test_only_steps_that_both_have_are_compared() -> None:
    changed = {"step": [1, 2, 3, 4, 5], "value": [9.0, 2.0, None, 4.0, 5.0]}
    unchanged = {"step": [2, 3, 4, 6], "value": [1.0, 1.0, 1.0, 1.0]}
    found = paired_difference(changed, unchanged)
    assert found is not None
    assert (found.steps, found.mean, found.verdict) == (2, 2.0, "too few steps")
    later = paired_difference(changed, unchanged, after=2)
    assert later is not None
    assert (later.steps, later.mean) == (1, 3.0)
    assert paired_difference(changed, {"step": [], "value": []}) is None


def test_a_difference_that_grows_shows_in_the_last_quarter() -> None:
    found = compared(np.linspace(0, -0.4, 40), np.full(40, 3.0))
    assert found.late == pytest.approx(-0.35, abs=0.01)
    assert found.independent_steps < 5, "neighbouring steps say the same"


@pytest.mark.parametrize(
    ("machine", "pauses", "why"),
    [
        (Machine(2, 8 * GIB, 2, GIB), True, "2 cores, and the run computes on 2 of them"),
        (Machine(2, 8 * GIB, 1, GIB), True, "2 cores"),
        (Machine(16, 8 * GIB, 14, GIB), False, "2 of 16 cores are free"),
        (Machine(16, GIB, 14, GIB), True, "1.0 GiB of memory are free, and the run holds 1.0 GiB"),
        (Machine(16, 64 * GIB, 4, None, "cuda"), True, "one cuda device"),
        (Machine(8, 8 * GIB, None, None), True, "8 cores, and the run computes on 8 of them"),
    ],
)
def test_the_run_pauses_where_cores_or_memory_are_short(machine: Machine, pauses: bool, why: str) -> None:
    assert must_pause(machine)[0] is pauses
    assert why in must_pause(machine)[1]
