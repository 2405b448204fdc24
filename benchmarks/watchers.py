"""What watching costs: the step time of a live run with and without readers, and with its database locked.

`python benchmarks/watchers.py` alternates quiet stretches with disturbed ones on one run and prints, for each kind of
disturbance, the median step time of every pair and the median of their ratios. It also counts what was lost.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import lumina
from lumina import views
from lumina.client import Run
from lumina.store.layout import RunPaths

READERS = 8
POLL_SECONDS = 1.0  # what an open tab of the dashboard does
Disturbance = Callable[[RunPaths], AbstractContextManager[None]]


def read_on_and_on(root: str) -> None:
    """One open tab: everything once, then what is new."""
    cursor = None
    while True:
        cursor = views.live(RunPaths(Path(root)), cursor)["cursor"]
        time.sleep(POLL_SECONDS)


@contextmanager
def readers(paths: RunPaths) -> Iterator[None]:
    """Eight processes that poll like eight tabs."""
    context = multiprocessing.get_context("spawn")
    tabs = [context.Process(target=read_on_and_on, args=(str(paths.root),), daemon=True) for _ in range(READERS)]
    for tab in tabs:
        tab.start()
    time.sleep(5.0)  # their imports are not what is measured
    try:
        yield
    finally:
        for tab in tabs:
            tab.terminate()
            tab.join()


@contextmanager
def locked(paths: RunPaths) -> Iterator[None]:
    """Another process's write lock on the database."""
    other = sqlite3.connect(paths.database, isolation_level=None, timeout=30.0)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def compare(run: Run, disturb: Disturbance, pairs: int, seconds: float) -> list[tuple[float, float]]:
    """Median step time (quiet, disturbed) of each pair."""
    found = []
    for _ in range(pairs):
        first = newest_step(run)
        time.sleep(seconds)
        second = newest_step(run)
        with disturb(run.paths):
            begun = newest_step(run)
            time.sleep(seconds)
            ended = newest_step(run)
        time.sleep(2.0)
        series = dict(run.metrics(["step_seconds"]).iter_rows())
        quiet = [series[step] for step in range(first + 1, second + 1)]
        disturbed = [series[step] for step in range(begun + 1, ended + 1)]
        found.append((statistics.median(quiet), statistics.median(disturbed)))
    return found


def newest_step(run: Run) -> int:
    """The step that the run is at, by its own answer: the database may be locked."""
    return int(run.unpause().wait(check=True)["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each stretch (%(default)s)")
    parser.add_argument("--threads", type=int, help="threads of the trainer (default: its own choice)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"num_threads": options.threads} if options.threads else {}
        run = lumina.start(
            "debug", name="watched", steps=1_000_000, directory=folder, eval_interval=1_000_000, **settings
        )
        while (run.status()["step"] or 0) < 20:
            time.sleep(0.5)
        for name, disturb in (("8 readers", readers), ("database locked", locked)):
            pairs = compare(run, disturb, options.pairs, options.seconds)
            for quiet, disturbed in pairs:
                print(f"{name:16} {1000 * quiet:8.1f} ms -> {1000 * disturbed:8.1f} ms   {disturbed / quiet:.3f}x")
            print(f"{name:16} median ratio {statistics.median(b / a for a, b in pairs):.3f}x", flush=True)
        run.stop().wait(check=True)
        run.wait(60)
        steps = run.metrics(["loss"])["step"].to_list()
        missing = set(range(1, run.status()["step"] + 1)) - set(steps)
        print(
            f"{len(steps)} steps, {len(missing)} without a stored loss, {run.status()['dropped_points']} points dropped"
        )


if __name__ == "__main__":
    main()
