"""Scenarios as data: what a run looks like, what goes wrong in it and when, and what counts as noticing it.

A scenario is a YAML file in `scenarios/`; this module reads and checks them and trains nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lumina.config import Config, ConfigError, load_config
from lumina.config.problems import Problem, did_you_mean
from lumina.config.source import Entry, read_entries

HERE = Path(__file__).parent
BASE = HERE / "base.yaml"
FOLDER = HERE / "scenarios"

KINDS: dict[str, str] = {
    "learning_rate": "the rate that reaches the optimizer is `value` times the scheduled one, from step `at` on",
    "gradient": "the gradients of the sequences due in steps `at` to `at + steps - 1` are `value` times as large",
    "nan": "the sequences due in steps `at` to `at + steps - 1` give a loss that is not a number",
    "noise": "a share `value` of the sequences due in steps `at` to `at + steps - 1` has tokens drawn by chance",
    "router_bias": "before step `at`, `value` is added to the router logit of expert 0 in every layer",
    "capacity_factor": "before step `at`, the capacity factor of the experts becomes `value`",
    "mod_capacity_factor": "before step `at`, the share of tokens that a layer takes becomes `value`",
    "oom": "from step `at` on, a micro-batch of more than `value` sequences runs out of memory",
    "slow_loader": "from step `at` on, each micro-batch takes `value` seconds longer to load",
}
"""Every kind of fault, with what `at`, `steps` and `value` mean to it."""
OF_DATA = frozenset({"gradient", "nan", "noise"})  # tied to sequences: they come again when the run goes back
REFERENCES = ("healthy", "best_of_none")
FIELDS = ("about", "expects", "steps", "short_steps", "reference", "settings", "fault")
FAULT_FIELDS: dict[str, type] = {"kind": str, "at": int, "steps": int, "value": float}


class ScenarioError(ConfigError):
    """A scenario cannot be used; every problem names file and field."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong, by `kind`: see `KINDS`. `steps` only matters to faults of the data."""

    kind: str
    at: int
    value: float = 0.0
    steps: int = 1


@dataclass(frozen=True)
class Scenario:
    """One course of the gym. Without `expects` it is healthy: whatever is proposed then is a false alarm.

    `reference` says what a full repair is: the same run without its fault (`healthy`), or, where nothing could have
    trained on (too little data), the lowest validation loss of the run that nobody helped (`best_of_none`).
    """

    name: str
    about: str
    expects: tuple[str, ...]
    steps: int
    short_steps: int
    reference: str
    settings: Mapping[str, Any]
    fault: Fault | None

    @property
    def healthy(self) -> bool:
        return not self.expects

    def length(self, short: bool) -> int:
        """Steps to train."""
        return self.short_steps if short else self.steps


@dataclass(frozen=True)
class Seeds:
    """Thresholds are chosen on the seeds `tune`; what is published comes from `report`."""

    tune: tuple[int, ...]
    report: tuple[int, ...]


def load_scenarios(names: Sequence[str] = (), folder: Path = FOLDER) -> list[Scenario]:
    """The scenarios of these names, or all of a folder. Raises `ScenarioError` with every problem at once."""
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if not files:
        raise ScenarioError(
            [Problem("scenario", "there is no scenario, a file NAME.yaml, in this folder", str(folder))]
        )
    problems = [
        Problem("scenario", f"there is no scenario {name!r}", str(folder), None,
                did_you_mean(name, files) or f"use {', '.join(files)}")
        for name in names if name not in files
    ]  # fmt: skip
    found: list[Scenario] = []
    for name in names or files:
        if name in files:
            try:
                found.append(read_scenario(files[name]))
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ScenarioError(problems)
    return found


def read_scenario(path: Path) -> Scenario:
    """One scenario from its file. Raises `ScenarioError` naming file, line and field."""
    reading = _Reading(path.name, read_entries(path.read_text(encoding="utf-8"), path.name, rank=1))
    scenario = Scenario(
        name=path.stem,
        about=reading.take("about", str, needed=True) or "",
        expects=reading.words("expects"),
        steps=reading.take("steps", int, needed=True) or 1,
        short_steps=reading.take("short_steps", int) or reading.take("steps", int) or 1,
        reference=reading.choice("reference", REFERENCES),
        settings=reading.settings(),
        fault=reading.fault(),
    )
    reading.check(scenario)
    return scenario


def read_seeds(path: Path = BASE) -> Seeds:
    """Which seeds are for tuning and which are reported; no seed may be both."""
    reading = _Reading(path.name, read_entries(path.read_text(encoding="utf-8"), path.name, rank=1))
    tune, report = reading.numbers("seeds.tune"), reading.numbers("seeds.report")
    if set(tune) & set(report):
        reading.complain("seeds.report", f"shares {sorted(set(tune) & set(report))} with seeds.tune")
    reading.raise_if_wrong()
    return Seeds(tune, report)


def configuration(settings: Mapping[str, Any], steps: int, seed: int, **more: Any) -> Config:
    """The configuration of one run of the gym: the common settings, a scenario's own, and its seed and length."""
    common = {
        ".".join(entry.keys[1:]): entry.value
        for entry in read_entries(BASE.read_text(encoding="utf-8"), BASE.name, rank=1)
        if entry.keys[0] == "settings"
    }
    return load_config("debug", {**common, **settings, "training.seed": seed, "training.max_steps": steps, **more})


def digest(document: Any) -> str:
    """A short name for a JSON document."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=asdict).encode()).hexdigest()[:12]


class _Reading:
    """One file being read: takes fields out and gathers what is wrong with them."""

    def __init__(self, file: str, entries: Iterable[Entry]) -> None:
        self.file = file
        self.entries = {entry.path: entry for entry in entries}
        self.problems: list[Problem] = []

    def complain(self, path: str, message: str, hint: str = "") -> None:
        entry = self.entries.get(path)
        self.problems.append(Problem(path, f"{path} {message}", self.file, entry.origin.line if entry else None, hint))

    def take(self, path: str, kind: type, *, needed: bool = False) -> Any:
        """The value at `path`; None, with a complaint where it is due, when it is missing or no `kind`."""
        entry = self.entries.get(path)
        if entry is None:
            if needed:
                self.complain(path, "is missing")
            return None
        value = float(entry.value) if kind is float and type(entry.value) is int else entry.value
        if type(value) is not kind:
            self.complain(path, f"= {entry.value!r} is not {_WORDS[kind]}")
            return None
        if isinstance(value, int) and value < 1:
            self.complain(path, f"= {value} is below 1")
        return value

    def words(self, path: str) -> tuple[str, ...]:
        value = self.entries[path].value if path in self.entries else []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.complain(path, f"= {value!r} is not a list of causes")
            return ()
        return tuple(value)

    def numbers(self, path: str) -> tuple[int, ...]:
        value = self.entries[path].value if path in self.entries else []
        if not isinstance(value, list) or not value or not all(type(item) is int for item in value):
            self.complain(path, f"= {value!r} is not a list of whole numbers")
            return ()
        return tuple(value)

    def choice(self, path: str, allowed: Sequence[str]) -> str:
        value = self.take(path, str) or allowed[0]
        if value not in allowed:
            self.complain(path, f"= {value!r} is not known", f"use {' or '.join(allowed)}")
        return str(value)

    def settings(self) -> dict[str, Any]:
        return {path.partition(".")[2]: entry.value for path, entry in self.entries.items()
                if entry.keys[0] == "settings" and len(entry.keys) > 1}  # fmt: skip

    def fault(self) -> Fault | None:
        if not any(entry.keys[0] == "fault" for entry in self.entries.values()):
            return None
        taken = {name: self.take(f"fault.{name}", kind, needed=name in ("kind", "at"))
                 for name, kind in FAULT_FIELDS.items()}  # fmt: skip
        if taken["kind"] is not None and taken["kind"] not in KINDS:
            hint = did_you_mean(taken["kind"], KINDS) or f"use {', '.join(KINDS)}"
            self.complain("fault.kind", f"= {taken['kind']!r} is not known", hint)
        given = {name: value for name, value in taken.items() if value is not None}
        return Fault(**{"kind": "", "at": 1, **given})

    def check(self, scenario: Scenario) -> None:
        """Whatever only shows once all fields are read: unknown fields, settings, and faults that never happen."""
        for path, entry in self.entries.items():
            known = FIELDS if len(entry.keys) == 1 else [f"fault.{name}" for name in FAULT_FIELDS]
            if entry.keys[0] not in FIELDS or (entry.keys[0] == "fault" and path not in known):
                self.complain(path, "is not known", did_you_mean(path, known) or f"fields: {', '.join(known)}")
        if scenario.fault is not None and scenario.fault.at >= scenario.short_steps:
            self.complain("fault.at", f"= {scenario.fault.at} is not before the last of {scenario.short_steps} steps")
        if scenario.fault is not None and scenario.healthy:
            self.complain("expects", "is missing: which causes count as noticing the fault?")
        try:
            configuration(scenario.settings, scenario.steps, 0)
        except ConfigError as error:
            for problem in error.problems:
                self.complain(self._setting(problem.path), f"({problem.message})", problem.hint)
        self.raise_if_wrong()

    def _setting(self, path: str) -> str:
        name = path.rpartition(".")[2]
        return next((p for p in self.entries if p in (f"settings.{path}", f"settings.{name}")), f"settings.{path}")

    def raise_if_wrong(self) -> None:
        if self.problems:
            raise ScenarioError(self.problems)


_WORDS: dict[type, str] = {str: "text", int: "a whole number", float: "a number"}
