"""Finds experts that get too much, too little, or more than they have room for. Reads mean loads and drops; what routes
tokens is not its business.

Shares are of a layer's assignments, averaged since the last check; the fair share is 1 / live experts.
imbalance  the busiest expert is more than 60 % of the way from the fair share to the largest possible one (1 / top-k);
           confidence from 0.5 there to 1 when every token picks it
dead       an expert gets less than 0.15 of its fair share; confidence 1 - share / (0.15 x fair) / 2. When it died at
           once, within the window and for at least eight steps now, going back is tried first; else it is replaced once
           it was dead at the check before, too: routers that still settle leave out an expert for a while
overload   the experts of a layer fill more than 0.85 of their capacity; confidence 1 - 0.85 / filled / 2
drops      more than 15 % of the assignments find no room; confidence 1 - 15 % / share / 2; while a router has
           collapsed, that comes first
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumina.orchestrator.detectors.router_collapse import THRESHOLD_DOMINATED, fallen
from lumina.orchestrator.detectors.view import View, beyond, evidence
from lumina.orchestrator.signals import Floats, entropy_name, median
from lumina.orchestrator.types import Act, Finding

IMBALANCE, DEAD, OVERLOAD, DROPS = "expert_imbalance", "dead_expert", "expert_overload", "tokens_dropped"
EXCESS, DEAD_SHARE, FULL, DROPPED = 0.6, 0.15, 0.85, 0.15
HIGHEST_BALANCE, HIGHEST_CAPACITY, ROOM = 0.1, 8.0, 1.1
FEWEST_STEPS = 10
USUAL = 1.1  # times its fair share: what an expert had before it died all at once


@dataclass(frozen=True)
class Layer:
    """Mean shares of the live experts of a layer, and their indices."""

    index: int
    share: Floats
    experts: NDArray[np.intp]

    @property
    def fair(self) -> float:
        return 1.0 / len(self.share)


def layers(view: View) -> list[Layer]:
    """Every layer with experts of which enough steps were seen since the last check."""
    signals = view.signals
    if not signals.full or signals.since_check["steps"] < FEWEST_STEPS:
        return []
    found = []
    for index in signals.layers:
        load, alive = signals.mean_load(index), signals.alive_experts(index)
        if load is not None and alive is not None:
            live = np.flatnonzero(alive)
            if len(live) > view.facts.top_k and load[live].sum() > 0:
                found.append(Layer(index, load[live] / load[live].sum(), live))
    return found


class ExpertImbalance:
    """The layer whose busiest expert is the furthest above its fair share: a stronger balance loss."""

    def find(self, view: View) -> Sequence[Finding]:
        """One finding for all layers, since the weight is one value for all."""
        seen = [(_excess(layer, view.facts.top_k), layer) for layer in layers(view)]
        seen = [pair for pair in seen if pair[0] > EXCESS]
        if not seen or any(_collapsed(view, layer) for layer in view.signals.layers):
            return ()
        excess, layer = max(seen, key=lambda pair: (pair[0], -pair[1].index))
        busiest, share = int(layer.experts[layer.share.argmax()]), float(layer.share.max())
        now = view.hparams.get("load_balancing_weight")
        summary = (
            f"Expert {busiest} of layer {layer.index} gets {share:.0%} of the assignments (fair: {layer.fair:.0%}, at "
            f"most {1 / view.facts.top_k:.0%})."
        )
        numbers = {"layer": layer.index, "expert": busiest, "share": share, "fair": layer.fair, "excess": excess}
        found = evidence(view, summary, EXCESS, {**numbers, "load_balancing_weight": now})
        sure = 0.5 + 0.5 * (excess - EXCESS) / (1 - EXCESS)
        if now is None or now >= HIGHEST_BALANCE:
            return (Finding(IMBALANCE, sure, "warning", found, watches=("load_balancing_weight",)),)
        args = {"weight": round(min(max(3 * now, 0.02), HIGHEST_BALANCE), 6)}
        watches = ("load_balancing_weight",)
        return (Finding(IMBALANCE, sure, "warning", found, "adjust_load_balancing_weight", args, watches),)


def _collapsed(view: View, layer: int) -> bool:
    """A collapse is more than an imbalance, and has a detector of its own."""
    return median(view.signals.window(entropy_name(layer))) < THRESHOLD_DOMINATED


def _excess(layer: Layer, top_k: int) -> float:
    return float((layer.share.max() - layer.fair) / (1 / top_k - layer.fair))


class DeadExpert:
    """The expert that gets the least: back to before it died, or replaced by a copy of the busiest one."""

    def find(self, view: View) -> Sequence[Finding]:
        """One expert at a time, the deadest first; a router that has collapsed is another matter."""
        sudden = self._sudden(view)
        if sudden is not None:
            return (sudden,)
        found = [layer for layer in layers(view) if layer.share.min() < DEAD_SHARE * layer.fair]
        dead = [(float(layer.share.min() / layer.fair), layer) for layer in found if self._few(layer)]
        if not dead:
            return ()
        ratio, layer = min(dead, key=lambda pair: (pair[0], pair[1].index))
        expert = int(layer.experts[layer.share.argmin()])
        sure = 1 - ratio / DEAD_SHARE / 2
        summary = f"Expert {expert} of layer {layer.index} gets {ratio:.1%} of its fair share of {layer.fair:.1%}."
        numbers = {"layer": layer.index, "expert": expert, "of_fair_share": ratio}
        seen = evidence(view, summary, DEAD_SHARE, numbers)
        if not _was_dead(view, layer, expert):
            return (Finding(DEAD, sure, "warning", seen),)
        args = {"layer_idx": layer.index, "expert_idx": expert}
        then = (Act("add_expert", {"layer_idx": layer.index}),)
        return (Finding(DEAD, sure, "warning", seen, "prune_expert", args, then=then),)

    def _sudden(self, view: View) -> Finding | None:
        """Going back, once, where an expert was dead from one step to the next."""
        if view.attempts.get(DEAD, 0) or not view.signals.full:
            return None
        for layer in view.signals.layers:
            long = fallen(view.signals.least_share(layer), DEAD_SHARE, 2 * DEAD_SHARE)
            if long and _one_of_them(view, layer, long) and not _collapsed(view, layer):
                began = view.step - long + 1
                summary = f"An expert of layer {layer} gets next to nothing since step {began}, all at once."
                found = evidence(view, summary, DEAD_SHARE, {"layer": layer, "since_step": began})
                sure, back = 1 - 1 / long, {"num_steps": long}
                return Finding(DEAD, sure, "warning", found, "rollback_steps", back)
        return None

    def _few(self, layer: Layer) -> bool:
        """A quarter of the experts at most: more is a collapse."""
        return int((layer.share < DEAD_SHARE * layer.fair).sum()) <= max(1, len(layer.share) // 4)


def _was_dead(view: View, layer: Layer, expert: int) -> bool:
    """Whether the expert was dead between the two checks before, too."""
    before = view.signals.mean_load_before(layer.index)
    if before is None or expert >= len(before):
        return False
    return float(before[expert]) < DEAD_SHARE * float(before.sum()) * layer.fair


def _one_of_them(view: View, index: int, long: int) -> bool:
    """Whether one expert has been missing in the newest `long` steps; with few tokens a step it may be another in each.

    Its mean share since the last check is then that of the steps before alone.
    """
    steps = max(view.signals.since_check["steps"], 1)
    for layer in layers(view):
        if layer.index == index:
            before = max(steps - long, 0) / steps
            return float(layer.share.min() / layer.fair) < before * USUAL + (1 - before) * DEAD_SHARE
    return False


class ExpertOverload:
    """A layer whose experts are nearly full all the time: one more expert."""

    def find(self, view: View) -> Sequence[Finding]:
        """The fullest layer."""
        factor = view.hparams.get("capacity_factor")
        if factor is None:
            return ()
        seen = [(float(np.minimum(layer.share / layer.fair / factor, 1).mean()), layer) for layer in layers(view)]
        seen = [pair for pair in seen if pair[0] > FULL]
        dropped = median(view.signals.window("moe.drop_fraction"))
        if not seen or dropped > DROPPED:
            return ()
        filled, layer = max(seen, key=lambda pair: (pair[0], -pair[1].index))
        summary = f"The experts of layer {layer.index} fill {filled:.0%} of their capacity on average."
        numbers = {"layer": layer.index, "filled": filled, "capacity_factor": factor, "dropped": dropped}
        found = evidence(view, summary, FULL, numbers)
        args = {"layer_idx": layer.index}
        sure = beyond(filled, FULL)
        return (Finding(OVERLOAD, sure, "info", found, "add_expert", args, ("capacity_factor",)),)


class TokenDrop:
    """Assignments that find no room: the capacity that this load would need."""

    def find(self, view: View) -> Sequence[Finding]:
        """One finding for all layers, since the factor is one value for all."""
        signals, factor = view.signals, view.hparams.get("capacity_factor")
        dropped = signals.last("moe.drop_fraction", FEWEST_STEPS)
        share = median(dropped)
        if factor is None or len(dropped) < FEWEST_STEPS or not share > DROPPED / 2:
            return ()
        wanted = min(max((_needed(layer) for layer in layers(view)), default=2 * factor) * ROOM, HIGHEST_CAPACITY)
        wanted = round(float(max(wanted, factor)), 2)
        summary = f"{share:.0%} of the expert assignments found no room at a capacity factor of {factor:g}."
        found = evidence(view, summary, DROPPED, {"dropped": share, "capacity_factor": factor, "needed": wanted})
        watches = ("capacity_factor",)
        severity = "critical" if share > 0.5 else "warning"
        spread_first = any(_collapsed(view, layer) for layer in signals.layers)  # room for a collapse would cement it
        if share <= DROPPED or wanted <= 1.05 * factor or spread_first:
            return (Finding(DROPS, beyond(share, DROPPED), severity, found, watches=watches),)
        args = {"factor": wanted}
        return (Finding(DROPS, beyond(share, DROPPED), severity, found, "adjust_capacity_factor", args, watches),)


def _needed(layer: Layer) -> float:
    """The factor at which this mean load would fit in, but for 1 % of it."""
    over = np.sort(layer.share)[::-1]
    for room in np.arange(1.0, HIGHEST_CAPACITY + 0.05, 0.05):
        if np.maximum(over - room * layer.fair, 0).sum() <= 0.01:
            return float(room)
    return HIGHEST_CAPACITY
