"""What is known about each parameter: path, type, default, limits, typical range, help, availability.
The documentation, the command line and the tests read it here; it holds no values of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from lumina.config.schema import GROUPS

LIMIT_WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter.

    `hard_range` has the limits that refuse, by ge/gt/le/lt; `typical` the range outside of which there is a warning;
    `choices` the words that it takes; `available` is True, False (only the default is taken), or the values that exist.
    """

    path: str
    type: str
    default: Any
    hard_range: dict[str, float]
    typical: tuple[float, float] | None
    help: str
    available: bool | tuple[Any, ...]
    choices: tuple[Any, ...] = ()

    @property
    def group(self) -> str:
        return self.path.split(".")[0]

    @property
    def name(self) -> str:
        return self.path.split(".")[1]

    @property
    def values_so_far(self) -> tuple[Any, ...]:
        """The values that are taken where not all are: the default alone, or those that exist."""
        return self.available if isinstance(self.available, tuple) else (self.default,)

    def allows(self, value: Any) -> bool:
        """True when the feature behind `value` exists in this version."""
        return self.available is True or value in self.values_so_far


def parameters() -> tuple[ParameterInfo, ...]:
    """Every parameter, in the order of the groups."""
    return tuple(_table().values())


def parameter(path: str) -> ParameterInfo | None:
    """The parameter at a dotted path, or None."""
    return _table().get(path)


def paths_of(name: str) -> list[str]:
    """The dotted paths of all parameters with this bare name (at most one today; a name may come to be shared)."""
    return [info.path for info in parameters() if info.name == name]


@lru_cache(maxsize=1)
def _table() -> dict[str, ParameterInfo]:
    return {info.path: info for info in _all()}


def _all() -> Iterator[ParameterInfo]:
    for group, model in GROUPS.items():
        for name, field in model.model_fields.items():
            extra: dict[str, Any] = dict(field.json_schema_extra) if isinstance(field.json_schema_extra, dict) else {}
            yield ParameterInfo(
                path=f"{group}.{name}",
                type=_type_text(field),
                default=field.default,
                hard_range=extra.get("limits", {}),
                typical=extra.get("typical"),
                help=field.description or "",
                available=extra.get("available", True),
                choices=_choices(field.annotation),
            )


def _type_text(field: FieldInfo) -> str:
    """``int``, ``float or null``, ``'a' or 'b'``, ``list of text``."""
    return " or ".join(dict.fromkeys(_type_words(field.annotation)))


_WORDS = {int: "int", float: "float", bool: "bool", str: "text", type(None): "null"}


def _type_words(annotation: Any) -> Iterator[str]:
    if annotation in _WORDS:
        yield _WORDS[annotation]
    elif get_origin(annotation) is Literal:
        yield from (repr(choice) for choice in get_args(annotation))
    elif get_origin(annotation) is tuple:
        yield "list of " + next(_type_words(get_args(annotation)[0]))
    else:
        for part in get_args(annotation):
            yield from _type_words(part)


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if annotation is bool:
        return (True, False)
    if annotation is type(None):
        return (None,)
    if get_origin(annotation) is None or get_origin(annotation) is tuple:
        return ()
    parts = [_choices(part) for part in get_args(annotation)]
    return tuple(choice for part in parts for choice in part) if all(parts) else ()


def show(value: Any) -> str:
    """A value as it would be written in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, float):
        return _number(value)
    return str(value)


def _number(value: float) -> str:
    """``16777216``, ``0.1``, ``1e-5``: the shortest that reads back as the same number."""
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return re.sub(r"e([-+])0*", lambda match: "e" + match.group(1).replace("+", ""), repr(value))


def range_text(limits: dict[str, float]) -> str:
    """``at least 1, below 2``."""
    return ", ".join(f"{LIMIT_WORDS[kind]} {show(bound)}" for kind, bound in limits.items())
