"""kill -9, at every place where it could hurt: the run goes on as if nothing had happened."""

from __future__ import annotations

import random
import signal
import time
from typing import Any

import pytest

from faults.lab import STEPS, Lab, Life, assert_same, intervene, manifests, outcome
from faults.matrix import SEED, Tally, often, row
from lumina.checkpoint import load_checkpoint, state_hash
from lumina.store.journal import read_entries
from lumina.store.layout import RunPaths

SHORT: dict[str, Any] = {"training.max_steps": 9, "save_every_n_batches": 3, "checkpoint.save_total_limit": 1}


def confirmed(life: Life) -> dict[str, Any]:
    """The one thing that the kill hit."""
    assert life.wait() == -9, "the trainer was not killed"
    assert len(life.hits) == 1
    return life.hits[0]


def check_whole(paths: RunPaths) -> None:
    """Every checkpoint that can be seen is whole, and the journal can be read."""
    for manifest in manifests(paths):
        state, found, attempts = load_checkpoint(paths.checkpoints, manifest["step"])
        assert len(attempts) == 1
        assert state_hash(state) == found.state_hash
    read_entries(paths)


@row(
    "kill -9 at random places of random steps",
    injected="SIGKILL at a seeded call of a function inside a seeded step, five times in one run",
    expected="each resume goes on; in the end the same bits and series, every step once",
)
@pytest.mark.parametrize("case", range(often(2, 12)))
def test_killed_at_random_places(lab: Lab, tally: Tally, case: int) -> None:
    chance = random.Random(SEED + case)
    paths = lab.create()
    for step in sorted(chance.sample(range(1, STEPS + 1), 5)):
        life = lab.start(paths, ("kill_in_step", {"step": step, "call": chance.randint(1, 400)}))
        confirmed(life)
        tally.tried()
        check_whole(paths)
    assert_same(lab.finish(paths), lab.undisturbed())


@row(
    "kill -9 from outside at random moments",
    injected="SIGKILL after a seeded time, from start-up to the end, until one life reaches the end",
    expected="each resume goes on; in the end the same bits and series, every step once",
)
@pytest.mark.parametrize("case", range(often(1, 10)))
def test_killed_from_outside(lab: Lab, tally: Tally, case: int) -> None:
    chance = random.Random(SEED + case)
    paths, killed = lab.create(), 0
    while killed < 5:
        life = lab.start(paths, ("slow_steps", {"seconds": 0.05}))  # so that it lasts longer than the longest wait
        time.sleep(chance.uniform(0.02, 0.5))
        life.signal(signal.SIGKILL)
        if life.wait() == 0:
            break
        killed += 1
        check_whole(paths)
    tally.tried(killed)
    assert_same(lab.finish(paths) if killed else lab.undisturbed(), lab.undisturbed())


def at_every(lab: Lab, tally: Tally, within: str, short: int, seed: int) -> None:
    """Kills a fresh run at each operation (the short form: at a seeded few), and in the middle of each write."""
    asked = intervene("adjust_routing_temperature", temperature=1.5)
    expected = lab.undisturbed(asked, **SHORT)
    counted = lab.live(lab.create(asked, **SHORT), ("count_operations", {"within": within})).hits
    writes = sum(hit["kind"] in ("write", "append") for hit in counted)
    tally.figure(f"{len(counted)} operations, {writes} writes")
    faults = [("kill_at_operation", {"within": within, "number": n + 1}) for n in range(len(counted))]
    faults += [("tear_at_operation", {"within": within, "number": n + 1, "share": 0.5}) for n in range(writes)]
    missed = 0
    for fault in random.Random(seed).sample(faults, min(len(faults), often(short, len(faults)))):
        paths = lab.create(asked, **SHORT)
        life = lab.start(paths, fault)
        if life.wait() == 0:
            missed += 1  # the checkpoint's thread and the trainer's do not always do the same number of operations
        else:
            assert within in str(confirmed(life)["path"])
            tally.tried()
        check_whole(paths)
        assert_same(lab.finish(paths) if life.code else outcome(paths), expected)
    assert missed <= 2


@row(
    "kill -9 at every write of a checkpoint",
    injected="SIGKILL before each operation under checkpoints/, and in the middle of each write",
    expected="the old checkpoint or the new one, each whole; the run ends in the same bits",
)
def test_killed_at_every_write_of_a_checkpoint(lab: Lab, tally: Tally) -> None:
    at_every(lab, tally, "checkpoints", 10, SEED)


@row(
    "kill -9 at every write of the journal",
    injected="SIGKILL before each operation on journal.jsonl, and in the middle of each line",
    expected="a line is there whole or not at all; the run ends in the same bits",
)
def test_killed_at_every_write_of_the_journal(lab: Lab, tally: Tally) -> None:
    at_every(lab, tally, "journal.jsonl", 6, SEED + 1)


@row(
    "kill -9 at every change of a run's files",
    injected="SIGKILL before each operation on any file of the run (receipts, inbox, metrics, folders)",
    expected="the run ends in the same bits, the command was applied once",
)
def test_killed_at_every_change(lab: Lab, tally: Tally) -> None:
    at_every(lab, tally, "", 6, SEED + 2)
