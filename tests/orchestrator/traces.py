"""Made-up runs, step by step, as the trainer would show them to the orchestrator."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lumina.accounting import count_parameters, token_budget
from lumina.config import load_config
from lumina.orchestrator import Orchestrator, RunFacts

EXPERTS, LAYERS, TOP_K, TOKENS = 8, 2, 2, 2048
HPARAMS = {"routing_temperature": 1.0, "learning_rate": 1e-3}
Step = tuple[int, dict[str, float], dict[str, np.ndarray]]


def make(total_steps: int = 300, **settings: Any) -> Orchestrator:
    config = load_config("debug", settings)
    facts = RunFacts(
        moe_layers=tuple(range(LAYERS)),
        mod_layers=(0, 1),
        num_experts=EXPERTS,
        top_k=TOP_K,
        params_total=1_000_000,
        params_active=500_000,
        flops_per_token=6e6,
        tokens_optimal=token_budget(config, count_parameters(config)),
        total_steps=total_steps,
    )
    return Orchestrator(config, facts)


def trace(seed: int, steps: int, *, entropy: Any, share: float = 0.2, start: int = 1) -> Iterator[Step]:
    """A falling loss, and routing whose entropy is `entropy(step)` in layer 0 and healthy in the others."""
    rng = np.random.default_rng(seed)
    for step in range(start, start + steps):
        loss = 3.0 + 5.0 * math.exp(-step / 60) + rng.normal(0, 0.05)
        series = {"loss": loss, "grad_norm": 1.0 + abs(rng.normal(0, 0.2)), "tokens": float(step * TOKENS)}
        series["moe.drop_fraction"] = 0.05 + 0.01 * rng.random()
        for layer in range(LAYERS):
            level = entropy(step) if layer == 0 else 0.93
            series[f"moe.routing_entropy.layer{layer}"] = float(np.clip(level + rng.normal(0, 0.02), 0, 1))
        load = np.full((LAYERS, EXPERTS), (1 - share) / (EXPERTS - 1), np.float32)
        load[:, 3] = share
        live = np.ones((LAYERS, EXPERTS), np.float32)
        yield step, series, {"expert_load": load, "expert_live": live}


def healthy(seed: int, steps: int = 300) -> Iterator[Step]:
    """Even at first, then as specialised as a seed decides, with dips of a few steps far below the threshold."""
    rng = np.random.default_rng(1000 + seed)
    final, speed = rng.uniform(0.7, 0.95), rng.uniform(10, 200)
    dips = {int(start) + i for start in rng.integers(1, steps, 8) for i in range(3)}

    def entropy(step: int) -> float:
        return 0.3 if step in dips else final + (0.99 - final) * math.exp(-step / speed)

    return trace(seed, steps, entropy=entropy, share=0.3)


def collapsed(seed: int, steps: int = 300, *, entropy: float = 0.25, start: int = 1) -> Iterator[Step]:
    return trace(seed, steps, entropy=lambda _: entropy, share=0.48, start=start)


def feed(orchestrator: Orchestrator, steps: Iterator[Step]) -> None:
    for step in steps:
        orchestrator.observe(*step)


def run(orchestrator: Orchestrator, steps: Iterator[Step], hparams: dict[str, float] | None = None) -> list[Any]:
    """Shows the steps, checks every 20 as the trainer does, answers nothing; all results that say anything."""
    results, held = [], []
    for step in steps:
        orchestrator.observe(*step)
        if step[0] % 20 == 0:
            result = orchestrator.check(step[0], hparams or HPARAMS, held)
            gone = {*result.expired, *(id for id, _ in result.withdrawn)}
            held = [doc for doc in held if doc["id"] not in gone] + [p.to_json() for p in result.proposals]
            results.append(result)
    return results


def through_json(orchestrator: Orchestrator, **settings: Any) -> Orchestrator:
    """Another orchestrator with the state that this one would leave in a checkpoint."""
    again = make(**settings)
    again.restore(json.loads(json.dumps(orchestrator.state(), allow_nan=False)))
    return again
