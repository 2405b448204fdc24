"""Makes a configuration from a preset or a YAML file and overrides, or says all that is wrong with it.
Knows nothing of runs; the rules themselves are in `validate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os.path import abspath, expanduser
from pathlib import Path
from typing import Any

import yaml

from lumina.config.parameters import parameter, paths_of
from lumina.config.presets import list_presets, preset_path
from lumina.config.problems import ConfigError, Problem, did_you_mean
from lumina.config.schema import GROUPS, Config
from lumina.config.source import Entry, Origin, parse_scalar, read_entries
from lumina.config.validate import build, value_at

Overrides = Sequence[str] | Mapping[str, Any]
DEFAULT_PRESET = "debug"
_PATH_LISTS = ("data.base_paths", "data.finetuning_paths", "data.base_eval_paths", "data.finetuning_eval_paths")


def load_preset(name: str) -> Config:
    """The configuration of a preset; raises ConfigError for a name that there is not."""
    return load_config(name)


def load_config(source: str | Path | None = None, overrides: Overrides = ()) -> Config:
    """A configuration from a preset's name or a YAML file (None: the `debug` preset), with overrides on top.

    A YAML file may name the preset that it starts from (``preset: b1``). Overrides are ``"group.name=value"`` texts,
    with values read as YAML, or a mapping with Python values; a name that only one group has may stand alone
    (``"batch_size=4"``). Paths of data become absolute, so that a resume from another folder finds them.

    Raises ConfigError with every problem at once.
    """
    problems: list[Problem] = []
    preset, entries = _read_source(str(source) if source is not None else DEFAULT_PRESET, problems)
    entries += _override_entries(overrides, problems)
    config, found = build(preset, entries)
    if problems + found:
        raise ConfigError(problems + found)
    return _with_absolute_paths(config)


def override(config: Config, overrides: Overrides) -> Config:
    """A copy of `config` with some values replaced, checked as a whole; raises ConfigError."""
    problems: list[Problem] = []
    entries = _entries_of(config) + _override_entries(overrides, problems)
    changed, found = build(config.preset, entries)
    if problems + found:
        raise ConfigError(problems + found)
    return _with_absolute_paths(changed)


def dump_config(config: Config) -> str:
    """All values as YAML that `read_config` takes back unchanged."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_config(path: str | Path) -> Config:
    """The configuration in a run's ``config.yaml``, where ``preset`` is a label only; raises ConfigError."""
    preset, entries = _read_file(str(path))
    config, problems = build(preset, entries)
    if problems:
        raise ConfigError(problems)
    return config


def _read_source(source: str, problems: list[Problem]) -> tuple[str | None, list[Entry]]:
    if source in list_presets():
        return source, _read_preset(source)
    if not _looks_like_file(source):
        hint = did_you_mean(source, list_presets()) or "use " + ", ".join(list_presets()) + ", or a YAML file"
        problems.append(Problem("preset", f"{source} is not a preset", hint=hint))
        return None, []
    preset, entries = _read_file(source)
    if preset is None:
        return None, entries
    if preset not in list_presets():
        hint = did_you_mean(preset, list_presets()) or "use " + ", ".join(list_presets())
        problems.append(Problem("preset", f"{preset} is not a preset", source, None, hint))
        return None, entries
    return preset, _read_preset(preset) + entries


def _looks_like_file(source: str) -> bool:
    return Path(source).suffix in (".yaml", ".yml") or "/" in source or Path(source).is_file()


def _read_preset(name: str) -> list[Entry]:
    path = preset_path(name)
    assert path is not None  # the caller looked it up
    entries = read_entries(path.read_text(encoding="utf-8"), f"presets/{name}.yaml", rank=0)
    return [entry for entry in entries if entry.keys[0] != "about"]


def _read_file(file: str) -> tuple[str | None, list[Entry]]:
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem("", f"cannot read {file}: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("", f"not UTF-8 at byte {error.start}", file)]) from error
    entries = read_entries(text, file, rank=1)
    preset = next((entry.value for entry in entries if entry.keys == ("preset",)), None)
    return (None if preset is None else str(preset)), [entry for entry in entries if entry.keys != ("preset",)]


def _override_entries(overrides: Overrides, problems: list[Problem]) -> list[Entry]:
    origin = Origin(rank=2)
    entries = []
    for key, value in _pairs(overrides, problems):
        path = _full_path(key)
        entries.append(Entry(tuple(path.split(".")), value, origin))
    return entries


def _pairs(overrides: Overrides, problems: list[Problem]) -> Iterable[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        yield from _flatten(overrides)
        return
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            problems.append(Problem(text, f"{text!r} is not of the form key=value"))
            continue
        try:
            yield key.strip(), parse_scalar(value)
        except ValueError as error:
            problems.append(Problem(key.strip(), f"{key.strip()} has a value that is not YAML: {error}"))


def _flatten(overrides: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """``{"training": {"batch_size": 4}}`` and ``{"training.batch_size": 4}`` say the same."""
    for key, value in overrides.items():
        if key in GROUPS and isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


def _full_path(key: str) -> str:
    if "." in key or parameter(key) is not None:
        return key
    paths = paths_of(key)
    return paths[0] if len(paths) == 1 else key


def _entries_of(config: Config) -> list[Entry]:
    return [
        Entry((group, name), value_at(config, f"{group}.{name}"), Origin())
        for group, model in GROUPS.items()
        for name in model.model_fields
    ]


def _with_absolute_paths(config: Config) -> Config:
    changed: dict[str, Any] = {}
    for path in _PATH_LISTS:
        changed[path.split(".")[1]] = tuple(
            item if item.startswith("hf:") else abspath(expanduser(item)) for item in value_at(config, path)
        )
    if config.data.tokenizer not in ("bpe", "bytes"):
        changed["tokenizer"] = abspath(expanduser(config.data.tokenizer))
    return config.model_copy(update={"data": config.data.model_copy(update=changed)})
