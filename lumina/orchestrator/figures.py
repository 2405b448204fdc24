"""The figures that a check is made on, by name: loss, gradients, experts, depth, memory, throughput, convergence.
They describe a run; what is good or bad about them is the detectors' business."""

from __future__ import annotations

import math

import numpy as np

from lumina.orchestrator.detectors.view import View
from lumina.orchestrator.signals import Floats, entropy_name, median, noise, spread

MEANINGS: dict[str, str] = {
    "loss_level": "median loss of the window",
    "loss_trend": "change of the loss per 100 steps, between the medians of the first and the last third of the window",
    "loss_noise": "robust deviation of the loss without its trend",
    "loss_variance": "square of the robust deviation of the loss within the window",
    "loss_rise": "newest four losses over the usual level, in multiples of the noise",
    "validation_gap": "newest validation loss less the training loss about then",
    "validation_trend": "newest validation loss over the best one, less 1",
    "grad_level": "median gradient norm of the window",
    "grad_variance": "square of the robust deviation of the gradient norm",
    "grad_peak": "largest gradient norm of the window over its median",
    "grad_stability": "1 / (1 + robust deviation / median) of the gradient norm",
    "learning_rate": "newest learning rate",
    "non_finite": "steps without an update since the last check",
    "routing_entropy": "lowest median routing entropy of a layer (1 is even use)",
    "expert_max_share": "largest median share of an expert, in multiples of the fair share",
    "expert_min_share": "smallest mean share of a live expert since the last check, in multiples of the fair share",
    "load_balance_loss": "median balance loss",
    "tokens_dropped": "median share of the assignments that found no room",
    "capacity_used": "median share of the experts' capacity that is filled",
    "expert_efficiency": "median share of assignments computed, times the evenness of the load",
    "depth": "median share of the layers that a token goes through",
    "depth_utilization": "median share of tokens taken over the share asked for",
    "depth_savings": "median share of the operations that depth saves",
    "predictor_agreement": "median share of tokens that the causal predictor judges as training does",
    "memory_free": "newest free memory as a share of the device's",
    "throughput": "median tokens per second",
    "throughput_ratio": "median seconds of a step over the best median of a check before",
    "data_wait": "median share of a step spent waiting for data",
}


def figures_of(view: View) -> dict[str, float | None]:
    """Every figure of `MEANINGS`; None where it does not exist or cannot be told yet."""
    found = {**_loss(view), **_gradients(view), **_experts(view), **_depth(view), **_machine(view)}
    return {name: value if math.isfinite(value := found.get(name, math.nan)) else None for name in MEANINGS}


def _loss(view: View) -> dict[str, float]:
    signals = view.signals
    losses = signals.window("loss")
    third = max(len(losses) // 3, 1)
    usual, seen = signals.reference, signals.validations
    found = {
        "loss_level": median(losses),
        "loss_trend": (median(losses[-third:]) - median(losses[:third])) / (2 * third) * 100,
        "loss_noise": noise(losses),
        "loss_variance": spread(losses) ** 2,
        "learning_rate": float(signals.last("learning_rate", 1)[-1]) if len(losses) else math.nan,
        "non_finite": float(signals.since_check["non_finite"]),
    }
    if usual is not None and usual.loss_noise > 0:
        found["loss_rise"] = (median(signals.last("loss", 4)) - usual.loss) / usual.loss_noise
    if seen:
        found["validation_gap"] = seen[-1][1] - seen[-1][2]
        found["validation_trend"] = seen[-1][1] / min(loss for _, loss, _ in seen) - 1
    return found


def _gradients(view: View) -> dict[str, float]:
    norms = view.signals.window("grad_norm")
    level, stray = median(norms), spread(norms)
    peak = float(np.nanmax(norms)) if np.isfinite(norms).any() else math.nan
    return {
        "grad_level": level,
        "grad_variance": stray**2,
        "grad_peak": peak / level if level > 0 else math.nan,
        "grad_stability": 1 / (1 + stray / level) if level > 0 else math.nan,
    }


def _experts(view: View) -> dict[str, float]:
    signals, facts = view.signals, view.facts
    if not signals.layers:
        return {}
    live = [signals.live_experts(layer, facts.num_experts) for layer in signals.layers]
    dropped, factor = median(signals.window("moe.drop_fraction")), view.hparams.get("capacity_factor")
    return {
        "routing_entropy": min(median(signals.window(entropy_name(layer))) for layer in signals.layers),
        "expert_max_share": max(
            n * median(signals.max_share(layer)) for n, layer in zip(live, signals.layers, strict=True)
        ),
        "expert_min_share": min(_least(view, layer) for layer in signals.layers),
        "load_balance_loss": median(signals.window("moe.load_balance_loss")),
        "tokens_dropped": dropped,
        "capacity_used": (1 - dropped) / factor if factor else math.nan,
        "expert_efficiency": median(signals.window("moe.expert_efficiency")),
    }


def _least(view: View, layer: int) -> float:
    load, alive = view.signals.mean_load(layer), view.signals.alive_experts(layer)
    if load is None or alive is None:
        return math.nan
    live: Floats = load[np.flatnonzero(alive)]
    return float(live.min() / live.sum() * len(live)) if live.sum() > 0 else math.nan


def _depth(view: View) -> dict[str, float]:
    signals, layers = view.signals, view.facts.num_layers
    if not view.facts.mod_layers or not layers:
        return {}
    return {
        "depth": median(signals.window("mod.average_depth")) / layers,
        "depth_utilization": median(signals.window("mod.capacity_utilization")),
        "depth_savings": median(signals.window("mod.compute_savings")),
        "predictor_agreement": median(signals.window("mod.predictor_agreement")),
    }


def _machine(view: View) -> dict[str, float]:
    clock, total = view.signals.clock, view.facts.memory_bytes
    seconds, usual = median(clock.window("step_seconds")), clock.medians("step_seconds")
    free = clock.window("memory_available")
    found = {
        "throughput": median(clock.window("throughput")),
        "data_wait": median(clock.window("data.wait_seconds")) / seconds if seconds > 0 else math.nan,
    }
    if len(usual) and np.isfinite(usual).any():
        found["throughput_ratio"] = seconds / float(np.nanmin(usual))
    if total > 0 and len(free):
        found["memory_free"] = float(free[-1]) / total
    return found
