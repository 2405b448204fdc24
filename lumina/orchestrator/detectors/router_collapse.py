"""Finds routers that send nearly everything to a few experts, and proposes a temperature that spreads tokens again.
Reads routing entropies and expert loads; it must not know how a router computes them.

Measure: the entropy of a layer's mean router probability, divided by log(live experts): 1 is even use, and h means as
much as experts^h experts in even use. A layer has collapsed when the median over the window is below 0.5 (fewer than
the square root of its experts in use), or below 0.65 where one expert is picked by nine tokens in ten. Routers that
specialise stay far above: each token's probabilities are sharp then, but their mean over a batch is not. A router that
collapses from one step to the next was broken by something, and going back is tried first (confidence 1 - 1 / steps).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lumina.orchestrator.detectors.view import View, evidence
from lumina.orchestrator.signals import Floats, Signals, entropy_name, median, spread
from lumina.orchestrator.types import Finding, RunFacts

CAUSE = "router_collapse"
THRESHOLD = 0.5
THRESHOLD_DOMINATED = 0.65
DOMINATED = 0.9  # share of tokens that pick the busiest expert
CLEAR_MARGIN = 0.1  # above the threshold by this much, the collapse is over
TARGET = 0.8  # entropy that a proposed temperature aims at
HIGHEST_TEMPERATURE = 5.0  # what adjust_routing_temperature takes at most
SUDDEN_STEPS = 8  # newest steps below the threshold, right after steps that were well above it
CONFIDENCE_SCALE = 0.05  # entropy below the threshold that makes for a confidence of 0.82


@dataclass(frozen=True)
class Collapse:
    """One collapsed layer. `busiest` and `share` are of the mean load since the last check (None if not measured)."""

    layer: int
    entropy: float
    threshold: float
    confidence: float
    experts: int
    busiest: int | None
    share: float | None

    @property
    def in_use(self) -> float:
        """Experts in even use that would have the same entropy."""
        return float(self.experts**self.entropy)


class RouterCollapse:
    """One finding for all collapsed layers, because the temperature is one value for all routers."""

    def find(self, view: View) -> Sequence[Finding]:
        """A higher temperature, where the median entropy of a full window is below the threshold; else nothing."""
        signals, facts, hparams = view.signals, view.facts, view.hparams
        if not signals.full or not signals.layers:
            return ()
        sudden = _sudden(view)
        if sudden is not None:
            return (sudden,)
        seen = [_look(signals, facts, layer) for layer in signals.layers]
        collapsed = [collapse for collapse in seen if collapse is not None]
        if not collapsed:
            return ()
        worst = min(collapsed, key=lambda collapse: (collapse.entropy, collapse.layer))
        surest = max(collapse.confidence for collapse in collapsed)
        now = hparams.get("routing_temperature")
        wanted = None if now is None else temperature_for(worst.entropy, worst.experts, now)
        evidence = _evidence(signals, collapsed, worst, facts.top_k, now, wanted)
        watches = ("routing_temperature",)
        if wanted is None:
            return (Finding(CAUSE, surest, "warning", evidence, watches=watches),)
        args = {"temperature": wanted}
        return (Finding(CAUSE, surest, "warning", evidence, "adjust_routing_temperature", args, watches),)


def _sudden(view: View) -> Finding | None:
    """Going back, once, where a layer collapsed from one step to the next within the window."""
    if view.attempts.get(CAUSE, 0):
        return None
    for layer in view.signals.layers:
        long = fallen(view.signals.window(entropy_name(layer)), THRESHOLD, THRESHOLD + 2 * CLEAR_MARGIN)
        if long:
            began = view.step - long + 1
            summary = f"Routing in layer {layer} collapsed at step {began}, from one step to the next."
            found = evidence(view, summary, THRESHOLD, {"layer": layer, "since_step": began})
            return Finding(CAUSE, 1 - 1 / long, "critical", found, "rollback_steps", {"num_steps": long})
    return None


def fallen(values: Floats, below: float, above: float) -> int:
    """How many of the newest values are `below`, if they are at least eight and the five before were `above`, or 0."""
    low = np.where(np.isfinite(values), values, above) < below
    long = len(low) if low.all() else int(np.argmin(low[::-1]))
    before = values[max(len(values) - long - 5, 0) : len(values) - long]
    return long if long >= SUDDEN_STEPS and len(before) == 5 and median(before) >= above else 0


def _look(signals: Signals, facts: RunFacts, layer: int) -> Collapse | None:
    entropies = signals.window(entropy_name(layer))
    experts = signals.live_experts(layer, facts.num_experts)
    if experts < 2 or np.isfinite(entropies).sum() < len(entropies) // 2:
        return None
    share_of_tokens = facts.top_k * median(signals.max_share(layer))
    threshold = THRESHOLD_DOMINATED if share_of_tokens >= DOMINATED and experts > 2 * facts.top_k else THRESHOLD
    middle = median(entropies)
    if middle >= threshold + CLEAR_MARGIN:
        return None
    load = signals.mean_load(layer)
    busiest = None if load is None else int(load.argmax())
    share = None if load is None else float(load.max())
    return Collapse(layer, middle, threshold, confidence(entropies, threshold), experts, busiest, share)


def confidence(entropies: Floats, threshold: float) -> float:
    """How sure it is that a layer has collapsed and will not recover by itself, 0 to 1.

    share of the window below the threshold x (1 - exp(-margin / (0.05 + noise)) / 2), where margin = threshold -
    median and noise = the window's robust deviation; halved when the entropy rises so fast that it would cross the
    threshold within another window.
    """
    kept = entropies[np.isfinite(entropies)]
    below = float((kept < threshold).mean())
    margin = threshold - median(kept)
    if margin <= 0:
        return 0.5 * below
    sure = below * (1 - 0.5 * math.exp(-margin / (CONFIDENCE_SCALE + spread(kept))))
    third = max(len(kept) // 3, 1)
    early, late = median(kept[:third]), median(kept[-third:])
    recovering = late > early and late + 1.5 * (late - early) >= threshold
    return sure / 2 if recovering else sure


def lead_for(entropy: float, experts: int) -> float:
    """The logit lead of one expert over all the others at which their softmax has this normalised entropy.

    The entropy falls from 1 to 0 as the lead grows, so bisection finds it. 50 stands for anything beyond.
    """
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        if led_entropy(middle, experts) > entropy:
            low = middle
        else:
            high = middle
    return high


def led_entropy(lead: float, experts: int) -> float:
    """Entropy / log(experts) of softmax([lead, 0, 0, ...])."""
    rest = math.exp(-lead)
    total = 1 + (experts - 1) * rest
    return (math.log(total) + (experts - 1) * rest * lead / total) / math.log(experts)


def temperature_for(entropy: float, experts: int, temperature: float) -> float | None:
    """The temperature that would bring the routing entropy back to 0.8; None when it cannot go higher.

    Reads the measured entropy as that of one expert leading by l(h) at the present temperature T. Dividing logits by
    T' makes that lead l(h) * T / T', hence T' = T * l(h) / l(0.8); rounded up to a tenth, at most 5.0.
    """
    wanted = temperature * lead_for(entropy, experts) / lead_for(TARGET, experts)
    wanted = min(math.ceil(wanted * 10 - 1e-9) / 10, HIGHEST_TEMPERATURE)
    return wanted if wanted > temperature else None


def _evidence(signals: Signals, collapsed: Sequence[Collapse], worst: Collapse, top_k: int, now: float | None,
              wanted: float | None) -> dict[str, object]:  # fmt: skip
    steps = signals.steps()
    layers = [
        {
            "layer": c.layer,
            "entropy": round(c.entropy, 4),
            "experts_in_use": round(c.in_use, 2),
            "experts": c.experts,
            "busiest_expert": c.busiest,
            "busiest_share": None if c.share is None else round(c.share, 4),
        }
        for c in collapsed
    ]
    numbers: dict[str, object] = {"entropy": round(worst.entropy, 4), "layers": layers, "temperature": now}
    if now is not None and wanted is not None:
        lead = lead_for(worst.entropy, worst.experts) * now / wanted
        numbers["expected_entropy"] = round(led_entropy(lead, worst.experts), 2)
    return {
        "summary": _summary(collapsed, worst, top_k, steps, now, wanted, numbers.get("expected_entropy")),
        "numbers": numbers,
        "window": {"first_step": steps[0], "last_step": steps[-1]},
        "threshold": worst.threshold,
    }


def _summary(collapsed: Sequence[Collapse], worst: Collapse, top_k: int, steps: Sequence[int], now: float | None,
             wanted: float | None, expected: object) -> str:  # fmt: skip
    text = (
        f"Routing in layer {worst.layer} has collapsed: median entropy {worst.entropy:.2f} in steps {steps[0]} to "
        f"{steps[-1]} (threshold {worst.threshold:.2f}; 1 is even use), as if {worst.in_use:.1f} of {worst.experts} "
        "experts were in use."
    )
    if worst.share is not None and worst.busiest is not None:
        text += (
            f" Expert {worst.busiest} got {worst.share:.0%} of the assignments (even share {1 / worst.experts:.0%}, "
            f"at most {1 / top_k:.0%})."
        )
    others = [str(c.layer) for c in collapsed if c.layer != worst.layer]
    if others:
        text += f" Also collapsed: layer{'s' if len(others) > 1 else ''} {', '.join(others)}."
    if wanted is not None:
        return text + f" A temperature of {wanted:.1f} instead of {now:g} should raise it to about {expected:.2f}."
    if now is not None:
        return text + f" The temperature is {now:g} already, as high as it goes."
    return text
