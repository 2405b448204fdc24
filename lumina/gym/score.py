"""What the cells of the gym are worth: detection, false alarms, and the share of the damage that was repaired.

Pure arithmetic on their documents; `DEFINITIONS` says it in words, and the published page quotes it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lumina.gym.plan import cell_of, noise_seeds, reference_of
from lumina.gym.scenario import Scenario, Seeds

Results = Mapping[str, Mapping[str, Any]]
INTERVALS = 2  # check intervals within which a fault should be noticed
PER = 10_000  # healthy steps that false alarms are given for

DEFINITIONS = """\
- *Loss* L: validation loss after the last step; ln(vocabulary) where it is above that or not finite (no better than
  guessing). A run that broke down is scored by the model it left. Means are over seeds; all methods see the same seeds,
  and the same bits up to the fault.
- *Damage*: L(none) - L(healthy), where "none" has neither orchestrator nor clipping, and "healthy" is the same run
  without the fault, as shipped and unwatched. For overfitting, where no method can bring more data, "healthy" is the
  lowest validation loss on the way of "none".
- *Seed noise* s: standard deviation of L(healthy) over the seeds. Damage of s or less is reported as "none" and gives
  no repair.
- *Repair*: (L(none) - L(method)) / damage, clipped to [-1, 1]: 0 is as bad as doing nothing, 1 as good as healthy.
- *Worse than nothing*: L(method) > L(none) + s.
- *Detected*: one of the scenario's causes appears as a proposal, as an action or as a health issue within two check
  intervals of the first faulty step; a baseline has detected when it first acted in that time. For overfitting, the
  first faulty step is the one after the lowest validation loss of "none", and an earlier detection counts from one
  check interval before it.
- *False*: proposals (of a baseline: actions) in healthy scenarios, and before the first faulty step of the others.\
"""


@dataclass(frozen=True)
class Row:
    """One method in one scenario. `repair` is None where there was nothing to repair; losses are means over seeds."""

    scenario: str
    method: str
    seeds: int
    missing: int
    failed: list[str]
    loss: float | None
    none: float | None
    healthy: float | None
    noise: float | None
    repair: float | None
    unclipped_repair: float | None
    worse_than_none: bool
    detected: int
    detection_steps: list[int]
    false_proposals: int
    false_actions: int
    false_issues: int
    healthy_steps: int
    is_healthy: bool

    @property
    def damaged(self) -> bool:
        return self.repair is not None


@dataclass(frozen=True)
class Summary:
    """One method over all scenarios."""

    method: str
    detected_share: float | None
    median_detection_steps: float | None
    false_proposals: float | None
    false_actions: float | None
    false_issues: float | None
    healthy_steps: int
    mean_repair: float | None
    worse_than_none: list[str] = field(default_factory=list)
    failed: int = 0


def loss_of(document: Mapping[str, Any]) -> float:
    """The loss that a cell is scored by."""
    worst = math.log(document["vocabulary"])
    final = document["final_val_loss"]
    return worst if final is None else min(final, worst)


def rows(scenarios: Sequence[Scenario], methods: Sequence[str], seeds: Sequence[int], split: Seeds, short: bool,
         results: Results) -> list[Row]:  # fmt: skip
    """The table, scenario by scenario; cells that are not there yet are counted as missing."""
    return [_row(scenario, method, seeds, split, short, results) for scenario in scenarios for method in methods]


def _row(scenario: Scenario, method: str, seeds: Sequence[int], split: Seeds, short: bool,
         results: Results) -> Row:  # fmt: skip
    found = {seed: results[key] for seed in seeds if (key := cell_of(scenario, method, seed, short).key) in results}
    nothing = {seed: results[key] for seed in seeds if (key := cell_of(scenario, "none", seed, short).key) in results}
    shared = sorted(found.keys() & nothing.keys())
    loss, none = _mean(loss_of(found[seed]) for seed in shared), _mean(loss_of(nothing[seed]) for seed in shared)
    twins = {seed: _healthy(scenario, seed, short, results) for seed in noise_seeds(seeds, split)}
    healthy = _mean(twins[seed] for seed in shared if twins[seed] is not None)
    known = [value for value in twins.values() if value is not None]
    noise = statistics.stdev(known) if len(known) > 1 else None
    repair = None
    if not scenario.healthy and None not in (loss, none, healthy, noise) and none - healthy > noise:  # type: ignore[operator]
        repair = (none - loss) / (none - healthy)  # type: ignore[operator]
    onsets = {seed: _onset(scenario, seed, short, results) for seed in found}
    steps = [_detection(scenario, method, found[seed], onset) for seed, onset in onsets.items()]
    before = {seed: _healthy_part(scenario, onset, found[seed]) for seed, onset in onsets.items()}
    alarms = [_false(method, found[seed], until) for seed, until in before.items()]
    return Row(
        scenario=scenario.name,
        method=method,
        seeds=len(found),
        missing=len(seeds) - len(found),
        failed=[f"seed {seed}: {doc['status']}" for seed, doc in found.items() if doc["status"].startswith("failed")],
        loss=loss,
        none=none,
        healthy=healthy,
        noise=noise,
        repair=None if repair is None else max(-1.0, min(1.0, repair)),
        unclipped_repair=repair,
        worse_than_none=None not in (loss, none, noise) and loss > none + noise,  # type: ignore[operator]
        detected=sum(step is not None for step in steps),
        detection_steps=[step for step in steps if step is not None],
        false_proposals=sum(alarm[0] for alarm in alarms),
        false_actions=sum(alarm[1] for alarm in alarms),
        false_issues=sum(alarm[2] for alarm in alarms),
        healthy_steps=sum(before.values()),
        is_healthy=scenario.healthy,
    )


def _healthy(scenario: Scenario, seed: int, short: bool, results: Results) -> float | None:
    """The loss that a full repair would reach with this seed."""
    method = "none" if scenario.reference == "best_of_none" else None
    key = cell_of(scenario, method, seed, short).key if method else reference_of(scenario, seed, short).key
    if key not in results:
        return None
    return _best(results[key])[1] if method else loss_of(results[key])


def _best(document: Mapping[str, Any]) -> tuple[int, float]:
    """Step and value of the lowest validation loss on the way."""
    curve = [(value, step) for step, value in document["val_losses"] if value is not None]
    value, step = min(curve, default=(loss_of(document), 0))
    return step, min(value, math.log(document["vocabulary"]))


def _onset(scenario: Scenario, seed: int, short: bool, results: Results) -> int | None:
    """The first faulty step; None where there is none."""
    if scenario.healthy:
        return None
    if scenario.fault is not None:
        return scenario.fault.at
    key = cell_of(scenario, "none", seed, short).key
    return _best(results[key])[0] + 1 if key in results else None


def _detection(scenario: Scenario, method: str, document: Mapping[str, Any], onset: int | None) -> int | None:
    """Steps from the first faulty one (which counts as 1) to the first detection in time; None without."""
    if onset is None:
        return None
    interval = document["check_interval"]
    first = onset if scenario.fault is not None else onset - interval
    steps = [step for step in _noticed(scenario, method, document) if first <= step < onset + INTERVALS * interval]
    return max(1, min(steps) - onset + 1) if steps else None


def _noticed(scenario: Scenario, method: str, document: Mapping[str, Any]) -> list[int]:
    if method != "auto":
        return list(document["acts"])
    told = [*document["proposals"], *document["applied"]]
    steps = [entry["step"] for entry in told if entry["cause"] in scenario.expects]
    return steps + [issue["step"] for issue in document["issues"] if issue["code"] in scenario.expects]


def _healthy_part(scenario: Scenario, onset: int | None, document: Mapping[str, Any]) -> int:
    """How many steps of the cell were healthy."""
    if onset is None:
        return int(document["attempted_steps"]) if scenario.healthy else 0
    # Overfitting sets in before it can be told from noise: what is said shortly before the turn is no false alarm.
    return max(0, onset - 1 if scenario.fault is not None else onset - 1 - 2 * document["check_interval"])


def _false(method: str, document: Mapping[str, Any], until: int) -> tuple[int, int, int]:
    """Proposals, those that were acted on, and health issues within the first `until` steps."""
    if method != "auto":
        acts = sum(step <= until for step in document["acts"])
        return acts, acts, 0
    # By the step of the proposal: an action that takes the run back is journalled at the step that it went back to.
    proposals = [entry for entry in document["proposals"] if entry["step"] <= until]
    acted = sum(entry["became"] == "applied" for entry in proposals)
    return len(proposals), acted, sum(entry["step"] <= until for entry in document["issues"])


def summary(method: str, table: Sequence[Row]) -> Summary:
    """One method over its rows."""
    mine = [row for row in table if row.method == method]
    faulty = [row for row in mine if not row.is_healthy]
    runs, healthy = sum(row.seeds for row in faulty), sum(row.healthy_steps for row in mine)
    steps = [step for row in faulty for step in row.detection_steps]

    def rate(count: int) -> float | None:
        return PER * count / healthy if healthy else None

    return Summary(
        method=method,
        detected_share=sum(row.detected for row in faulty) / runs if runs else None,
        median_detection_steps=statistics.median(steps) if steps else None,
        false_proposals=rate(sum(row.false_proposals for row in mine)),
        false_actions=rate(sum(row.false_actions for row in mine)),
        false_issues=rate(sum(row.false_issues for row in mine)),
        healthy_steps=healthy,
        mean_repair=_mean(row.repair for row in faulty if row.repair is not None),
        worse_than_none=[row.scenario for row in mine if row.worse_than_none],
        failed=sum(len(row.failed) for row in mine),
    )


@dataclass(frozen=True)
class Goal:
    """One thing that `auto` should reach, and what it did reach."""

    text: str
    measured: str
    met: bool


def goals(summaries: Mapping[str, Summary]) -> list[Goal]:
    """The goals that `auto` is held to; empty without it."""
    auto = summaries.get("auto")
    if auto is None:
        return []
    found = [
        Goal("at least 95 % detected within two check intervals", _shown(auto.detected_share, "{:.1%}"),
             (auto.detected_share or 0.0) >= 0.95),
        Goal("at most 1 false intervention in 10,000 healthy steps",
             f"{_shown(auto.false_actions, '{:.2f}')} in {auto.healthy_steps:,} healthy steps",
             auto.false_actions is not None and auto.false_actions <= 1.0),
        Goal("mean repair at least 0.8", _shown(auto.mean_repair, "{:.2f}"), (auto.mean_repair or 0.0) >= 0.8),
        Goal("never worse than doing nothing by more than the seed noise",
             ", ".join(auto.worse_than_none) or "in no scenario", not auto.worse_than_none),
    ]  # fmt: skip
    for name, other in summaries.items():
        if name not in ("auto", "none") and other.mean_repair is not None:
            text = f"{_shown(auto.mean_repair, '{:.2f}')} against {other.mean_repair:.2f}"
            found.append(Goal(f"ahead of {name} on the mean", text, (auto.mean_repair or 0.0) > other.mean_repair))
    return found


def _shown(value: float | None, form: str) -> str:
    return "not measured" if value is None else form.format(value)


def _mean(values: Any) -> float | None:
    kept = [value for value in values if value is not None]
    return statistics.fmean(kept) if kept else None
