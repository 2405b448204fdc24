"""Which files stand behind paths, folders, patterns and names of the Hugging Face hub.

It knows names and folders; it must not read what is in a file.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lumina.data.report import DataError
from lumina.data.streams import CODECS

TEXT = (".txt", ".md")
LINES = (".jsonl", ".ndjson")
VALUES = (".json",)
TABLES = (".parquet", ".arrow")
SHOWN = ".txt, .md, .jsonl, .json (each also .gz, .zst, .bz2), .parquet or .arrow"
_NOT_DATA = frozenset({
    "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "package.json", "package-lock.json",
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
})  # fmt: skip
_TABLE_TEXT = (".csv", ".tsv", ".xlsx", ".xls")
_HUB = "hf:"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def format_of(path: Path) -> str | None:
    """`jsonl`, `txt.gz`, `parquet` ...: what the name says, or None for a kind of file that is not read."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in CODECS:
        inner = suffixes[0] if len(suffixes) == 2 else ""
        return f"{inner[1:]}{suffixes[-1]}" if inner in (*TEXT, *LINES, *VALUES) else None
    return suffixes[-1][1:] if suffixes and suffixes[-1] in (*TEXT, *LINES, *VALUES, *TABLES) else None


def expand(paths: Iterable[str | Path]) -> list[Path]:
    """Files behind paths, folders, patterns and hub names, sorted and without repeats.

    Raises `DataError`: missing, of an unknown kind, a folder with nothing to read, or a hub name without a network.
    """
    found: dict[Path, None] = {}
    for given in paths:
        try:
            found.update(dict.fromkeys(_behind(str(given))))
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror or error})", error.filename or str(given)) from error
    return list(found)


def _behind(given: str) -> list[Path]:
    if not given.strip():
        raise DataError("a path is empty")
    path = Path(given)
    if given.startswith(_HUB) or _is_hub_name(given):
        from lumina.data.hub import fetched

        return _inside(fetched(given.removeprefix(_HUB)))
    if path.is_dir():
        return _inside(path)
    if path.is_file():
        return [_readable(path)]
    if os.path.lexists(path):
        raise DataError("a link that leads nowhere" if path.is_symlink() else "not a regular file", given)
    matches = sorted(_matches(given)) if glob.has_magic(given) else []
    files = [match for match in matches if match.is_file()]
    if not files:
        raise DataError("there is no such file or folder" if not matches else "the pattern matches no file", given)
    return [_readable(match) for match in files]


def _is_hub_name(given: str) -> bool:
    """`owner/name` where neither is here: a name that could only be meant for the hub."""
    return bool(_HUB_NAME.fullmatch(given)) and not Path(given).suffix and not Path(given).parent.exists()


def _readable(path: Path) -> Path:
    if format_of(path) is not None:
        return path
    hint = f"use {SHOWN}"
    if path.suffix.lower() in _TABLE_TEXT:
        hint += "; a table becomes one with polars: read_csv(...).write_parquet(...)"
    raise DataError(f"unknown kind of file; {hint}", str(path))


def _inside(folder: Path) -> list[Path]:
    """What a folder has to read. A dataset saved by `datasets` names its files; of its splits, train is taken."""
    if (folder / "dataset_dict.json").is_file():
        train = folder / "train"
        if not train.is_dir():
            splits = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir()))
            raise DataError(f"this dataset has no train split; name one of its splits: {splits}", str(folder))
        return _inside(train)
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return _saved_dataset(folder)
    inside = sorted(path for path in walk(folder) if _belongs(path))
    if not inside:
        raise DataError(f"no readable files in this folder; use {SHOWN}", str(folder))
    return inside


def _saved_dataset(folder: Path) -> list[Path]:
    try:
        names = [str(entry["filename"]) for entry in json.loads((folder / "state.json").read_text())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"not a folder that datasets saved ({error})", str(folder / "state.json")) from error
    # Names with folders in them would lead out of this one.
    return [folder / Path(name).name for name in names]


def _belongs(path: Path) -> bool:
    """Whether a file found in a folder is taken: Markdown and descriptions of data are not, unless named."""
    return format_of(path) is not None and path.suffix.lower() != ".md" and path.name not in _NOT_DATA


def walk(folder: Path) -> Iterator[Path]:
    """Regular files below `folder`, links to folders followed, none twice; nothing whose name starts with a dot."""
    seen: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, onerror=_raised, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for name in names if not name.startswith(".") and (path := Path(root, name)).is_file())


def _raised(error: OSError) -> None:
    raise error


def _matches(pattern: str) -> Iterator[Path]:
    if "**" not in pattern:
        yield from map(Path, glob.iglob(pattern))
        return
    # Not glob's own **, which follows links in circles.
    start = start_of(pattern)
    wanted = re.compile(_regex(pattern))
    yield from (path for path in walk(start) if start.is_dir() and wanted.fullmatch(str(path)))


def start_of(pattern: str) -> Path:
    """The part of a pattern that is no pattern: all that it matches lies there or below."""
    parts = list[str]()
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*(parts or ["."]))


def _regex(pattern: str) -> str:
    """A pattern with ** as a regular expression on whole paths."""
    pieces = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", str(Path(pattern)), re.DOTALL)
    return "".join(pieces.get(t) or (t.replace("[!", "[^") if t.startswith("[") and len(t) > 1 else re.escape(t))
                   for t in tokens)  # fmt: skip
