"""What an intervention is: its declaration, its arguments, and the controls that it may use.

Torch-free, so that the dashboard, the notebook and the command line build their forms from the same declaration that
the trainer applies. An intervention must not know the model: it sees `Controls` and nothing behind it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Protocol, TypeVar, cast

from lumina.store.errors import Refusal

Values = dict[str, Any]
"""What an intervention reads back: name of a live value → JSON-able value."""

T = TypeVar("T", bound="type[Intervention]")


class Risk(str, Enum):
    """How much care an intervention asks for before it is applied."""

    ROUTINE = "routine"
    CAREFUL = "careful"
    EMERGENCY = "emergency"


@dataclass(frozen=True)
class Arg:
    """One argument as forms, `--help`, docs and checks show it."""

    name: str
    type: str
    help: str
    unit: str = ""
    default: float | int | None = None
    ge: float | None = None
    le: float | None = None
    gt: float | None = None

    def allowed(self) -> str:
        """The allowed range in words, as error messages quote it."""
        low = f"{self.ge:g}" if self.ge is not None else (f"above {self.gt:g}" if self.gt is not None else None)
        high = f"{self.le:g}" if self.le is not None else None
        if low and high:
            return f"{low} to {high}"
        if low:
            return low if low.startswith("above") else f"{low} or more"
        return f"at most {high}" if high else f"any {self.type}"

    def parse(self, method: str, value: Any) -> float | int:
        """`value` as this argument's type. Raises `Refusal` (bad_argument, out_of_range)."""
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                raise self._no_number(method, value) from None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._no_number(method, value)
        if not math.isfinite(value):
            raise Refusal("out_of_range", f"{method}: {self.name} = {value} is not finite; allowed: {self.allowed()}")
        if self.type == "int" and value != int(value):
            told = f"{method}: {self.name} = {value} is not a whole number; allowed: {self.allowed()}"
            raise Refusal("bad_argument", told)
        outside = (
            (self.ge is not None and value < self.ge)
            or (self.gt is not None and value <= self.gt)
            or (self.le is not None and value > self.le)
        )
        if outside:
            raise Refusal("out_of_range", f"{method}: {self.name} = {value:g} is outside {self.allowed()}")
        return int(value) if self.type == "int" else float(value)

    def _no_number(self, method: str, value: Any) -> Refusal:
        return Refusal("bad_argument", f"{method}: {self.name} = {value!r} is not a number; allowed: {self.allowed()}")


@dataclass(frozen=True)
class Declaration:
    """Everything a form, a command line or a receipt needs to know of one method, without applying it."""

    method: str
    kind: str  # "action" | "query"
    doc: str
    risk: Risk
    affects: str
    structural: bool = False
    args: tuple[Arg, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "risk": self.risk.value, "args": [dataclasses.asdict(a) for a in self.args]}

    def parse(self, args: Mapping[str, Any]) -> dict[str, float | int]:
        """Checked arguments with defaults filled in. Raises `Refusal` naming argument and allowed range."""
        known = {arg.name: arg for arg in self.args}
        for name in args:
            if name not in known:
                listed = ", ".join(known) or "none"
                raise Refusal("bad_argument", f"{self.method} has no argument {name!r}; it takes: {listed}")
        parsed: dict[str, float | int] = {}
        for arg in self.args:
            if arg.name in args:
                parsed[arg.name] = arg.parse(self.method, args[arg.name])
            elif arg.default is not None:
                parsed[arg.name] = arg.default
            else:
                raise Refusal("bad_argument", f"{self.method} needs {arg.name} ({arg.help}; {arg.allowed()})")
        return parsed


class Controls(Protocol):
    """The live values that interventions may read and change; the trainer implements it."""

    @property
    def step(self) -> int: ...

    def get(self, name: str) -> float:
        """A live value, read from the model or the optimizer itself, never from a cache."""

    def find(self, name: str) -> float | None:
        """As `get`, but None where nothing is set: a capacity_factor of None drops nothing."""

    def set(self, name: str, value: float | None) -> None:
        """Changes a live value; None only where `find` gave it."""

    @property
    def expert_layers(self) -> tuple[int, ...]:
        """Layers with experts; none in a dense model."""

    def experts(self, layer_idx: int) -> ExpertCounts:
        """Experts of one layer. Raises `Refusal` (bad_argument) when the layer has none."""

    def add_expert(self, layer_idx: int, source_expert: int) -> None:
        """Adds a copy of `source_expert` to a layer, not live until the next step."""

    def prune_expert(self, layer_idx: int, expert_idx: int) -> None:
        """Masks an expert from the next step on and freezes its weights."""

    def restore_expert(self, layer_idx: int, expert_idx: int) -> None:
        """Makes a pruned expert live again."""

    @property
    def position(self) -> int:
        """Training sequences consumed: the number of the next one that is due."""

    skipped: tuple[tuple[int, int], ...]
    """Ranges [first, stop) of training sequences that no step takes."""

    autonomy: str
    """observe, ask or auto."""

    @property
    def lengths_given(self) -> int:
        """How often a person has given the run's length on a start or a resume."""

    def end_after(self, total_steps: int, given: int) -> None:
        """From the next step on the run ends after so many, unless its length was given more often than `given`."""

    @property
    def paused(self) -> bool: ...

    @property
    def stopping(self) -> str | None:
        """Why the run ends at the next boundary; None while it goes on."""

    @property
    def saved(self) -> str | None:
        """The checkpoint of exactly this state, if there is one."""

    def pause(self, paused: bool) -> None:
        """Holds the run before its next step, or lets it go on."""

    def save(self) -> None:
        """Writes a checkpoint now."""

    def stop(self, reason: str) -> None:
        """Ends the run at the next boundary, with a checkpoint."""


@dataclass(frozen=True)
class ExpertCounts:
    """Experts of one layer: how many take tokens now, how many are being ramped in, the busiest one, the indices of
    those that were pruned, and how many each token needs."""

    live: int
    ramping: int
    busiest: int
    pruned: tuple[int, ...]
    top_k: int

    @property
    def total(self) -> int:
        return self.live + self.ramping

    @property
    def slots(self) -> int:
        """Indices in use: pruned experts keep theirs."""
        return self.total + len(self.pruned)


class Intervention:
    """Base of all actions: `check`, `apply`, `read_back`, `verify`, `undo`, in that order of use.

    `resolve` fixes, once, whatever the action would choose from the run's state (which expert to copy), so that a
    replay applies the same thing; its result is stored in the receipt.
    """

    declaration: ClassVar[Declaration]
    once: ClassVar[bool] = False
    """True where a restart must not repeat it: what it did to the run is over, or was saved."""

    def check(self, controls: Controls) -> None:
        """Raises `Refusal` when the action is impossible now."""

    def resolve(self, controls: Controls) -> Values:
        """Choices to be stored with the receipt and handed to `apply`, also on replay."""
        return {}

    def apply(self, controls: Controls, resolved: Values) -> None:
        raise Refusal("unsupported", f"{self.declaration.method} cannot be applied")

    def outdated(self, controls: Controls, resolved: Values) -> bool:
        """True where a word of a person has replaced it since: repeating it shows nothing that its receipt says."""
        return False

    def read_back(self, controls: Controls) -> Values:
        """The values this action is about, read from the live model or optimizer."""
        return {}

    def verify(self, before: Values, after: Values) -> bool:
        """True when the values read back are what was asked for."""
        return before != after

    def undo(self, controls: Controls, before: Values) -> None:
        """Restores the values in `before`. Raises `Refusal` (unsupported) where only a rewind can."""
        raise Refusal("unsupported", f"{self.declaration.method} cannot be reverted in place; a rewind takes it back")

    def touches(self, after: Values) -> frozenset[str]:
        """The live settings that it changed, from what was read back; the undo of an earlier one must not set these."""
        return frozenset(after) - {"learning_rate"}  # which follows the schedule; what is set is `lr_scale`

    def undo_sets(self, after: Values) -> frozenset[str]:
        """The live settings that its undo would set: one that was changed since then lies on top of it."""
        return self.touches(after)

    def same(self, first: Values, second: Values) -> bool:
        """Whether two read-backs show the same setting, whatever else moves with the steps."""
        return first == second


def arg(*, help: str, ge: float | None = None, le: float | None = None, gt: float | None = None,
        default: float | None = None, unit: str = "") -> Any:  # fmt: skip
    """A dataclass field that carries what forms and checks need to know of the argument."""
    return dataclasses.field(
        default=dataclasses.MISSING if default is None else default,
        metadata={"help": help, "ge": ge, "le": le, "gt": gt, "unit": unit},
    )


def intervention(
    method: str, *, risk: Risk, affects: str, structural: bool = False, once: bool = False
) -> Callable[[T], T]:
    """Turns an annotated class into a frozen dataclass with a `Declaration`."""

    def declare(cls: T) -> T:
        made = dataclass(frozen=True)(cls)
        args = tuple(_arg_of(field) for field in dataclasses.fields(made))  # type: ignore[arg-type]
        doc = (cls.__doc__ or "").strip()
        made.once = once
        made.declaration = Declaration(method, "action", doc, risk, affects, structural, args)
        return cast("T", made)

    return declare


def _arg_of(field: dataclasses.Field[Any]) -> Arg:
    default = None if field.default is dataclasses.MISSING else field.default
    meta = field.metadata
    return Arg(field.name, str(field.type), meta["help"], meta["unit"], default, meta["ge"], meta["le"], meta["gt"])
