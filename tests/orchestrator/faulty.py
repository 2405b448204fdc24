"""Made-up runs of varied shape, with or without something going wrong, and what an orchestrator says of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from traces import EXPERTS, HPARAMS, LAYERS, TOKENS, Step, make

from lumina.orchestrator import Finding, Orchestrator, Proposal

PEAK, WARMUP, PER_STEP = 1e-3, 20, 8
Fault = Callable[[int, dict[str, float], dict[str, np.ndarray]], None]
Curve = Callable[[int], float]

CURVES: dict[str, Curve] = {
    "exponential": lambda step: 3.0 + 5.0 * math.exp(-step / 60),
    "power law": lambda step: 1.8 + 7.0 * step**-0.4,
    "slow": lambda step: 6.0 - 0.002 * min(step, 1500),
    "late drop": lambda step: 5.0 + 2.0 * math.exp(-step / 30) - 1.5 / (1 + math.exp(-(step - 200) / 15)),
    "waves": lambda step: 3.0 + 4.0 * math.exp(-step / 80) + 0.03 * math.sin(step / 25),
    "at rest": lambda step: 2.5 + 3.0 * math.exp(-step / 15),
}


def scheduled(step: int) -> float:
    """Warm-up, a slow fall, and a second warm-up as between two phases of the data."""
    since = step if step < 600 else step - 600
    return PEAK * min((since + 1) / WARMUP, 1.0) * (0.55 + 0.45 * math.cos(step / 700))


def course(seed: int, steps: int, curve: str = "exponential", noise: float = 0.05, tails: float = 0.0,
           fault: Fault | None = None, start: int = 1) -> Iterator[Step]:  # fmt: skip
    """Steps of a run. `tails` is the chance of a step whose noise and gradient are several times as large."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(EXPERTS, 30.0), LAYERS).astype(np.float32)
    for step in range(start, start + steps):
        wild = 4.0 if rng.random() < tails else 1.0
        loss = CURVES[curve](step) + wild * rng.normal(0, noise)
        series = {
            "loss": loss,
            "grad_norm": wild * float(np.exp(rng.normal(0, 0.25))),
            "tokens": float(step * TOKENS),
            "learning_rate": scheduled(step),
            "learning_rate.scheduled": scheduled(step),
            "lr_scale": 1.0,
            "data.position": float((step - 1) * PER_STEP),
            "moe.drop_fraction": 0.04 + 0.01 * rng.random(),
            "moe.load_balance_loss": 1.02,
            "mod.average_depth": 1.0,
            "mod.capacity_utilization": 1.0,
            "mod.capacity_factor": 0.5,
            "step_seconds": 0.1 * (1 + 0.05 * rng.random()),
            "data.wait_seconds": 0.001,
            "memory_available": 8e9,
        }
        series |= {f"moe.routing_entropy.layer{i}": float(np.clip(rng.normal(0.95, 0.01), 0, 1)) for i in range(LAYERS)}
        load = shares + rng.normal(0, 0.004, shares.shape).astype(np.float32)
        arrays = {"expert_load": load / load.sum(1, keepdims=True), "expert_live": np.ones_like(load)}
        if step % 20 == 0:
            series["val_loss"] = CURVES[curve](step) + 0.1
        if fault is not None:
            fault(step, series, arrays)
        yield step, series, arrays


@dataclass
class Said:
    """What was said: (step, finding) of every check, and every proposal, emergencies included."""

    findings: list[tuple[int, Finding]] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list)

    def causes(self, sure: float = 0.5) -> set[str]:
        return {f.cause for _, f in self.findings if f.confidence >= sure} | {p.cause for p in self.proposals}

    def first(self, cause: str) -> int | None:
        """The step at which a cause was first named, with a confidence that shows in the health."""
        steps = [step for step, f in self.findings if f.cause == cause and f.confidence >= 0.5]
        return min(steps + [p.step for p in self.proposals if p.cause == cause], default=None)


def watch(orchestrator: Orchestrator, steps: Iterator[Step], hparams: dict[str, float] | None = None) -> Said:
    """Shows the steps as the trainer does: emergencies at any step, a check every twenty; nothing is answered."""
    said, held, live = Said(), [], {**HPARAMS, **LIVE, **(hparams or {})}
    for step in steps:
        orchestrator.observe(*step)
        if orchestrator.urgent():
            said.proposals += orchestrator.emergencies(step[0], live)
        if step[0] % 20 == 0:
            result = orchestrator.check(step[0], live, held)
            gone = {*result.expired, *(id for id, _ in result.withdrawn)}
            held = [doc for doc in held if doc["id"] not in gone] + [p.to_json() for p in result.proposals]
            said.findings += [(step[0], finding) for finding in result.findings]
            said.proposals += result.proposals
    return said


LIVE: dict[str, Any] = {
    "capacity_factor": 1.25,
    "load_balancing_weight": 0.01,
    "mod_capacity_factor": 0.5,
    "batch_size": 8.0,
    "gradient_accumulation_steps": 1.0,
    "lr_scale": 1.0,
}


def watched(fault: Fault | None = None, *, seed: int = 0, steps: int = 300, hparams: dict[str, float] | None = None,
            **shape: Any) -> Said:  # fmt: skip
    return watch(make(total_steps=2 * steps), course(seed, steps, fault=fault, **shape), hparams)
