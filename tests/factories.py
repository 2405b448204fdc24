"""Run folders as a trainer leaves them, made through the store's own writing side and without training anything.

They stand for a trainer in tests of what reads and commands a run; nothing here knows a view or a command line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lumina.config import load_config
from lumina.launch import create_run
from lumina.store.journal import Entry, Journal
from lumina.store.layout import RunPaths, new_id
from lumina.store.lock import RunLock
from lumina.store.writer import StoreWriter

PERSON = {"name": "ada", "via": "cli"}
UNITS = {"loss": "nats", "val_loss": "nats", "throughput": "tokens/s", "tokens": "tokens", "step_seconds": "s"}


def new_run(directory: Path, name: str = "first", **overrides: Any) -> RunPaths:
    """A run that was created and never started."""
    return create_run(load_config("debug", overrides), name, directory)


def loss_at(step: int) -> float:
    """A falling curve; every step has its own value."""
    return 2.0 + 4.0 * math.exp(-step / 50) + 0.01 * math.sin(step)


class Recording:
    """One life of a trainer on a run: a segment, then steps and decisions, and an end (or none: a crash)."""

    def __init__(
        self,
        paths: RunPaths,
        *,
        cause: str = "start",
        fork_step: int = 0,
        fork_seq: int = 0,
        total_steps: int = 200,
        tensorboard: bool = False,
    ) -> None:
        self.paths = paths
        self.lock: RunLock | None = RunLock.acquire(paths)
        self.journal = Journal.open(paths)
        self.writer = StoreWriter(paths, tensorboard)
        self.segment = new_id()
        self.step = fork_step
        parent = self.journal.entries[-1].segment if self.journal.entries else None
        doc = {
            "parent": parent,
            "fork_step": fork_step,
            "fork_seq": fork_seq,
            "cause": cause,
            "total_steps": total_steps,
        }
        self.commit("segment", self.segment, doc)
        self._tell_facts(total_steps)

    def _tell_facts(self, total_steps: int) -> None:
        facts = {
            "state": "running",
            "phase": None,
            "step": self.step,
            "total_steps": total_steps,
            "total_steps_reason": f"max_steps = {total_steps}",
            "segment": self.segment,
            "run": {"name": self.paths.name, "preset": "debug", "autonomy": "ask"},
            "device": {"name": "Example CPU", "kind": "cpu", "threads": 1},
            "precision": "fp32",
            "params": {"total": 2_657_408, "active": 502_912, "embedding": 524_288},
            "layers": {"moe": [0, 1], "mod": [0, 1], "experts": {"0": 8, "1": 8}},
            "hparams": {"routing_temperature": 1.0},
            "health": {"status": "healthy", "issues": []},
            "chinchilla": {"tokens_optimal": 53_148_160, "basis": "total", "phase": "early"},
        }
        for key, value in facts.items():
            self.writer.meta(key, value)
        self.writer.declare_series(UNITS)

    def commit(self, type: str, id: str, doc: Mapping[str, Any]) -> Entry:
        """One durable decision, projected as the trainer projects it."""
        entry = self.journal.append(type, self.segment, self.step, id, doc)
        self.writer.entry(entry)
        return entry

    def train(self, until: int) -> None:
        """Steps up to `until` with the series, arrays and facts of each."""
        for step in range(self.step + 1, until + 1):
            self.step = step
            series = {
                "loss": loss_at(step),
                "learning_rate": 1e-3,
                "grad_norm": 0.5,
                "throughput": 4000.0,
                "tokens": 2048.0 * step,
                "step_seconds": 0.5,
                "moe.routing_entropy": 0.9,
                "moe.routing_entropy.layer0": 0.9,
                "mod.average_depth": 1.0,
            }
            self.writer.points(self.segment, step, series)
            if step % 10 == 0:
                self.writer.points(self.segment, step, {"val_loss": loss_at(step) + 0.1})
            self.writer.array(self.segment, step, "expert_load", np.full((2, 8), 1 / 8, dtype=np.float32))
            self.writer.array(self.segment, step, "expert_live", np.ones((2, 8), dtype=np.float32))
            self.writer.array(self.segment, step, "depth", np.full(2, 0.5, dtype=np.float32))
            self.writer.meta("step", step)

    def propose(self, temperature: float = 1.4) -> str:
        """An open proposal, as the orchestrator makes it; returns its id."""
        id = new_id()
        doc = {
            "id": id,
            "step": self.step,
            "method": "adjust_routing_temperature",
            "args": {"temperature": temperature},
            "cause": "router_collapse",
            "evidence": {"summary": "routing entropy fell to 0.21", "numbers": {"entropy": 0.21}},
            "confidence": 0.86,
            "expires_step": self.step + 200,
            "default_at_expiry": "no change",
            "state": "open",
        }
        self.commit("proposal", id, doc)
        return id

    def decide(self, proposal: str, decision: str = "rejected", why: str | None = None) -> None:
        """A person's or the clock's answer to a proposal."""
        self.commit("decision", new_id(), {"proposal": proposal, "decision": decision, "author": PERSON, "why": why})

    def apply(self, temperature: float = 1.4, *, proposal: str | None = None, before: float = 1.0) -> str:
        """A verified intervention; returns the receipt's id."""
        id = new_id()
        doc = receipt(
            id,
            kind="approve" if proposal else "intervene",
            method="adjust_routing_temperature",
            args={"temperature": temperature},
            step=self.step,
            before={"routing_temperature": before},
            after={"routing_temperature": temperature},
            proposal=proposal,
        )
        self.commit("applied", id, doc)
        return id

    def finish(self, state: str = "finished") -> None:
        """A clean end."""
        self.commit("end", f"end-{self.segment}", {"state": state, "reason": "max_steps"})
        self.writer.meta("state", state)
        self.close()

    def close(self) -> None:
        """Store everything and let go of the run, without an end: what is left looks like after a kill."""
        assert self.writer.close()
        self.journal.close()
        if self.lock is not None:
            self.lock.release()
            self.lock = None


def receipt(id: str, kind: str = "intervene", state: str = "verified", **rest: Any) -> dict[str, Any]:
    """A receipt with every key that the trainer's have."""
    return {
        "id": id,
        "kind": kind,
        "method": None,
        "args": {},
        "state": state,
        "step": 0,
        "before": None,
        "after": None,
        "reason": None,
        "code": None,
        "author": dict(PERSON),
        "proposal": None,
        **rest,
    }


def finished_run(directory: Path, name: str = "first", steps: int = 40) -> RunPaths:
    """A run that trained to its end with one intervention by hand at step 20 and one rejected proposal."""
    recording = Recording(new_run(directory, name), total_steps=steps)
    recording.train(min(20, steps))
    recording.apply(1.5)
    recording.decide(recording.propose(), why="too early")
    recording.train(steps)
    recording.finish()
    return recording.paths


@contextmanager
def living(paths: RunPaths) -> Iterator[RunLock]:
    """While inside, the run looks as if its trainer lived: somebody holds its lock."""
    with RunLock.acquire(paths) as lock:
        yield lock
