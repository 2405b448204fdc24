from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest

from lumina.orchestrator.effect import EffectMeter, compare

WINDOW = 100


def curve(seed: int, steps: int = 1500) -> np.ndarray:
    """(step, loss) of a made-up run: a power law or an exponential, the mark of a cosine schedule, and heavy-tailed
    noise that remembers a little."""
    rng = np.random.default_rng(seed)
    step = np.arange(1, steps + 1)
    floor, height, alpha, pace = rng.uniform(1, 3), rng.uniform(2, 8), rng.uniform(0.1, 0.6), rng.uniform(100, 600)
    falling = np.exp(-step / pace) if seed % 2 else (step / 20 + 1) ** -alpha
    rate = np.minimum(step / 50, 1) * (0.1 + 0.45 * (1 + np.cos(np.pi * step / steps)))
    shocks, noise, memory = rng.standard_t(5, steps) * rng.uniform(0.005, 0.05), np.zeros(steps), rng.uniform(0, 0.5)
    for i in range(steps):
        noise[i] = memory * noise[i - 1] + shocks[i]
    return np.stack([step, (floor + height * falling) * (1 + 0.04 * rate) * np.exp(noise)], axis=1)


def verdicts(change: float, seeds: range) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in seeds:
        points = curve(seed)
        at = int(np.random.default_rng(seed).integers(WINDOW, 1400))
        points[at:, 1] *= 1 + change
        found[compare(points[max(0, at - 2 * WINDOW) : at], points[at : at + WINDOW]).state] += 1
    return found


def test_a_change_that_does_nothing_is_rarely_judged():
    found = verdicts(0.0, range(200))
    assert found["helped"] + found["hurt"] <= 10, found
    assert found["neutral"] >= 170, found


@pytest.mark.parametrize(("change", "state", "other"), [(0.1, "hurt", "helped"), (-0.1, "helped", "hurt")])
def test_a_tenth_of_the_loss_is_seen_and_never_taken_for_its_opposite(change, state, other):
    found = verdicts(change, range(200))
    assert found[state] >= 160, found
    assert found[other] == 0


def test_the_size_of_the_change_is_told_with_its_band():
    points = curve(2)
    points[800:, 1] *= 1.2
    measured = compare(points[600:800], points[800:900])
    assert measured.change == pytest.approx(0.2, abs=0.03)
    assert 0 < measured.band < 0.1
    assert measured.confidence > 0.99
    assert measured.after == pytest.approx(1.2 * measured.expected, rel=0.03)


def test_spikes_and_skipped_steps_do_not_decide():
    points = curve(4)
    points[750:790:7, 1] *= 5
    points[805:850:9, 1] = math.nan
    points[810:870:11, 1] *= 20
    assert compare(points[600:800], points[800:900]).state == "neutral"


def test_too_few_steps_are_inconclusive():
    points = curve(1)
    assert compare(points[:5], points[5:105]).state == "inconclusive"
    assert compare(points[:0], points[:0]).state == "inconclusive"


def shown(meter: EffectMeter, points: np.ndarray) -> None:
    for step, loss in points:
        meter.observe(
            int(step), {"loss": float(loss), "moe.routing_entropy": 0.4 if step <= 300 else 0.8, "throughput": 9e3}
        )


def test_a_meter_measures_one_intervention_after_its_window_with_what_it_aimed_at():
    meter, points = EffectMeter(WINDOW), curve(0)
    shown(meter, points[:300])
    assert meter.applied(300, 0) == 400
    shown(meter, points[300:399])
    assert meter.conclude(399) == []
    shown(meter, points[399:400])
    ((number, measured),) = meter.conclude(400)
    assert (number, measured.state) == (0, "neutral")
    assert (measured.first_step, measured.last_step) == (101, 400)
    told = measured.to_json(("moe.routing_entropy", "moe.drop_fraction", "throughput"))
    assert told["signals"]["moe.routing_entropy"] == {"before": 0.4, "after": 0.8}
    assert "moe.drop_fraction" not in told["signals"]
    assert "routing entropy 0.4 → 0.8" in told["summary"]


def test_interventions_within_one_window_are_told_as_confounded():
    meter, points = EffectMeter(WINDOW), curve(0)
    found = {}
    for step in range(1, 701):
        shown(meter, points[step - 1 : step])
        found.update(meter.conclude(step))
        if step in (300, 360, 600):
            meter.applied(step, (300, 360, 600).index(step))
    assert [found[number].confounded_by for number in (0, 1, 2)] == [(1,), (0,), ()]
    assert [found[number].state for number in (0, 1, 2)] == ["inconclusive", "inconclusive", "neutral"]
    assert "another intervention" in found[0].summary()


def test_interventions_made_together_for_one_proposal_are_measured_as_one():
    meter, points = EffectMeter(WINDOW), curve(0)
    shown(meter, points[:300])
    meter.applied(300, 0, 0)
    meter.applied(300, 1, 0)
    shown(meter, points[300:400])
    first, second = (measured for _, measured in meter.conclude(400))
    assert first == second
    assert (first.state, first.confounded_by) == ("neutral", ())


def test_the_steps_before_begin_after_the_intervention_before():
    meter, points = EffectMeter(WINDOW), curve(0)
    shown(meter, points[:300])
    meter.applied(300, 0)
    shown(meter, points[300:420])
    meter.conclude(420)
    meter.applied(420, 1)
    shown(meter, points[420:520])
    ((_, measured),) = meter.conclude(520)
    assert measured.first_step == 301


def test_a_run_that_ends_is_measured_with_the_steps_that_there_are():
    meter, points = EffectMeter(WINDOW), curve(0)
    shown(meter, points[:300])
    meter.applied(300, 0)
    shown(meter, points[300:340])
    ((_, measured),) = meter.conclude(340, finished=True)
    assert measured.last_step == 340
    assert measured.state != "inconclusive"


def test_a_restored_meter_says_exactly_what_the_uninterrupted_one_says():
    points = curve(6)
    points[300:, 1] *= 1.3
    whole, before = EffectMeter(WINDOW), EffectMeter(WINDOW)
    for meter in (whole, before):
        shown(meter, points[:300])
        meter.applied(300, 0)
        shown(meter, points[300:350])
    after = EffectMeter(WINDOW)
    after.restore(json.loads(json.dumps(before.state(), allow_nan=False)))
    for meter in (whole, after):
        shown(meter, points[350:400])
    (_, expected), (_, found) = whole.conclude(400)[0], after.conclude(400)[0]
    assert found.state == "hurt"
    # Only what the clock says is not kept: it is told, and no verdict depends on it.
    assert {**expected.to_json(()), "signals": {}} == {**found.to_json(()), "signals": {}}
    assert whole.state() == after.state()


def test_what_another_run_did_is_not_measured():
    meter, points = EffectMeter(WINDOW), curve(0)
    shown(meter, points[:300])
    meter.applied(300, 0)
    meter.forget()
    shown(meter, points[300:400])
    assert meter.conclude(400) == []


def hurting(meter: EffectMeter) -> None:
    points = curve(6)
    points[300:, 1] *= 1.3
    shown(meter, points[:300])
    meter.applied(300, 0)
    shown(meter, points[300:400])
    meter.remember_hurt(0, meter.conclude(400)[0][1])


RECEIPT = {"id": "ab" * 16, "method": "prune_expert", "step": 300, "kind": "intervene"}


def test_what_hurt_asks_for_its_undo_once():
    meter = EffectMeter(WINDOW)
    hurting(meter)
    (finding,) = meter.findings([RECEIPT], [])
    assert (finding.method, finding.args) == ("undo", {"receipt": RECEIPT["id"]})
    assert finding.confidence > 0.99
    assert "prune_expert at step 300 made things worse: loss +3" in finding.evidence["summary"]
    assert meter.findings([RECEIPT], [{"cause": finding.cause}]) == [finding], "it stands while the proposal is open"
    assert meter.findings([RECEIPT], []) == [], "answered"


def test_what_was_undone_meanwhile_asks_no_more():
    meter = EffectMeter(WINDOW)
    hurting(meter)
    undo = {"id": "cd" * 16, "method": "prune_expert", "step": 410, "kind": "undo", "undoes": RECEIPT["id"]}
    assert meter.findings([RECEIPT, undo], []) == []
