"""The health report beyond its issues: each area of a run in a word and a sentence, and what is recommended.
It orders what detectors and progress found; it finds nothing itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lumina.orchestrator.health import FINDING_SHOWN, Health, Issue
from lumina.orchestrator.types import Finding

AREAS: dict[str, tuple[str, ...]] = {
    "memory": ("memory", "oom"),
    "throughput": ("throughput", "slow"),
    "gradients": ("gradient", "non_finite"),
    "experts": ("expert", "router", "dropped", "capacity", "overload", "mod_", "depth"),
    "convergence": ("plateau", "converge", "hurt"),
    "loss": ("loss", "diverg", "spike", "overfit", "data"),
}
"""Area → what the codes of its issues contain; the first that fits."""
RANK = {"healthy": 0, "info": 0, "warning": 1, "critical": 2}


def assess(health: Health, findings: Sequence[Finding], progress: Mapping[str, Any]) -> Health:
    """The same health with its areas and recommendations filled in."""
    return dataclasses.replace(
        health, areas=_areas(health.issues, progress), recommendations=_recommendations(findings, progress)
    )


def area_of(code: str) -> str:
    """The area that an issue belongs to."""
    return next((area for area, parts in AREAS.items() if any(part in code for part in parts)), "loss")


def _areas(issues: Sequence[Issue], progress: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    found = {area: {"status": "healthy", "said": said} for area, said in _quiet(progress).items()}
    for issue in issues:
        area = found[area_of(issue.code)]
        if RANK[issue.severity] > RANK[area["status"]]:
            area.update(status=issue.severity, said=issue.message)
    return found


def _quiet(progress: Mapping[str, Any]) -> dict[str, str]:
    """What is said of areas without an issue."""
    landscape, score = progress.get("landscape"), progress.get("convergence_score")
    trend = f"{landscape['trend']}, {landscape['relative_change']:+.1%} within a fifth of the run" if landscape else ""
    settled = f"convergence score {score:.0f} %" if score is not None else "too early to say more"
    return {
        "loss": trend or "no issue",
        "gradients": "within their usual range",
        "experts": "no issue",
        "memory": "no issue",
        "throughput": "no issue",
        "convergence": f"phase {progress.get('phase')}, {settled}",
    }


def _recommendations(findings: Sequence[Finding], progress: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """What would help, the surest first; `method` is None where it is no intervention."""
    found = [
        {"method": finding.method, "args": dict(finding.args), "why": finding.cause,
         "confidence": round(finding.confidence, 2)}
        for finding in findings
        if finding.method is not None and finding.confidence >= FINDING_SHOWN
    ]  # fmt: skip
    course = progress.get("recommendation") or {}
    if course.get("action") in ("adjust", "stop"):
        score = progress.get("convergence_score") or 0.0
        found.append({"method": None, "args": {}, "why": f"{course['action']}: {course['why']}",
                      "confidence": round(score / 100 if course["action"] == "stop" else 0.5, 2)})  # fmt: skip
    return tuple(sorted(found, key=lambda one: -float(one["confidence"])))
