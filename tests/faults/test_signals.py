"""Signals at any moment, also while a checkpoint is written: a save and an end, an end at once, or a save and on."""

from __future__ import annotations

import random
import signal
import time

from faults.lab import STEPS, Lab, assert_same, log_of, manifests, outcome
from faults.matrix import SEED, Tally, often, row
from lumina.client import Run
from lumina.store.journal import read_entries
from lumina.store.layout import RunPaths

ORDERLY = (signal.SIGTERM, signal.SIGINT)


def stopped_in_order(paths: RunPaths, code: int | None) -> int:
    """It saved at its last step and says that it was stopped; returns that step."""
    assert code == 0, log_of(paths)
    last = read_entries(paths)[-1]
    assert (last.type, last.doc["state"]) == ("end", "stopped")
    assert Run(paths).status()["state"] == "stopped"
    assert manifests(paths)[-1]["step"] == last.step
    return last.step


@row(
    "SIGTERM, or SIGINT once",
    injected="the signal just before a seeded step",
    expected="the batch is finished and saved, the run is stopped; resumed, the same bits and series",
)
def test_an_orderly_stop(lab: Lab, tally: Tally) -> None:
    chance = random.Random(SEED)
    for number in range(often(4, 40)):
        step = chance.randint(1, STEPS - 1)
        paths = lab.create()
        life = lab.live(paths, ("signal_at_step", {"step": step, "signals": [int(ORDERLY[number % 2])]}))
        assert stopped_in_order(paths, life.code) == step
        tally.tried()
        assert_same(lab.finish(paths), lab.undisturbed())


@row(
    "SIGINT twice",
    injected="two SIGINT just before a seeded step",
    expected="ends at once, without a save; resumed, the same bits and series",
)
def test_an_end_at_once(lab: Lab, tally: Tally) -> None:
    chance = random.Random(SEED)
    for _ in range(often(2, 20)):
        step = chance.randint(2, STEPS - 1)
        paths = lab.create()
        life = lab.live(paths, ("signal_at_step", {"step": step, "signals": [int(signal.SIGINT)] * 2}))
        assert life.code not in (0, None)
        assert all(manifest["step"] < step for manifest in manifests(paths))
        assert Run(paths).status()["state"] in ("crashed", "failed", "stopped")
        tally.tried()
        assert_same(lab.finish(paths), lab.undisturbed())


@row(
    "SIGTERM or SIGINT while a checkpoint is written",
    injected="the signal before a seeded operation of a checkpoint",
    expected="that checkpoint is finished, the run is saved and stopped; resumed, the same bits",
)
def test_a_stop_within_a_save(lab: Lab, tally: Tally) -> None:
    chance = random.Random(SEED)
    for number in range(often(3, 30)):
        send = {"within": "checkpoints", "number": chance.randint(1, 20), "signals": [int(ORDERLY[number % 2])]}
        paths = lab.create()
        life = lab.live(paths, ("signal_at_operation", send))
        assert len(life.hits) == 1
        stopped_in_order(paths, life.code)
        tally.tried()
        assert_same(lab.finish(paths), lab.undisturbed())


@row(
    "SIGTERM before the first step",
    injected="the signal a seeded time after the start, while the run is prepared",
    expected="the run is stopped before or after its first steps; resumed, the same bits",
)
def test_a_stop_before_the_first_step(lab: Lab, tally: Tally) -> None:
    chance = random.Random(SEED)
    for _ in range(often(2, 20)):
        paths = lab.create()
        life = lab.start(paths, ("slow_steps", {"seconds": 0.05}))
        time.sleep(chance.uniform(0.0, 0.3))
        life.signal(signal.SIGTERM)
        assert life.wait() in (0, -signal.SIGTERM), log_of(paths)
        tally.tried()
        assert_same(lab.finish(paths), lab.undisturbed())


@row(
    "SIGUSR1 in bursts",
    injected="bursts of 50 signals before seeded steps, and at seeded operations of a checkpoint",
    expected="saved, training goes on; same bits and series",
)
def test_bursts_of_saves(lab: Lab, tally: Tally) -> None:
    chance = random.Random(SEED)
    burst = [int(signal.SIGUSR1)] * 50
    for _ in range(often(2, 15)):
        step = chance.randint(1, STEPS - 1)
        within = {"within": "checkpoints", "number": chance.randint(1, 20), "signals": burst}
        paths = lab.create()
        life = lab.live(
            paths, ("signal_at_step", {"step": step, "signals": burst}), ("signal_at_operation", within)
        )  # fmt: skip
        assert life.code == 0, log_of(paths)
        assert len(life.hits) == 2
        saved = [entry for entry in read_entries(paths) if entry.type == "checkpoint"]
        assert any(entry.doc["step"] >= step for entry in saved), (
            "asked for at that step, and at the latest the next one"
        )
        tally.tried(100)
        assert_same(outcome(paths), lab.undisturbed())


@row(
    "the process suspended",
    injected="SIGSTOP at a seeded moment, SIGCONT a second later",
    expected="training goes on; same bits and series",
)
def test_a_suspended_process(lab: Lab, tally: Tally) -> None:
    chance = random.Random(SEED)
    for _ in range(often(1, 5)):
        paths = lab.create()
        life = lab.start(paths, ("slow_steps", {"seconds": 0.05}))
        time.sleep(chance.uniform(0.05, 0.5))
        life.signal(signal.SIGSTOP)
        time.sleep(1.0)
        life.signal(signal.SIGCONT)
        assert life.wait() == 0, log_of(paths)
        tally.tried()
        assert_same(outcome(paths), lab.undisturbed())
