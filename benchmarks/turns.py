"""Processes that take turns, so that what else the machine does falls on all of them alike.
It starts, asks and ends them; it knows nothing of what they compute.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lumina.launch import trainer_environment

Samples = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Subject:
    """One process: its label in the table, what it runs (see `subjects.py`), and whether freed memory is kept,
    which is how Lumina starts its own trainer."""

    label: str
    spec: Mapping[str, Any]
    keeps_memory: bool = True


class Worker:
    """A running subject."""

    def __init__(self, subject: Subject) -> None:
        base = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        environment = trainer_environment(
            base
        )  # its thread settings, too: who waits must not spin on the others' cores
        if not subject.keeps_memory:
            environment.pop("GLIBC_TUNABLES", None)
        command = [sys.executable, str(Path(__file__).with_name("subjects.py")), json.dumps(dict(subject.spec))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment,
        )  # fmt: skip
        self._label = subject.label
        self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # the worker ends by itself and removes its files
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def step(self) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._label} ended with status {self._process.wait()}")
        answer: dict[str, float] = json.loads(line)
        return answer


def take_turns(subjects: Sequence[Subject], rounds: int, warmup: int) -> Samples:
    """`rounds` steps of each subject, one after the other, in an order that turns with every round."""
    workers: dict[str, Worker] = {}
    try:
        for subject in subjects:
            workers[subject.label] = Worker(subject)
        samples: Samples = {label: [] for label in workers}
        for number in range(warmup + rounds):
            labels = list(workers)
            turn = number % len(labels)
            for label in labels[turn:] + labels[:turn]:
                result = workers[label].step()
                if number >= warmup:
                    samples[label].append(result)
        return samples
    finally:
        for worker in workers.values():
            worker.__exit__(None, None, None)


def seconds(samples: Samples, label: str) -> float:
    """Median of a step."""
    return statistics.median(sample["seconds"] for sample in samples[label])


def ratio(samples: Samples, label: str, base: str, clock: str = "seconds") -> float:
    """Median over rounds of `label`'s time over `base`'s in the same round."""
    return statistics.median(_ratios(samples, label, base, clock))


def spread(samples: Samples, label: str, base: str) -> tuple[float, float]:
    """The quarters around that median."""
    quarters = statistics.quantiles(_ratios(samples, label, base, "seconds"), n=4)
    return quarters[0], quarters[2]


def _ratios(samples: Samples, label: str, base: str, clock: str) -> list[float]:
    pairs = zip(samples[label], samples[base], strict=True)
    return [mine[clock] / theirs[clock] for mine, theirs in pairs]
