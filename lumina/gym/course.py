"""Runs many cells on a few processes; every finished one is written at once, and not trained again.

It knows which cells a table needs and in which order; what they are worth is not its business.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lumina.gym.cell import run_cell
from lumina.gym.plan import Cell
from lumina.launch import trainer_environment
from lumina.store import atomic

WATCHED = ("orchestrator", "interventions")  # sources that decide what `auto` does
LUMINA = Path(__file__).parents[1]


@dataclass(frozen=True)
class Progress:
    """Where a course stands; `eta_seconds` is by steps, since cells differ in length."""

    done: int
    total: int
    eta_seconds: float | None
    newest: str


class Shelf:
    """The results of a course on disk, one file per cell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._code = _code_of(WATCHED)

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """The result of a cell, if it came to an end, and under the orchestrator of this checkout."""
        path = self._path(cell)
        if not path.exists():
            return None
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if str(document["status"]).startswith("failed"):
            return None  # it may have been the machine, or a bug that is mended
        return document if cell.method != "auto" or document.get("code") == self._code else None

    def put(self, cell: Cell, document: dict[str, Any]) -> None:
        text = json.dumps({**document, "code": self._code}, allow_nan=False)
        atomic.write_file(self._path(cell), text.encode())

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.key}.json"


def run(wanted: Sequence[Cell], shelf: Shelf, *, jobs: int, fresh: bool = False,
        tell: Callable[[Progress], None] = lambda _: None) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The results of all cells, by key: from the shelf, or trained now on `jobs` processes of one thread each."""
    results: dict[str, dict[str, Any]] = {}
    todo: list[Cell] = []
    for cell in wanted:
        kept = None if fresh else shelf.get(cell)
        if kept is None:
            todo.append(cell)
        else:
            results[cell.key] = kept
    started, steps, left = time.monotonic(), 0, sum(cell.steps for cell in todo)
    for cell, document in _trained(todo, jobs):
        shelf.put(cell, document)
        results[cell.key] = document
        steps, left = steps + cell.steps, left - cell.steps
        eta = (time.monotonic() - started) / steps * left
        what = f"{cell.scenario}, {cell.method}, seed {cell.seed}: {document['status']}"
        tell(Progress(len(results), len(wanted), eta, what))
    return results


def _trained(todo: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Cells as they are finished; the longest first, so that no process is left alone with one at the end."""
    if not todo:
        return
    ordered = sorted(todo, key=lambda cell: -cell.steps)
    if jobs <= 1:
        for cell in ordered:
            yield cell, run_cell(cell)
        return
    _share_the_machine()
    with ProcessPoolExecutor(min(jobs, len(ordered)), mp_context=get_context("spawn")) as pool:
        waiting: dict[Future[dict[str, Any]], Cell] = {pool.submit(run_cell, cell): cell for cell in ordered}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _share_the_machine() -> None:
    """What the trainer's own process gets at its start; here the processes inherit it."""
    os.environ.update({**trainer_environment(os.environ), "OMP_NUM_THREADS": "1"})


def _code_of(packages: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((LUMINA / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
