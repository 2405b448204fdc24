"""Decides whether values make a configuration that can work, and tells everything that is wrong at once.
Knows where each value was written, but reads no files itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from lumina.config.parameters import ParameterInfo, parameter, parameters, range_text, show
from lumina.config.problems import Problem, did_you_mean, nearest
from lumina.config.rules import RULES
from lumina.config.schema import GROUPS, Config
from lumina.config.source import Entry, Origin

Origins = Mapping[str, Origin]


def build(preset: str | None, entries: Iterable[Entry]) -> tuple[Config, list[Problem]]:
    """The configuration that the entries make (later ones hold), and all that is wrong with it.

    Where a value is refused the default stands in, so that the rules between parameters can still be checked.
    """
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for entry in entries:
        problem = check_key(entry)
        if problem is not None:
            problems.append(problem)
        else:
            values[entry.path], origins[entry.path] = entry.value, entry.origin
    refused = dict(_refused_values(values, origins))
    problems += refused.values()
    config = _construct(preset, {path: value for path, value in values.items() if path not in refused})
    problems += _unavailable(config, origins)
    problems += _broken_rules(config, origins, skip=set(refused))
    return config, problems


def check_key(entry: Entry) -> Problem | None:
    """A problem when the entry's keys name no parameter."""
    origin = entry.origin
    if parameter(entry.path) is not None:
        return None
    if len(entry.keys) == 1 and entry.keys[0] in GROUPS:
        if entry.value is None:
            return Problem(entry.path, f"{entry.path} is a group without any values", origin.file, origin.line)
        message = f"{entry.path} is a group of parameters, not a value ({show(entry.value)})"
        return Problem(entry.path, message, origin.file, origin.line)
    message = f"{entry.path} is not a parameter"
    return Problem(entry.path, message, origin.file, origin.line, _suggestion(entry.keys))


def _suggestion(keys: tuple[str, ...]) -> str:
    """What was meant; where nothing is near, where to look."""
    meant = _meant(keys)
    if meant:
        return f"did you mean {meant}?"
    group = GROUPS.get(keys[0])
    if group is not None and len(keys) > 1:
        return f"{keys[0]} has {', '.join(group.model_fields)}"
    return f"docs/configuration.md lists them all, in the groups {', '.join(GROUPS)}"


def _meant(keys: tuple[str, ...]) -> str | None:
    """What a wrong key stands for: the right name in another group, a misspelt name or a misspelt group."""
    paths = {info.name: info.path for info in parameters()}
    name = keys[-1]
    if name in paths:
        return paths[name]
    if len(keys) == 1:
        found = nearest(name, [*paths, *GROUPS])
        return paths.get(found, found) if found else None
    group = nearest(keys[0], GROUPS)
    if group and (found := nearest(name, GROUPS[group].model_fields)):
        return f"{group}.{found}"
    found = nearest(name, paths)
    return paths[found] if found else None


def _refused_values(values: Mapping[str, Any], origins: Origins) -> Iterator[tuple[str, Problem]]:
    """Values of a wrong type or outside the hard limits."""
    for group, model in GROUPS.items():
        mine = {path.split(".")[1]: value for path, value in values.items() if path.split(".")[0] == group}
        try:
            model.model_validate(mine)
        except ValidationError as error:
            names = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors())
            for name in names:
                path = f"{group}.{name}"
                kinds = {d["type"] for d in error.errors() if str(d["loc"][0]) == name}
                origin = origins[path]
                info = parameter(path)
                assert info is not None  # the keys were checked
                message, hint = _explain(info, mine[name], kinds)
                yield path, Problem(path, message, origin.file, origin.line, hint)


_LIMIT_ERRORS = {"greater_than_equal", "greater_than", "less_than_equal", "less_than"}


def _explain(info: ParameterInfo, value: Any, kinds: set[str]) -> tuple[str, str]:
    said = f"{info.path} = {show(value)}"
    if kinds & _LIMIT_ERRORS:
        return f"{said} is out of range", f"it must be {range_text(info.hard_range)}"
    if "finite_number" in kinds:
        return f"{said} is not a finite number", ""
    words = [choice for choice in info.choices if isinstance(choice, str)]
    if words and isinstance(value, str):
        hint = did_you_mean(value, words) or "use one of " + ", ".join(show(choice) for choice in info.choices)
        return f"{said} is not one of its values", hint
    return f"{said} is {_kind(value)}", f"it must be {info.type}"


def _kind(value: Any) -> str:
    names = {bool: "a bool", int: "an int", float: "a float", str: "text", type(None): "null", dict: "a mapping"}
    return names.get(type(value), "a list" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}")


def _construct(preset: str | None, values: Mapping[str, Any]) -> Config:
    groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for path, value in values.items():
        group, name = path.split(".")
        groups[group][name] = value
    built: dict[str, Any] = {group: GROUPS[group].model_validate(mine) for group, mine in groups.items()}
    return Config(preset=preset, **built)


def value_at(config: Config, path: str) -> Any:
    """The value of ``group.name``."""
    group, name = path.split(".")
    return getattr(getattr(config, group), name)


def _unavailable(config: Config, origins: Origins) -> Iterator[Problem]:
    for info in parameters():
        value = value_at(config, info.path)
        if info.allows(value):
            continue
        origin = origins.get(info.path, Origin())
        message = f"{info.path} = {show(value)} is not available yet"
        yield Problem(
            info.path, message, origin.file, origin.line, "use " + ", ".join(show(item) for item in info.values_so_far)
        )


def _broken_rules(config: Config, origins: Origins, skip: set[str]) -> Iterator[Problem]:
    for entry in RULES:
        if skip.intersection(entry.paths):
            continue
        found = entry.broken(config)
        if found is not None:
            # The value that was written last is the one to change: a file over a preset, an override over both.
            origin = max((origins.get(path, Origin(rank=-1)) for path in entry.paths), key=lambda item: item.rank)
            yield Problem(entry.paths[0], found[0], origin.file, origin.line, found[1])


def warnings_of(config: Config) -> list[str]:
    """One line for each value outside its typical range; such a configuration works, but few people want it."""
    lines = []
    for info in parameters():
        value = value_at(config, info.path)
        if info.typical is None or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        low, high = info.typical
        if not low <= value <= high:
            lines.append(f"{info.path} = {show(value)} is outside its typical range, {show(low)} to {show(high)}")
    return lines
