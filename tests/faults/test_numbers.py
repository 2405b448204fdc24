"""Numbers that are none, numbers that explode, and memory that is not there."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from faults.lab import STEPS, Lab, assert_same, log_of, outcome
from faults.matrix import SEED, Tally, often, row
from lumina.checkpoint import CanonicalState, load_checkpoint
from lumina.client import Run
from lumina.store.journal import read_entries
from lumina.store.layout import RunPaths

EVERY_STEP: dict[str, Any] = {"save_every_n_batches": 1, "checkpoint.save_total_limit": 100}


def state_after(paths: RunPaths, step: int) -> CanonicalState:
    return load_checkpoint(paths.checkpoints, step)[0]


def moved(before: CanonicalState, after: CanonicalState) -> float:
    """The largest change of any weight."""
    return max(float((after.params[name] - before.params[name]).abs().max()) for name in before.params)


@row(
    "a batch whose loss is NaN or infinite",
    injected="the loss of a seeded step times NaN, or infinity",
    expected="no update is applied, the batch is recorded, training goes on; killed later and resumed, the same bits",
)
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_spoilt_batch(lab: Lab, tally: Tally, factor: float) -> None:
    chance = random.Random(SEED)
    for _ in range(often(1, 10)):
        step = chance.randint(2, STEPS - 2)
        spoil = ("spoil_loss", {"step": step, "factor": factor})
        paths = lab.create(**EVERY_STEP)
        life = lab.live(paths, spoil)
        assert life.code == 0, log_of(paths)
        assert len(life.hits) == 1
        tally.tried()
        assert moved(state_after(paths, step - 1), state_after(paths, step)) == 0.0
        assert moved(state_after(paths, step), state_after(paths, step + 1)) > 0.0
        skipped = [entry for entry in read_entries(paths) if entry.type == "batch_skipped"]
        assert [(entry.step, entry.doc["position"]) for entry in skipped] == [(step, (step - 1) * 4)]
        again = lab.create(**EVERY_STEP)
        assert lab.live(again, spoil, ("kill_in_step", {"step": step + 2, "call": 5})).code == -9
        assert_same(lab.finish(again), outcome(paths))


@row(
    "a gradient explosion",
    injected="the loss of a seeded step times 10^8",
    expected="seen in the series, clipped: no weight moves further than the learning rate allows; training goes on",
)
def test_an_explosion(lab: Lab, tally: Tally) -> None:
    chance = random.Random(SEED)
    for _ in range(often(1, 10)):
        step = chance.randint(3, STEPS - 2)
        paths = lab.create(**EVERY_STEP)
        life = lab.live(paths, ("spoil_loss", {"step": step, "factor": 1e8}))
        assert life.code == 0, log_of(paths)
        assert len(life.hits) == 1
        tally.tried()
        found = outcome(paths)
        norms = found.series["grad_norm"]["value"]
        assert norms[step - 1] > 1e5 * norms[step - 2]
        assert moved(state_after(paths, step - 1), state_after(paths, step)) < 0.02
        assert all(torch.isfinite(tensor).all() for tensor in state_after(paths, STEPS).params.values())
        assert found.steps == list(range(1, STEPS + 1))
        assert found.series["loss"]["value"][-1] < 8.0
        assert Run(paths).status()["state"] == "finished"


@row(
    "out of memory in forward, backward or the optimizer",
    injected="OutOfMemoryError in that phase for micro-batches of more than one sequence, from a seeded step on",
    expected="the step is repeated in halves on the same sequences, and journalled; killed and resumed, the same bits",
)
@pytest.mark.parametrize("phase", ["forward", "backward", "optimizer"])
def test_out_of_memory(lab: Lab, tally: Tally, phase: str) -> None:
    chance = random.Random(SEED)
    for _ in range(often(1, 8)):
        step = chance.randint(2, STEPS - 4)
        limit = ("limit_memory", {"step": step, "sequences": 1, "phase": phase})
        paths = lab.create()
        life = lab.live(paths, limit)
        assert life.code == 0, log_of(paths)
        assert [hit["step"] for hit in life.hits] == [step], "never tried so large again"
        tally.tried()
        splits = [entry for entry in read_entries(paths) if entry.type == "oom_split"]
        assert [(entry.step, entry.doc["after"]["batch_size"]) for entry in splits] == [(step - 1, 1)]
        found, plain = outcome(paths), lab.undisturbed()
        assert found.steps == plain.steps
        assert found.series["tokens"] == plain.series["tokens"], "as many sequences in each step as before"
        again = lab.create()
        assert lab.live(again, limit, ("kill_in_step", {"step": step + 2, "call": 5})).code == -9
        assert_same(lab.finish(again), found)


@row(
    "out of memory in validation",
    injected="OutOfMemoryError for a validation of more than one sequence at once, from a seeded step on",
    expected="begun anew in halves over the same sequences, and journalled; killed and resumed, the same bits",
)
def test_out_of_memory_in_validation(lab: Lab, tally: Tally) -> None:
    chance = random.Random(SEED)
    changes = {"eval_interval": 4, "eval_sequences": 4}
    for _ in range(often(1, 8)):
        step = chance.randint(2, STEPS - 6)
        limit = ("limit_memory", {"step": step, "sequences": 1, "phase": "validation"})
        paths = lab.create(**changes)
        life = lab.live(paths, limit)
        assert life.code == 0, log_of(paths)
        first = -(-step // 4) * 4
        assert [hit["step"] for hit in life.hits] == [first], "never tried so large again"
        tally.tried()
        splits = [entry for entry in read_entries(paths) if entry.type == "oom_split"]
        assert [(entry.step, entry.doc["after"]) for entry in splits] == [(first, {"validation_batch_size": 1})]
        found, plain = outcome(paths), lab.undisturbed(**changes)
        assert found.series["loss"] == plain.series["loss"], "training is not touched"
        assert found.series["val_loss"]["step"] == plain.series["val_loss"]["step"]
        assert found.series["val_loss"]["value"] == pytest.approx(plain.series["val_loss"]["value"], rel=1e-5)
        again = lab.create(**changes)
        assert lab.live(again, limit, ("kill_in_step", {"step": first + 2, "call": 5})).code == -9
        assert_same(lab.finish(again), found)


@row(
    "out of memory at batch size 1",
    injected="OutOfMemoryError for every micro-batch, from a seeded step on",
    expected="stops with advice and never loops; resumed with more memory, it ends",
)
def test_out_of_memory_for_good(lab: Lab, tally: Tally) -> None:
    chance = random.Random(SEED)
    for _ in range(often(1, 8)):
        step = chance.randint(2, STEPS - 4)
        paths = lab.create()
        life = lab.live(paths, ("limit_memory", {"step": step, "sequences": 0, "phase": "forward"}))
        assert life.code == 1
        assert [hit["sequences"] for hit in life.hits] == [2, 1]
        tally.tried()
        status = Run(paths).status()
        assert status["state"] == "failed"
        assert "one sequence already" in status["error"]
        assert lab.finish(paths).steps == list(range(1, STEPS + 1))
