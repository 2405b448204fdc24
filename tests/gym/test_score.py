from __future__ import annotations

import math
from typing import Any

import pytest

from lumina.gym import report, score
from lumina.gym.plan import cell_of, cells, reference_of
from lumina.gym.scenario import Fault, Scenario, Seeds

SPLIT = Seeds(tune=(1, 2), report=(11, 12))
FAULTY = Scenario("broken", "", ("divergence",), 100, 100, "healthy", {}, Fault("learning_rate", 51, 30.0))
HEALTHY = Scenario("fine", "", (), 1000, 1000, "healthy", {}, None)
OVERFIT = Scenario("little", "", ("overfitting",), 100, 100, "best_of_none", {}, None)


def result(final: float | None, **more: Any) -> dict[str, Any]:
    empty = {"val_losses": [], "issues": [], "acts": [], "proposals": [], "applied": []}
    return {"final_val_loss": final, "vocabulary": 300, "status": "finished", "attempted_steps": 100,
            "check_interval": 20, **empty, **more}  # fmt: skip


def proposal(step: int, cause: str = "divergence", became: str = "applied") -> dict[str, Any]:
    return {"step": step, "cause": cause, "became": became}


def results(method: str, losses: dict[int, float | None], *, none: float | None = 3.0, **more: Any) -> dict[str, Any]:
    """A faulty scenario: healthy runs end at 1.0 +- 0.1, doing nothing at `none`, the method at `losses`."""
    found = {}
    for index, seed in enumerate([11, 12, 1, 2]):
        found[reference_of(FAULTY, seed, True).key] = result(0.9 if index % 2 else 1.1)
    for seed, loss in losses.items():
        found[cell_of(FAULTY, "none", seed, True).key] = result(none)
        found[cell_of(FAULTY, method, seed, True).key] = result(loss, **more)
    return found


def row(method: str, found: dict[str, Any], scenario: Scenario = FAULTY) -> score.Row:
    (made,) = score.rows([scenario], [method], [11, 12], SPLIT, True, found)
    return made


@pytest.mark.parametrize(
    ("ended_at", "repaired"), [(3.0, 0.0), (1.0, 1.0), (2.0, 0.5), (0.5, 1.0), (4.0, -0.5), (5.7, -1.0)]
)
def test_repair_is_the_share_of_the_damage_that_is_gone_between_minus_one_and_one(ended_at, repaired):
    assert row("auto", results("auto", {11: ended_at, 12: ended_at})).repair == pytest.approx(repaired, abs=1e-9)


def test_repair_is_a_ratio_of_means_so_that_one_lucky_seed_does_not_blow_it_up():
    assert row("auto", results("auto", {11: 1.0, 12: 3.0})).repair == pytest.approx(0.5)


def test_damage_within_the_seed_noise_gives_no_repair():
    found = row("auto", results("auto", {11: 1.05, 12: 1.05}, none=1.1))
    assert found.noise == pytest.approx(0.1155, abs=1e-3)
    assert found.repair is None
    assert not found.worse_than_none


def test_worse_than_nothing_needs_more_than_the_seed_noise():
    assert not row("auto", results("auto", {11: 3.1, 12: 3.1})).worse_than_none
    assert row("auto", results("auto", {11: 3.2, 12: 3.2})).worse_than_none


@pytest.mark.parametrize("final", [None, 50.0])
def test_a_run_that_is_lost_counts_as_guessing_and_not_as_more_than_that(final):
    assert score.loss_of(result(final)) == math.log(300)
    assert row("clip", results("clip", {11: 1.0, 12: 1.0}, none=final)).none == math.log(300)


def test_the_fault_must_be_noticed_within_two_check_intervals():
    for step, detected in ((50, 0), (51, 2), (60, 2), (90, 2), (91, 0)):
        found = row("auto", results("auto", {11: 1.0, 12: 1.0}, proposals=[proposal(step)]))
        assert found.detected == detected, step
    assert row("auto", results("auto", {11: 1.0, 12: 1.0}, proposals=[proposal(60)])).detection_steps == [10, 10]


def test_another_cause_is_no_detection_and_one_before_the_fault_is_a_false_alarm():
    found = row("auto", results("auto", {11: 1.0, 12: 1.0}, proposals=[proposal(60, "plateau"), proposal(40)]))
    assert (found.detected, found.false_proposals, found.healthy_steps) == (0, 2, 100)


def test_a_health_issue_detects_too():
    issue = {"step": 60, "code": "divergence", "confidence": 0.9}
    assert row("auto", results("auto", {11: 1.0, 12: 1.0}, issues=[issue])).detected == 2


def test_baselines_detect_by_acting():
    assert row("zclip", results("zclip", {11: 1.0, 12: 1.0}, acts=[30, 55])).detection_steps == [5, 5]


def test_false_interventions_are_counted_per_ten_thousand_healthy_steps():
    found = {}
    for seed, became in ((11, "applied"), (12, "withdrawn (its cause is gone)")):
        found[cell_of(HEALTHY, "none", seed, True).key] = result(1.0)
        found[cell_of(HEALTHY, "auto", seed, True).key] = result(
            1.0, attempted_steps=1000, proposals=[proposal(9, became=became)]
        )
    made = score.rows([HEALTHY], ["auto"], [11, 12], SPLIT, True, found)
    summary = score.summary("auto", made)
    assert (summary.healthy_steps, summary.false_proposals, summary.false_actions) == (2000, 10.0, 5.0)
    assert summary.mean_repair is None


def test_going_back_before_the_fault_is_no_false_intervention():
    back = {"step": 40, "cause": "divergence", "by": "orchestrator", "method": "rollback_steps"}
    found = row("auto", results("auto", {11: 1.0, 12: 1.0}, proposals=[proposal(60)], applied=[back]))
    assert (found.false_proposals, found.false_actions, found.detected) == (0, 0, 2)


def test_overfitting_is_measured_against_the_lowest_loss_on_the_way_and_from_there():
    found = {}
    for seed in (11, 12, 1, 2):
        curve = [[20, 2.0], [40, 1.5 + seed / 1000], [60, 1.8], [80, 2.5]]
        found[cell_of(OVERFIT, "none", seed, True).key] = result(2.5, val_losses=curve)
        found[cell_of(OVERFIT, "auto", seed, True).key] = result(1.5, proposals=[proposal(60, "overfitting")])
    made = row("auto", found, OVERFIT)
    assert made.healthy == pytest.approx(1.5115)
    assert made.repair == 1.0
    assert made.detection_steps == [20, 20]


def test_a_table_needs_each_run_once_and_the_healthy_twin_is_shared():
    other = Scenario("other", "", ("spike",), 100, 100, "healthy", {}, Fault("nan", 10))
    wanted = cells([FAULTY, other, HEALTHY], ["clip", "auto"], [11, 12], SPLIT, True)
    keys = [cell.key for cell in wanted]
    assert len(keys) == len(set(keys)) == 4 + 3 * 3 * 2
    assert cell_of(HEALTHY, "none", 11, True) in wanted


def test_goals_say_what_was_measured_and_whether_it_is_enough():
    found = {**results("auto", {11: 1.0, 12: 1.0}, proposals=[proposal(60)]), **results("clip", {11: 2.0, 12: 2.0})}
    table = score.rows([FAULTY], ["clip", "auto"], [11, 12], SPLIT, True, found)
    made = score.goals({name: score.summary(name, table) for name in ("clip", "auto")})
    assert [goal.met for goal in made] == [True] * 5
    assert made[-1].measured == "1.00 against 0.50"
    worse = score.rows([FAULTY], ["auto"], [11, 12], SPLIT, True, results("auto", {11: 4.0, 12: 4.0}))
    assert [goal.met for goal in score.goals({"auto": score.summary("auto", worse)})] == [False, True, False, False]


def test_the_page_keeps_what_others_wrote_and_names_what_broke(tmp_path):
    page = tmp_path / "orchestrator.md"
    page.write_text("# The orchestrator\n\nBefore.\n")
    broken = results("auto", {11: 1.0, 12: 1.0}, status="failed: RuntimeError: no memory")
    table = score.rows([FAULTY], ["none", "auto"], [11, 12], SPLIT, True, broken)
    about = {"command": "x", "seeds": [11, 12], "tuning_seeds": [1, 2], "scenarios": 1, "machine": "m"}
    for _ in range(2):
        report.publish(page, report.markdown(table, ["none", "auto"], about))
        page.write_text(page.read_text() + "After.\n")
    text = page.read_text()
    assert text.count("## How good it is") == 1
    assert text.startswith("# The orchestrator\n\nBefore.\n")
    assert text.count("After.") == 2
    assert "seed 11: failed: RuntimeError: no memory" in text
    assert "| broken | 1.000 | 3.000 |" in text
