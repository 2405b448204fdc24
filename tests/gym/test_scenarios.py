from __future__ import annotations

from pathlib import Path

import pytest

from lumina.gym.scenario import KINDS, ScenarioError, load_scenarios, read_scenario, read_seeds

ASKED_FOR = {
    "lr_jump": "learning_rate",
    "poisoned_batch": "gradient",
    "nan_batch": "nan",
    "router_collapse": "router_bias",
    "dead_expert": "router_bias",
    "capacity_too_low": "capacity_factor",
    "lr_too_small": "learning_rate",
    "overfitting": None,
    "noise_shard": "noise",
    "oom": "oom",
    "slow_loader": "slow_loader",
    "mod_capacity_too_low": "mod_capacity_factor",
}


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def problems_of(folder: Path, text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        read_scenario(written(folder, text))
    return str(caught.value)


def test_every_kind_of_trouble_has_a_scenario_and_every_kind_of_fault_is_used():
    found = {s.name: s for s in load_scenarios()}
    assert {name: s.fault.kind if s.fault else None for name, s in found.items() if not s.healthy} == ASKED_FOR
    assert set(KINDS) == {kind for kind in ASKED_FOR.values() if kind}


def test_the_healthy_scenarios_differ_and_make_fifty_thousand_steps_with_the_seeds_that_are_reported():
    healthy = [s for s in load_scenarios() if s.healthy]
    assert len({str(sorted(s.settings.items(), key=str)) for s in healthy}) == len(healthy) >= 8
    assert sum(s.steps for s in healthy) * len(read_seeds().report) >= 50_000
    assert sum(s.short_steps for s in healthy) * 2 >= 10_000


def test_no_seed_is_for_tuning_and_for_reporting():
    seeds = read_seeds()
    assert seeds.tune
    assert seeds.report
    assert not set(seeds.tune) & set(seeds.report)


def test_a_scenario_that_anyone_writes_is_read(tmp_path):
    written(tmp_path, "about: Mine.\nexpects: [plateau]\nsteps: 50\nfault: {kind: learning_rate, at: 10, value: 2}\n")
    (mine,) = load_scenarios(["mine"], tmp_path)
    assert (mine.name, mine.steps, mine.short_steps, mine.reference) == ("mine", 50, 50, "healthy")
    assert mine.fault is not None
    assert (mine.fault.kind, mine.fault.at, mine.fault.value) == ("learning_rate", 10, 2.0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fault: {kind: learning_rat, at: 5}", "fault.kind = 'learning_rat' is not known (mine.yaml:4); did you mean"),
        ("fault: {kind: nan, att: 5}", "fault.att is not known (mine.yaml:4); did you mean fault.at?"),
        ("fault: {kind: nan}", "fault.at is missing (mine.yaml)"),
        ("fault: {kind: nan, at: 50}", "fault.at = 50 is not before the last of 50 steps (mine.yaml:4)"),
        ("fault: {kind: nan, at: five}", "fault.at = 'five' is not a whole number (mine.yaml:4)"),
        ("settings: {batch_sise: 4}", "settings.batch_sise"),
        ("settings: {batch_size: 0}", "settings.batch_size"),
        ("reference: best", "reference = 'best' is not known (mine.yaml:4); use healthy or best_of_none"),
        ("expect: [plateau]", "expect is not known (mine.yaml:4); did you mean expects?"),
    ],
)
def test_what_is_wrong_with_a_scenario_is_said_with_file_line_and_field(tmp_path, line, said):
    assert said in problems_of(tmp_path, f"about: Mine.\nexpects: [plateau]\nsteps: 50\n{line}\n")


def test_a_fault_that_nothing_is_expected_to_notice_is_refused(tmp_path):
    said = problems_of(tmp_path, "about: Mine.\nsteps: 50\nfault: {kind: nan, at: 5}\n")
    assert "expects is missing" in said


def test_all_problems_are_told_at_once(tmp_path):
    said = problems_of(tmp_path, "steps: none\nfault: {kind: x}\n").splitlines()
    assert len(said) >= 4


def test_an_unknown_scenario_is_told_with_the_nearest_name():
    with pytest.raises(ScenarioError, match=r"no scenario 'lr_jmp'.*did you mean lr_jump"):
        load_scenarios(["lr_jmp"])


def test_the_page_explains_every_kind_of_fault_in_the_same_words():
    page = (Path(__file__).parents[2] / "docs" / "gym.md").read_text()
    assert [
        f"| `{kind}` | {meaning} |" for kind, meaning in KINDS.items() if f"| `{kind}` | {meaning} |" not in page
    ] == []
