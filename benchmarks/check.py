"""What watching costs: the orchestrator's check and its look at every step, within a real run of the `debug` preset.

`python benchmarks/check.py` trains 400 steps (a minute), a check every 20, and prints medians and tails.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import lumina
from lumina._cli.output import say

STEPS, INTERVAL = 400, 20


def timed(call: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def measured(*args: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*args, **named)
        finally:
            seconds.append(time.perf_counter() - started)

    return measured


def main() -> None:
    checks: list[float] = []
    looks: list[float] = []
    steps: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        lumina.Trainer("debug", name="check", steps=STEPS, directory=folder, check_interval=INTERVAL) as trainer,
    ):
        session = trainer.session
        session.orchestrator.check = timed(session.orchestrator.check, checks)  # type: ignore[method-assign]
        session.orchestrator.observe = timed(session.orchestrator.observe, looks)  # type: ignore[method-assign]
        session.engine.train_step = timed(session.engine.train_step, steps)  # type: ignore[method-assign]
        trainer.train()
    for name, seconds in (("check", checks), ("look at a step", looks), ("training step", steps)):
        median, slow = np.median(seconds) * 1e3, np.quantile(seconds, 0.95) * 1e3
        say(f"{name:<15} {len(seconds):>4} times  median {median:7.3f} ms  95 % below {slow:7.3f} ms")


if __name__ == "__main__":
    main()
