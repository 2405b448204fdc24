"""The calibration prior out of the gym: how the orchestrator's proposals ended in the runs with tuning seeds.

It counts verdicts on the loss, as a run does for itself; reported seeds are left out, so that they stay a test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lumina.orchestrator.calibration import EDGES, WORTH, bin_of, detector_of


def prior_of(documents: Iterable[Mapping[str, Any]], tuning: Sequence[int], command: str) -> dict[str, Any]:
    """The document that the package ships as `prior.json`, from the cells of `auto` with these seeds."""
    found: dict[str, dict[int, list[float]]] = {}
    runs = 0
    for document in documents:
        cell = document["cell"]
        if cell["method"] != "auto" or cell["seed"] not in tuning:
            continue
        runs += 1
        for proposal in document["proposals"]:
            if proposal.get("effect") in WORTH:
                bins = found.setdefault(detector_of(proposal["cause"]), {})
                bins.setdefault(bin_of(proposal["raw"]), []).append(WORTH[proposal["effect"]])
    return {
        "v": 1,
        "provenance": f"`{command}`: verdicts on the loss after what was done alone in {runs} runs with tuning seeds.",
        "detectors": {
            detector: [
                {"from": EDGES[number], "count": len(worth), "worth": sum(worth)}
                for number, worth in sorted(bins.items())
            ]
            for detector, bins in sorted(found.items())
        },
    }
