"""Shows what the gym found, as a table for a terminal, as Markdown for the docs, and as JSON.

It formats numbers that `score` made; it computes none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lumina.gym.score import DEFINITIONS, Row, Summary, goals, summary
from lumina.store import atomic

BEGIN, END = "<!-- benchmarks/gym.py -->", "<!-- end of benchmarks/gym.py -->"
MISSING = ""


def document(table: Sequence[Row], methods: Sequence[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, as plain JSON."""
    summaries = {method: summary(method, table) for method in methods}
    return {
        **about,
        "goals": [asdict(goal) for goal in goals(summaries)],
        "methods": {name: asdict(found) for name, found in summaries.items()},
        "rows": [asdict(row) for row in table],
    }


def markdown(table: Sequence[Row], methods: Sequence[str], about: Mapping[str, Any]) -> str:
    """The section of the docs: command, goals, methods, scenarios, and what broke."""
    summaries = {method: summary(method, table) for method in methods}
    seeds = ", ".join(str(seed) for seed in about["seeds"])
    parts = [
        "## How good it is: the gym",
        "",
        f"`{about['command']}`: {about['scenarios']} scenarios, seeds {seeds} (thresholds were chosen on the seeds "
        f"{', '.join(str(seed) for seed in about['tuning_seeds'])}), {about['machine']}.",
        "",
        *_goals(summaries),
        "### Methods",
        "",
        *_methods(summaries),
        "",
        "### Damage that was repaired",
        "",
        *_repairs([row for row in table if not row.is_healthy], methods),
        "",
        "### Detection and false alarms",
        "",
        *_detections(table, methods),
        "",
        *_failures(table),
        "### What the figures mean",
        "",
        DEFINITIONS,
    ]
    return "\n".join(parts) + "\n"


def publish(page: Path, section: str) -> None:
    """Writes the section between its markers; the rest of the page stays as it is."""
    old = page.read_text(encoding="utf-8") if page.exists() else "# The orchestrator\n"
    block = f"{BEGIN}\n{section}{END}\n"
    if BEGIN in old:
        before, rest = old.split(BEGIN, 1)
        new = before + block + rest.split(END, 1)[1].lstrip("\n")
    else:
        new = old.rstrip("\n") + "\n\n" + block
    atomic.write_file(page, new.encode())


def write_json(path: Path, found: Mapping[str, Any]) -> None:
    """The same figures for programs."""
    atomic.write_file(path, (json.dumps(found, indent=1, allow_nan=False) + "\n").encode())


def _goals(summaries: Mapping[str, Summary]) -> list[str]:
    found = goals(summaries)
    if not found:
        return []
    lines = ["| goal for `auto` | measured | met |", "|---|---|---|"]
    return [*lines, *(f"| {g.text} | {g.measured} | {'yes' if g.met else '**no**'} |" for g in found), ""]


def _methods(summaries: Mapping[str, Summary]) -> list[str]:
    lines = [
        "| method | mean repair | detected | steps to detect (median) | false proposals per 10,000 healthy steps | "
        "false actions | false health issues | worse than nothing in | broken runs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in summaries.items():
        acts = name not in ("none", "clip")  # clipping to a fixed norm has no notion of noticing
        lines.append(
            f"| {name} | {_number(found.mean_repair, '+.2f')} | "
            f"{_number(found.detected_share if acts else None, '.0%')} | "
            f"{_number(found.median_detection_steps, '.0f')} | "
            f"{_number(found.false_proposals if acts else None, '.1f')} | "
            f"{_number(found.false_actions if acts else None, '.1f')} | "
            f"{_number(found.false_issues if name == 'auto' else None, '.1f')} | "
            f"{', '.join(found.worse_than_none) or '-'} | {found.failed} |"
        )
    return lines


def _repairs(table: Sequence[Row], methods: Sequence[str]) -> list[str]:
    others = [method for method in methods if method != "none"]
    lines = [
        f"| scenario | healthy | nothing done | seed noise | {' | '.join(others)} |",
        "|---|" + "---|" * (3 + len(others)),
    ]
    for name in dict.fromkeys(row.scenario for row in table):
        mine = {row.method: row for row in table if row.scenario == name}
        first = next(iter(mine.values()))
        cells = [_repair(mine.get(method)) for method in others]
        lines.append(
            f"| {name} | {_number(first.healthy)} | {_number(first.none)} | {_number(first.noise)} | "
            f"{' | '.join(cells)} |"
        )
    return lines


def _repair(row: Row | None) -> str:
    if row is None or row.loss is None:
        return MISSING
    worse = " (worse than nothing)" if row.worse_than_none else ""
    return f"{row.repair:+.2f}{worse}" if row.repair is not None else f"no damage ({row.loss:.3f}){worse}"


def _detections(table: Sequence[Row], methods: Sequence[str]) -> list[str]:
    shown = [method for method in methods if method not in ("none", "clip")]
    lines = [f"| scenario | {' | '.join(shown)} |", "|---|" + "---|" * len(shown)]
    for name in dict.fromkeys(row.scenario for row in table):
        mine = {row.method: row for row in table if row.scenario == name}
        lines.append(f"| {name} | {' | '.join(_detection(mine.get(method)) for method in shown)} |")
    return lines


def _detection(row: Row | None) -> str:
    if row is None or not row.seeds:
        return MISSING
    false = f"{row.false_proposals} false in {row.healthy_steps:,} steps"
    if row.is_healthy:
        return false
    steps = ", ".join(str(step) for step in row.detection_steps)
    return (
        f"{row.detected} of {row.seeds}"
        + (f", after {steps} steps" if steps else "")
        + (f"; {false}" if row.false_proposals else "")
    )


def _failures(table: Sequence[Row]) -> list[str]:
    broken = [f"- {row.scenario}, {row.method}, {text}" for row in table for text in row.failed]
    missing = sum(row.missing for row in table)
    lines = ["### Runs that broke down", "", *broken, ""] if broken else []
    return lines + ([f"{missing} runs are missing: the course was not finished.", ""] if missing else [])


def _number(value: float | None, form: str = ".3f") -> str:
    return MISSING if value is None else format(value, form)
