"""One cell of the gym's table: one scenario, one method, one seed, trained once by the real trainer.

It writes down what happened; what that is worth is judged elsewhere.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lumina.engine.api import MicroBatch, StepStats
from lumina.gym.faults import Broken
from lumina.gym.methods import METHODS, Method
from lumina.gym.plan import Cell
from lumina.gym.scenario import configuration
from lumina.orchestrator import Orchestrator, RunFacts
from lumina.train.evaluate import evaluate
from lumina.train.session import Session
from lumina.train.trainer import Trainer

PATIENCE = 4  # a run that attempts so many times the planned steps goes round in circles


class GoingInCircles(Exception):
    """The run attempted many times the steps that it was planned for."""


class Stage:
    """The engine of a run in the gym: the real one, with the fault and the method's hand around each step."""

    def __init__(self, session: Session, broken: Broken | None, method: Method) -> None:
        self._session, self._broken, self._method = session, broken, method
        self._engine: Any = session.engine
        self.attempted = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def train_step(self, step: int, microbatches: Sequence[MicroBatch], learning_rate: float) -> StepStats:
        """The engine's step with the fault around it. Raises `GoingInCircles` after far too many attempts."""
        self.attempted += 1
        if self.attempted > PATIENCE * self._session.plan.total_steps:
            raise GoingInCircles(f"{self.attempted} steps attempted for {self._session.plan.total_steps}")
        self._method.before_step(step, self._engine)
        if self._broken is None:
            stats: StepStats = self._engine.train_step(step, microbatches, learning_rate)
            return stats
        batches = self._broken.batches(microbatches)
        with self._broken.around(step, microbatches, self._engine.model):
            stats = self._engine.train_step(step, batches, self._broken.rate(step, learning_rate))
        self._session.loader = self._broken.loader(self._session.loader)
        return stats


class Ears(Protocol):
    """Whoever wants to hear what the orchestrator is shown."""

    facts: RunFacts | None
    hparams: list[dict[str, float]]

    def observe(self, series: Mapping[str, float], arrays: Mapping[str, Any]) -> None: ...


class Witness:
    """The orchestrator of a run in the gym: the real one, with every check written down."""

    def __init__(self, orchestrator: Orchestrator, ears: Ears | None = None) -> None:
        self._orchestrator, self._ears = orchestrator, ears
        self.issues: list[dict[str, Any]] = []
        if ears is not None:
            ears.facts = orchestrator.facts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._orchestrator, name)

    def observe(self, step: int, series: Mapping[str, float], arrays: Mapping[str, Any]) -> None:
        if self._ears is not None:
            self._ears.observe(series, arrays)
        self._orchestrator.observe(step, series, arrays)

    def check(self, step: int, hparams: Mapping[str, float], *args: Any, **kwargs: Any) -> Any:
        if self._ears is not None:
            self._ears.hparams.append(dict(hparams))
        result = self._orchestrator.check(step, hparams, *args, **kwargs)
        self.issues += [{"step": step, "code": i.code, "confidence": i.confidence} for i in result.health.issues]
        return result


def run_cell(cell: Cell, ears: Ears | None = None) -> dict[str, Any]:
    """Trains a cell and tells, as JSON: how it ended, the validation losses, and what was proposed and done when.

    A run that breaks down is a result, too: it is scored by the model that it leaves.
    """
    method = METHODS[cell.method]()
    config = configuration(cell.settings, cell.steps, cell.seed, **method.settings)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lumina-gym-") as folder:
        trainer = Trainer(config, name="run", directory=Path(folder))
        session = trainer.session
        broken = None if cell.fault is None else Broken(cell.fault, session)
        stage, witness = Stage(session, broken, method), Witness(session.orchestrator, ears)
        session.engine, session.orchestrator = stage, witness  # type: ignore[assignment]
        session.loader = session.loader if broken is None else broken.loader(session.loader)
        status, curve = _train(trainer, method, cell.steps)
        final = _final(session)
        decided = _decisions(session)
        attempted, vocabulary = stage.attempted, session.dataset.vocab_size
        trainer.close()
    return {
        "cell": {**asdict(cell), "settings": dict(cell.settings)},
        "key": cell.key,
        "status": status,
        "final_val_loss": final,
        "val_losses": curve,
        "attempted_steps": attempted,
        "seconds": round(time.monotonic() - started, 2),
        "check_interval": config.orchestrator.check_interval,
        "vocabulary": vocabulary,
        "issues": witness.issues,
        "acts": method.acts,
        **decided,
    }


def _train(trainer: Trainer, method: Method, steps: int) -> tuple[str, list[list[float | None]]]:
    curve: list[list[float | None]] = []
    status = "running"
    state, interval = trainer.session.state, trainer.session.config.training.eval_interval
    try:
        while status == "running" and trainer.step < steps:
            status = trainer.train(until=trainer.step + 1)
            validated = state.val_loss if state.step % interval == 0 else None
            if validated is not None:
                curve.append([state.step, _finite(validated)])
            method.after_step(trainer, validated)
    except Exception as error:  # noqa: BLE001
        # Whatever broke the run is the result of this cell; the table must show it.
        return f"failed: {type(error).__name__}: {error}", curve
    return status, curve


def _final(session: Session) -> float | None:
    figures = evaluate(session.engine, session.validation, session.validation_sequences, session.validation_batch_size)
    return _finite(figures.get("val_loss", math.nan))


def _decisions(session: Session) -> dict[str, list[dict[str, Any]]]:
    """Proposals with what became of them and their effect, and everything that was applied, from the journal."""
    proposals: dict[str, dict[str, Any]] = {}
    applied: list[dict[str, Any]] = []
    made_for: dict[str, str] = {}  # receipt -> proposal
    for entry in session.journal.entries:
        doc, id = entry.doc, entry.id or ""
        receipt = doc if entry.type == "applied" else doc.get("receipt")
        if entry.type == "proposal":
            kept = {name: doc[name] for name in ("cause", "method", "args", "confidence")}
            told = (doc.get("evidence") or {}).get("calibration") or {}
            raw = told.get("raw", doc["confidence"])  # what the detector said before its record was looked at
            proposals[id] = {"step": entry.step, **kept, "raw": raw, "became": "open"}
        elif entry.type == "decision" and doc["decision"] != "approved" and doc.get("proposal") in proposals:
            proposals[doc["proposal"]]["became"] = f"{doc['decision']} ({doc.get('why') or ''})"
        elif entry.type == "effect" and made_for.get(id) in proposals:
            proposals[made_for[id]]["effect"] = doc["state"]
        elif entry.type == "oom_split":
            # Journalled before the step that did not fit is counted.
            applied.append({"step": entry.step + 1, "method": "oom_split", "args": {}, "cause": "oom_split"})
        elif receipt:
            made_for[receipt["id"]] = proposal = receipt.get("proposal") or ""
            about = proposals.get(proposal, {"cause": None})
            about["became"] = "applied"
            applied.append({"step": entry.step, "by": receipt["author"].get("name"), "cause": about["cause"],
                            **{name: receipt[name] for name in ("method", "args", "after")}})  # fmt: skip
    return {"proposals": list(proposals.values()), "applied": applied}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
