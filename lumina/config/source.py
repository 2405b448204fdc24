"""Reads YAML into values that remember where they were written.
Knows nothing of what the keys mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from lumina.config.problems import ConfigError, Problem


@dataclass(frozen=True)
class Origin:
    """Where a value was written; `rank` orders the layers (preset 0, file 1, override 2): the higher one holds."""

    file: str | None = None
    line: int | None = None
    rank: int = 0


@dataclass(frozen=True)
class Entry:
    """One value of a configuration, addressed by its keys from the top."""

    keys: tuple[str, ...]
    value: Any
    origin: Origin

    @property
    def path(self) -> str:
        return ".".join(self.keys)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-3`` as text; here, as in YAML 1.2, it is a number."""


_Loader.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_scalar(text: str) -> Any:
    """The value of ``key=text`` on a command line, read as YAML (``null``, ``1e-3``, ``[1, 2]``); raises ValueError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def read_entries(text: str, file: str, *, rank: int, depth: int = 2) -> list[Entry]:
    """All values of a YAML mapping nested at most `depth` deep, each with its line.

    Raises ConfigError for text that is not YAML, is not a mapping, or says a key twice.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return []
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError([Problem("", "a configuration must be a mapping of groups", file, 1)])
        entries: list[Entry] = []
        problems: list[Problem] = []
        _walk(loader, root, (), Origin(file, None, rank), depth, entries, problems)
        if problems:
            raise ConfigError(problems)
        return entries
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError([Problem("", f"not YAML: {reason}", file, mark.line + 1 if mark else None)]) from error
    finally:
        loader.dispose()


def _walk(
    loader: _Loader,
    node: yaml.MappingNode,
    above: tuple[str, ...],
    origin: Origin,
    depth: int,
    entries: list[Entry],
    problems: list[Problem],
) -> None:
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = str(key_node.value)
        keys = (*above, key)
        if key in seen:
            message = f"{'.'.join(keys)} is written twice (first on line {seen[key]})"
            problems.append(Problem(".".join(keys), message, origin.file, line))
            continue
        seen[key] = line
        if isinstance(value_node, yaml.MappingNode) and len(keys) < depth:
            _walk(loader, value_node, keys, origin, depth, entries, problems)
        else:
            value = loader.construct_object(value_node, deep=True)
            entries.append(Entry(keys, value, Origin(origin.file, line, origin.rank)))
