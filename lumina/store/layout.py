"""Where everything in a run directory lies, and which names a run may have.

It knows paths only: it neither opens nor interprets any of the files it names.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lumina.store import atomic
from lumina.store.errors import Refusal

_RUN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class RunPaths:
    """The files of one run; `root` is `experiments/<name>`."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def database(self) -> Path:
        return self.root / "run.sqlite"

    @property
    def inbox(self) -> Path:
        return self.root / "inbox"

    @property
    def done(self) -> Path:
        return self.inbox / "done"

    @property
    def quarantine(self) -> Path:
        return self.inbox / "quarantine"

    @property
    def log(self) -> Path:
        return self.root / "logs" / "training.log"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def lock(self) -> Path:
        return self.root / "run.lock"

    @property
    def launch(self) -> Path:
        """What was known when the run was created (name, parent, author, time), as JSON."""
        return self.root / "launch.json"

    def make_folders(self) -> None:
        """Create every folder of a run that does not exist yet."""
        for folder in (self.done, self.quarantine, self.log.parent, self.metrics, self.tensorboard, self.checkpoints):
            atomic.make_folder(folder)

    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return any(path.is_file() for path in (self.config, self.journal, self.database))


def new_id() -> str:
    """A fresh id for a command, proposal, segment or receipt: uuid4 in hexadecimal."""
    return uuid.uuid4().hex


def is_id(text: object) -> bool:
    """Whether `text` is an id; only such text ever becomes part of a file name."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def check_run_name(name: str) -> str:
    """Return `name` if a run may have it, else raise `Refusal('bad_argument')`."""
    if _RUN_NAME.fullmatch(name) is None or ".." in name:
        raise Refusal(
            "bad_argument",
            f"run name {name!r} is not allowed: use 1 to 100 letters, digits, '.', '_' and '-', "
            "not starting with '.' or '-', without '/' and '..'",
        )
    return name


def find_run(name_or_path: str | Path, directory: str | Path = "experiments") -> RunPaths:
    """The run of that name under `directory`, or the run whose folder is that path; else `Refusal('not_found')`."""
    text = str(name_or_path)
    candidates = [Path(text).expanduser()]
    if _RUN_NAME.fullmatch(text) is not None and ".." not in text:
        candidates.insert(0, Path(directory) / text)
    for candidate in candidates:
        paths = RunPaths(candidate.resolve())
        if paths.exists():
            return paths
    raise Refusal("not_found", f"no run {text!r} under {Path(directory)} ({_known_runs(Path(directory))})")


def run_folders(directory: str | Path) -> list[RunPaths]:
    """Every run under `directory`, sorted by name; a missing directory has none."""
    folder = Path(directory)
    if not folder.is_dir():
        return []
    found = (RunPaths(entry.resolve()) for entry in sorted(folder.iterdir()) if entry.is_dir())
    return [paths for paths in found if paths.exists()]


def _known_runs(directory: Path, limit: int = 8) -> str:
    # A person's own runs first: replays and rehearsals are named after theirs.
    names = sorted((paths.name for paths in run_folders(directory)), key=lambda name: ("." in name, name))
    if not names:
        return "there are none"
    return "there are: " + ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
