"""How far a detector's confidence can be trusted, by how its earlier proposals ended: beta-binomial per detector, bin.
It folds journal entries and reads the prior that the package ships; it knows no live run and decides nothing.

A proposal's confidence c falls into a bin: [0, 0.5), [0.5, 0.75), [0.75, 0.9), [0.9, 1]. Its outcome is worth

helped 1, neutral 1/2, hurt 0 (the verdict on the loss of what was applied for it); rejected by a person 0; undone by a
person before there was a verdict 0. Inconclusive, expired and withdrawn proposals say nothing.

With s = the sum of worth and n = the number of outcomes of that detector in that bin, in the prior and in this run,

adjusted = (K c + s) / (K + n),   K = 10

which is the posterior mean of a share whose beta prior has mean c and weighs as much as K outcomes: without outcomes a
confidence stays what it is, and three proposals that hurt take 0.9 to 0.69.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from lumina.orchestrator.types import Finding

EDGES = (0.0, 0.5, 0.75, 0.9)  # each bin begins here; the last ends at 1
WEIGHT = 10.0
WORTH = {"helped": 1.0, "neutral": 0.5, "hurt": 0.0}


@dataclass(frozen=True)
class Share:
    """Outcomes of one detector in one bin: how many, and what they were worth together."""

    count: float = 0.0
    worth: float = 0.0

    def __add__(self, other: Share) -> Share:
        return Share(self.count + other.count, self.worth + other.worth)


def bin_of(confidence: float) -> int:
    """The number of the bin that a confidence falls into."""
    return max(number for number, edge in enumerate(EDGES) if confidence >= edge)


def detector_of(cause: str) -> str:
    """The detector behind a cause: `hurt/3` is of `hurt`."""
    return cause.partition("/")[0]


@functools.cache
def shipped_prior() -> Mapping[tuple[str, int], Share]:
    """Outcomes that the package ships; `prior.json` says where they come from."""
    document = json.loads(resources.files("lumina.orchestrator").joinpath("prior.json").read_text("utf-8"))
    return {
        (detector, bin_of(row["from"])): Share(row["count"], row["worth"])
        for detector, rows in document["detectors"].items()
        for row in rows
    }


@dataclass
class Record:
    """Proposals of one run and how they ended, folded from its journal in order."""

    proposals: dict[str, tuple[str, float]] = field(default_factory=dict)  # id → detector, its own confidence
    receipts: dict[str, str] = field(default_factory=dict)  # receipt → proposal
    outcomes: dict[str, float] = field(default_factory=dict)  # proposal → worth

    def fold(self, type: str, id: str | None, doc: Mapping[str, Any]) -> None:
        """Takes one journal entry into account."""
        if type == "proposal":
            told = (doc.get("evidence") or {}).get("calibration") or {}
            raw = float(told.get("raw", doc.get("confidence") or 0.0))
            self.proposals[id or ""] = (detector_of(str(doc.get("cause"))), raw)
        elif type == "decision" and doc["decision"] == "rejected" and not _by_orchestrator(doc):
            self.outcomes[doc["proposal"]] = 0.0
        elif type == "applied":
            self._applied(id or "", doc)
        elif type == "effect" and id in self.receipts and doc.get("state") in WORTH:
            self.outcomes[self.receipts[id]] = WORTH[doc["state"]]

    def _applied(self, id: str, doc: Mapping[str, Any]) -> None:
        undone = self.receipts.get(str(doc.get("undoes")))
        if undone is not None and undone not in self.outcomes and not _by_orchestrator(doc):
            self.outcomes[undone] = 0.0
        if doc.get("proposal") in self.proposals and doc.get("kind") in ("approve", "undo"):
            self.receipts[id] = doc["proposal"]

    def shares(self) -> dict[tuple[str, int], Share]:
        """(detector, bin) → outcomes of this run."""
        found: dict[tuple[str, int], Share] = {}
        for proposal, worth in self.outcomes.items():
            if proposal in self.proposals:
                detector, confidence = self.proposals[proposal]
                key = (detector, bin_of(confidence))
                found[key] = found.get(key, Share()) + Share(1, worth)
        return found


def adjust(findings: Iterable[Finding], record: Record) -> list[Finding]:
    """The findings with adjusted confidences; the evidence says what a detector said itself, and what changed it."""
    known = record.shares()
    return [_adjusted(finding, known) for finding in findings]


def _adjusted(finding: Finding, known: Mapping[tuple[str, int], Share]) -> Finding:
    key = (detector_of(finding.cause), bin_of(finding.confidence))
    share = shipped_prior().get(key, Share()) + known.get(key, Share())
    if not share.count:
        return finding
    adjusted = (WEIGHT * finding.confidence + share.worth) / (WEIGHT + share.count)
    said = {"raw": round(finding.confidence, 4), "outcomes": share.count, "worth": share.worth}
    return dataclasses.replace(finding, confidence=adjusted, evidence={**finding.evidence, "calibration": said})


def _by_orchestrator(doc: Mapping[str, Any]) -> bool:
    return (doc.get("author") or {}).get("name") == "orchestrator"


# Reliability: how often proposals of a confidence end well


@dataclass(frozen=True)
class Reliability:
    """One bin of a reliability diagram: outcomes, the confidence that was told, and the share that ended well."""

    detector: str
    low: float
    high: float
    count: int
    confidence: float | None
    share: float | None
    prior_count: float
    prior_share: float | None


def reliability(records: Iterable[Record]) -> list[Reliability]:
    """Every bin of every detector with outcomes in these runs or in the prior, and all detectors together."""
    told: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for record in records:
        for proposal, worth in record.outcomes.items():
            if proposal in record.proposals:
                detector, confidence = record.proposals[proposal]
                for name in ("all", detector):
                    told.setdefault((name, bin_of(confidence)), []).append((confidence, worth))
    keys = {("all", number) for number in range(len(EDGES))} | set(told) | set(shipped_prior())
    return [_row(key, told.get(key, [])) for key in sorted(keys, key=lambda key: (key[0] != "all", key))]


def _row(key: tuple[str, int], outcomes: list[tuple[float, float]]) -> Reliability:
    name, number = key
    prior = shipped_prior()
    before = prior.get(key, Share()) if name != "all" else sum(
        (share for (_, place), share in prior.items() if place == number), Share()
    )  # fmt: skip
    count = len(outcomes)
    return Reliability(
        detector=name,
        low=EDGES[number],
        high=EDGES[number + 1] if number + 1 < len(EDGES) else 1.0,
        count=count,
        confidence=sum(confidence for confidence, _ in outcomes) / count if count else None,
        share=sum(worth for _, worth in outcomes) / count if count else None,
        prior_count=before.count,
        prior_share=before.worth / before.count if before.count else None,
    )
