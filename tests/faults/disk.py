"""What a power cut may leave of a run's folder, computed from the record of every operation on it.

The model is stricter than any real file system: content counts only after its file's fsync and a name only after its
folder's; of everything later any part, in any combination, is there, missing, or (a write) cut short. It knows files
and folders, not runs.
"""

from __future__ import annotations

import itertools
import random
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

NAMES = frozenset({"mkdir", "create", "rename", "link", "unlink", "rmtree"})


@dataclass
class Tree:
    """Folders and files by number; number 0 is the run's folder."""

    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    files: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> Tree:
        return Tree({number: dict(names) for number, names in self.folders.items()}, dict(self.files))

    def find(self, path: PurePosixPath) -> int | None:
        number: int | None = 0
        for part in path.parts:
            number = self.folders.get(number, {}).get(part) if number is not None else None
        return number

    def contents(self) -> dict[str, bytes | None]:
        """Path → content, None for a folder, of everything that can be reached."""
        found: dict[str, bytes | None] = {}

        def walk(number: int, prefix: str) -> None:
            for name, child in sorted(self.folders[number].items()):
                if child in self.folders:
                    found[prefix + name] = None
                    walk(child, f"{prefix}{name}/")
                else:
                    found[prefix + name] = self.files.get(child, b"")

        walk(0, "")
        return found


@dataclass(frozen=True)
class Change:
    """One thing that a later fsync makes durable: bytes of a file, or names in folders."""

    file: int | None = None
    data: bytes = b""
    touches: frozenset[int] = frozenset()
    gone: tuple[int, str] | None = None
    made: tuple[int, str, int] | None = None
    folder: bool = False

    def apply(self, tree: Tree, share: float = 1.0) -> None:
        if self.file is not None:
            tree.files[self.file] = tree.files.get(self.file, b"") + self.data[: int(len(self.data) * share)]
        if self.gone is not None:
            tree.folders.get(self.gone[0], {}).pop(self.gone[1], None)
        if self.made is not None:
            parent, name, number = self.made
            tree.folders.setdefault(parent, {})[name] = number
            if self.folder:
                tree.folders.setdefault(number, {})
            elif number not in tree.folders:
                tree.files.setdefault(number, b"")


class Disk:
    """Replays recorded operations; `live` is what the process saw, `durable` what no power cut takes."""

    def __init__(self, root: Path, base: dict[str, bytes | None]) -> None:
        self.root = root
        self.live = Tree()
        self._numbers = itertools.count(1)
        for name, content in sorted(base.items()):
            path = PurePosixPath(name)
            parent, number = self.live.find(path.parent), next(self._numbers)
            assert parent is not None
            self.live.folders[parent][path.name] = number
            if content is None:
                self.live.folders[number] = {}
            else:
                self.live.files[number] = content
        self.durable = self.live.copy()
        self.pending: list[Change] = []

    def do(self, operation: dict[str, Any]) -> None:
        """One operation, complete."""
        kind, path = operation["kind"], self._relative(operation["path"])
        if path is None:
            return
        if kind in ("write", "append"):
            self._later(Change(file=self._number(path), data=b64decode(operation["data"])))
        elif kind == "fsync":
            self._settle(lambda change: change.file == self._number(path))
        elif kind == "fsync_dir":
            self._settle(lambda change: self._number(path) in change.touches)
        elif kind == "truncate":
            number = self._number(path)
            self._settle(lambda change: change.file == number)
            for tree in (self.live, self.durable):
                tree.files[number] = tree.files[number][: operation["length"]]
        elif kind in NAMES:
            change = self._renaming(kind, path, operation["source"])
            if change is not None:
                self._later(change)
        else:
            raise AssertionError(f"the model does not know the operation {kind}")

    def states(self, limit: int, chance: random.Random) -> Iterator[dict[str, bytes | None]]:
        """What a power cut now may leave: every combination, or a seeded `limit` of them (none and all among them)."""
        choices = [(0.0, 0.5, 1.0) if change.file is not None else (0.0, 1.0) for change in self.pending]
        count = 1
        for each in choices:
            count *= len(each)
        if count <= limit:
            chosen = list(itertools.product(*choices))
        else:
            chosen = [tuple(chance.choice(each) for each in choices) for _ in range(limit - 2)]
            chosen += [tuple(0.0 for _ in choices), tuple(1.0 for _ in choices)]
        for shares in chosen:
            tree = self.durable.copy()
            for change, share in zip(self.pending, shares, strict=True):
                if share > 0:
                    change.apply(tree, share)
            yield tree.contents()

    def _later(self, change: Change) -> None:
        change.apply(self.live)
        self.pending.append(change)

    def _settle(self, durable: Any) -> None:
        for change in [change for change in self.pending if durable(change)]:
            change.apply(self.durable)
        self.pending = [change for change in self.pending if not durable(change)]

    def _renaming(self, kind: str, path: PurePosixPath, source: str | None) -> Change | None:
        parent = self._number(path.parent)
        if kind in ("unlink", "rmtree"):
            return Change(touches=frozenset({parent}), gone=(parent, path.name))
        if kind in ("mkdir", "create"):
            made = (parent, path.name, next(self._numbers))
            return Change(touches=frozenset({parent}), made=made, folder=kind == "mkdir")
        origin = self._relative(source or "")
        assert origin is not None
        number, old = self.live.find(origin), self.live.find(origin.parent)
        if number is None or old is None:
            return None  # laid there by another process
        gone = (old, origin.name) if kind == "rename" else None
        return Change(touches=frozenset({parent, old}), gone=gone, made=(parent, path.name, number))

    def _number(self, path: PurePosixPath) -> int:
        found = self.live.find(path)
        assert found is not None, f"{path} was never made through the seam"
        return found

    def _relative(self, path: str) -> PurePosixPath | None:
        return PurePosixPath(Path(path).relative_to(self.root)) if Path(path).is_relative_to(self.root) else None


def picture(root: Path) -> dict[str, bytes | None]:
    """A folder as `states` would give it."""
    found: dict[str, bytes | None] = {}
    for path in sorted(root.rglob("*")):
        found[str(path.relative_to(root))] = None if path.is_dir() else path.read_bytes()
    return found


def lay_out(contents: dict[str, bytes | None], root: Path) -> None:
    """Makes such a folder."""
    root.mkdir(parents=True)
    for name, content in sorted(contents.items()):
        if content is None:
            (root / name).mkdir(exist_ok=True)
        else:
            (root / name).write_bytes(content)
