"""Finds Mixture of Depths that skips too much, or takes another share of the tokens than it was told to. Reads shares
of tokens; how a layer chooses them is not its business.

over-skipping  a token goes through less than a quarter of the layers on average, once warm-up and annealing are over;
               confidence 1 - depth / (1/4) / 2
drift          the chosen share is off the configured one by more than 10 %; confidence 1 - 10 % / off / 2
"""

from __future__ import annotations

from collections.abc import Sequence

from lumina.orchestrator.detectors.view import View, beyond, evidence
from lumina.orchestrator.signals import median
from lumina.orchestrator.types import Finding

SKIPPING, DRIFT = "mod_over_skipping", "mod_capacity_drift"
LEAST_DEPTH, MOST_DRIFT, RESTORED = 0.25, 0.1, 0.5
FEWEST_STEPS = 10


class OverSkipping:
    """Too little depth for a token."""

    def find(self, view: View) -> Sequence[Finding]:
        """A share of tokens that brings the mean depth to half of the layers."""
        facts, capacity = view.facts, view.hparams.get("mod_capacity_factor")
        depths = view.signals.last("mod.average_depth", FEWEST_STEPS)
        if not facts.mod_layers or not facts.num_layers or len(depths) < FEWEST_STEPS or capacity is None:
            return ()
        share = median(depths) / facts.num_layers
        if not share < LEAST_DEPTH:
            return ()
        skipping = len(facts.mod_layers) / facts.num_layers
        wanted = round(min(max((RESTORED - (1 - skipping)) / skipping, RESTORED), 1.0), 2)
        summary = (
            f"A token goes through {share:.0%} of the layers on average: with {capacity:.0%} of the tokens in a layer, "
            "little is computed at all."
        )
        found = evidence(view, summary, LEAST_DEPTH, {"depth": share, "capacity_factor": capacity})
        watches = ("mod_capacity_factor",)
        sure = 1 - share / LEAST_DEPTH / 2
        return (Finding(SKIPPING, sure, "warning", found, "adjust_mod_capacity", {"capacity_factor": wanted}, watches),)


class DepthDrift:
    """A share of tokens that is not the configured one."""

    def find(self, view: View) -> Sequence[Finding]:
        """The median deviation of the window."""
        used = view.signals.window("mod.capacity_utilization")
        if not view.signals.full or not view.facts.mod_layers:
            return ()
        off = abs(median(used) - 1)
        if not off > MOST_DRIFT:
            return ()
        summary = f"Layers with Mixture of Depths take {median(used):.0%} of the tokens that their capacity asks for."
        found = evidence(view, summary, MOST_DRIFT, {"utilization": median(used)})
        return (Finding(DRIFT, beyond(off, MOST_DRIFT), "warning", found),)
