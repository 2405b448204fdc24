"""A disk that fails: the store's one fault seam, for the length of a `with`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lumina.store import atomic


@contextmanager
def full_disk(operation: str, *, within: str = "checkpoint", name: str = "") -> Iterator[list[Path]]:
    """Every such operation on a path with `within` in it (and whose name has `name`) fails; yields what did."""
    failed: list[Path] = []

    def hook(kind: str, path: Path) -> None:
        if kind == operation and within in str(path) and name in path.name:
            failed.append(path)
            raise OSError(28, "No space left on device", str(path))

    before, atomic.fault_hook = atomic.fault_hook, hook
    try:
        yield failed
    finally:
        atomic.fault_hook = before
