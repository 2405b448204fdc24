"""Recorded runs of the gym: what the orchestrator was shown, step by step, to be shown to another one in milliseconds.

A trace is a compressed NumPy archive without pickled objects. It is recorded from a run in which nobody acted, so that
it stays the same whatever the detectors become.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.accounting import EpochAdvice, TokenBudget
from lumina.gym.cell import run_cell
from lumina.gym.plan import Cell
from lumina.gym.scenario import Fault, configuration
from lumina.orchestrator import Orchestrator, Proposal, RunFacts

FORMAT = 1
DIGITS = 5  # of each figure: enough for every detector, and half the size
EPOCH = (1980, 1, 1, 0, 0, 0)  # in the archive: the same run gives the same file


@dataclass(frozen=True)
class Trace:
    """The figures of each step, and the live values at each check. `facts` are those of the run; `about` its cell."""

    about: Mapping[str, Any]
    facts: RunFacts
    names: tuple[str, ...]
    series: NDArray[np.float32]  # [steps, names]; NaN where a step did not have it
    absent: NDArray[np.bool_]
    arrays: Mapping[str, NDArray[Any]]  # name -> [steps, ...]
    hparams: tuple[Mapping[str, float], ...]

    def steps(self) -> Iterator[tuple[int, dict[str, float], dict[str, NDArray[Any]]]]:
        """What `Orchestrator.observe` was shown."""
        for index, (row, absent) in enumerate(zip(self.series, self.absent, strict=True)):
            figures = {
                name: float(value) for name, value, missing in zip(self.names, row, absent, strict=True) if not missing
            }
            yield index + 1, figures, {name: array[index] for name, array in self.arrays.items()}

    def orchestrator(self, **settings: Any) -> Orchestrator:
        """A new one for this run."""
        about = self.about
        return Orchestrator(configuration(about["settings"], about["steps"], about["seed"], **settings), self.facts)


class Recording:
    """Stands in for an orchestrator's ears: takes down what it is shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, float], dict[str, NDArray[Any]]]] = []
        self.hparams: list[dict[str, float]] = []
        self.facts: RunFacts | None = None

    def observe(self, series: Mapping[str, float], arrays: Mapping[str, NDArray[Any]]) -> None:
        self.seen.append((dict(series), {name: np.array(array) for name, array in arrays.items()}))

    def trace(self, about: Mapping[str, Any]) -> Trace:
        """Everything that was taken down."""
        assert self.facts is not None
        names = tuple(sorted({name for series, _ in self.seen for name in series}))
        series = np.array([[figures.get(name, np.nan) for name in names] for figures, _ in self.seen], np.float32)
        absent = np.array([[name not in figures for name in names] for figures, _ in self.seen])
        first = self.seen[0][1]
        arrays = {name: np.stack([kept[name] for _, kept in self.seen]) for name in first}
        return Trace(about, self.facts, names, _rounded(series), absent, arrays, tuple(self.hparams))


def record(cell: Cell) -> Trace:
    """Trains a cell whose method lets it run on, and returns what its orchestrator was shown."""
    recording = Recording()
    run_cell(cell, recording)
    about = {"scenario": cell.scenario, "settings": dict(cell.settings), "steps": cell.steps, "seed": cell.seed,
             "fault": None if cell.fault is None else dataclasses.asdict(cell.fault)}  # fmt: skip
    return recording.trace(about)


def save(trace: Trace, path: Path) -> None:
    """Writes a trace; the same trace always gives the same bytes."""
    head = {"format": FORMAT, "about": trace.about, "facts": dataclasses.asdict(trace.facts), "names": trace.names,
            "hparams": trace.hparams}  # fmt: skip
    parts: dict[str, NDArray[Any]] = {
        "head": np.frombuffer(json.dumps(head).encode(), np.uint8),
        "series": trace.series.T.copy(),  # a figure's steps side by side compress better
        "absent": np.packbits(trace.absent),
        **{f"array.{name}": _compact(array) for name, array in trace.arrays.items()},
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in parts.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", EPOCH)
            entry.compress_type = zipfile.ZIP_LZMA
            archive.writestr(entry, buffer.getvalue())


def load(path: Path) -> Trace:
    """Reads a trace. Raises ValueError for another format."""
    with np.load(path, allow_pickle=False) as archive:
        head = json.loads(archive["head"].tobytes())
        if head["format"] != FORMAT:
            raise ValueError(f"{path.name} is a trace of format {head['format']}; this version reads {FORMAT}")
        series = archive["series"].T
        absent = np.unpackbits(archive["absent"], count=series.size).reshape(series.shape).astype(bool)
        arrays = {name.removeprefix("array."): archive[name] for name in archive.files if name.startswith("array.")}
    return Trace(head["about"], _facts(head["facts"]), tuple(head["names"]), series, absent, arrays,
                 tuple(head["hparams"]))  # fmt: skip


@dataclass(frozen=True)
class Heard:
    """One thing that an orchestrator said of a trace: a proposal, or an issue of its health report."""

    step: int
    cause: str
    kind: str
    method: str | None = None
    confidence: float = 0.0
    summary: str = ""


def replay(trace: Trace, **settings: Any) -> list[Heard]:
    """What a new orchestrator says of a recorded run, when nobody answers it."""
    orchestrator = trace.orchestrator(**settings)
    interval = configuration(trace.about["settings"], 1, 0, **settings).orchestrator.check_interval
    heard: list[Heard] = []
    held: list[dict[str, Any]] = []
    hparams: Mapping[str, float] = trace.hparams[0]
    for step, series, arrays in trace.steps():
        orchestrator.observe(step, series, arrays)
        if step % interval:
            made = _urgent(orchestrator, step, hparams)
        else:
            hparams = trace.hparams[min(step // interval, len(trace.hparams)) - 1]
            result = orchestrator.check(step, hparams, held, decided=trace.hparams[0])
            gone = {*result.expired, *(id for id, _ in result.withdrawn)}
            held = [doc for doc in held if doc["id"] not in gone]
            made = result.proposals
            heard += [Heard(step, i.code, "issue", None, i.confidence, i.message) for i in result.health.issues]
        held += [proposal.to_json() for proposal in made]
        heard += [Heard(step, p.cause, "proposal", p.method, p.confidence, str(p.evidence.get("summary", "")))
                  for p in made]  # fmt: skip
    return heard


def fault_of(trace: Trace) -> Fault | None:
    """What was done to the recorded run."""
    told = trace.about["fault"]
    return None if told is None else Fault(**told)


def _urgent(orchestrator: Orchestrator, step: int, hparams: Mapping[str, float]) -> Sequence[Proposal]:
    """What cannot wait for the next check."""
    return orchestrator.emergencies(step, hparams) if orchestrator.urgent() else ()


def _facts(told: Mapping[str, Any]) -> RunFacts:
    known = {field.name for field in dataclasses.fields(RunFacts)}
    kept: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in told.items() if name in known
    }
    kept["tokens_optimal"] = TokenBudget(**told["tokens_optimal"])
    if kept.get("epochs"):
        kept["epochs"] = EpochAdvice(**kept["epochs"])
    return RunFacts(**kept)


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """To `DIGITS` significant digits."""
    with np.errstate(all="ignore"):
        scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.abs(values.astype(np.float64)))))
        rounded = np.where(np.isfinite(scale), np.round(values * scale) / scale, values)
    return rounded.astype(np.float32)


def _compact(array: NDArray[Any]) -> NDArray[Any]:
    """Shares as float16 are good to three digits; flags are bytes."""
    if array.dtype.kind == "f" and np.isin(array, (0, 1)).all():
        return array.astype(np.uint8)
    return array.astype(np.float16) if array.dtype.kind == "f" else array
