"""Power cuts and full disks: what was told to be durable is, and a disk without room stops nobody for good."""

from __future__ import annotations

import errno
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from faults.disk import Disk, lay_out, picture
from faults.lab import Lab, assert_same, intervene, log_of, manifests, outcome
from faults.matrix import SEED, Tally, often, row
from lumina.checkpoint import load_checkpoint, state_hash
from lumina.client import Run
from lumina.store.journal import Journal, read_entries
from lumina.store.layout import RunPaths

SHORT: dict[str, Any] = {"training.max_steps": 9, "save_every_n_batches": 3, "checkpoint.save_total_limit": 1}
STATES_PER_MOMENT = 48


def check_after_power_cut(paths: RunPaths, acknowledged: int, saved: int) -> None:
    """What had been fsynced is there; whatever else is there is whole."""
    with Journal.open(paths) as journal:
        entries = list(journal.entries)
    assert len(entries) in (acknowledged, acknowledged + 1)
    told = max((entry.doc["step"] for entry in entries if entry.type == "checkpoint"), default=0)
    for manifest in manifests(paths):
        state, found, attempts = load_checkpoint(paths.checkpoints, manifest["step"])
        assert [attempt.ok for attempt in attempts] == [True], "half a checkpoint can be seen"
        assert state_hash(state) == found.state_hash
    newest = max((manifest["step"] for manifest in manifests(paths)), default=0)
    assert newest >= max(saved, told), "a checkpoint that was published, or that the journal names, is lost"
    ids = {entry.id for entry in entries}
    for receipt in paths.done.glob("[!.]*.json"):
        assert json.loads(receipt.read_bytes())["id"] in ids, "a receipt of something that did not happen"


@row(
    "power cut at every operation",
    injected="before each operation: unsynced writes dropped, cut short and reordered, in every combination",
    expected="the journal keeps every line that was acknowledged, checkpoints are whole or absent; runs go on",
)
def test_power_cuts(lab: Lab, tally: Tally, tmp_path: Path) -> None:
    asked = intervene("adjust_routing_temperature", temperature=1.5)
    expected = lab.undisturbed(asked, **SHORT)
    paths = lab.create(asked, **SHORT)
    disk = Disk(paths.root, picture(paths.root))
    log = lab.live(paths, ("record_operations", {})).hits
    chance = random.Random(SEED)
    moments = sorted(chance.sample(range(len(log)), often(40, len(log))))
    resumed = set(chance.sample(moments, often(4, 40)))
    seen: set[int] = set()
    acknowledged = saved = 0
    for moment, operation in enumerate(log):
        if moment in moments:
            states = list(disk.states(STATES_PER_MOMENT, chance))
            for number, contents in enumerate(states):
                if hash(frozenset(contents.items())) in seen:
                    continue
                seen.add(hash(frozenset(contents.items())))
                left = RunPaths(tmp_path / f"{moment}-{number}")
                lay_out(contents, left.root)
                check_after_power_cut(left, acknowledged, saved)
                shutil.rmtree(left.root)
            tally.tried(len(states))
            if moment in resumed:
                left = RunPaths(lab.folder / f"cut-{moment}")
                lay_out(chance.choice(states), left.root)
                assert lab.finish(left).hash == expected.hash
        disk.do(operation)
        if operation["kind"] == "fsync" and operation["path"] == str(paths.journal):
            acknowledged += 1
        last = next((m["step"] for m in manifests(paths)[::-1]), 0)
        if operation["kind"] == "fsync_dir" and operation["path"] == str(paths.checkpoints):
            published = [name for name in disk.durable.contents() if name.endswith("/manifest.json")]
            steps = [int(name.split("/")[1].split("_")[2]) for name in published if "/checkpoint_step_" in name]
            saved = max(steps, default=0)
    assert saved == last
    tally.figure(f"{len(seen):,} different disks from {len(log)} operations, {len(resumed)} of them resumed to the end")


@row(
    "disk full while a checkpoint is written",
    injected="ENOSPC at each operation of a checkpoint, for that checkpoint only",
    expected="training goes on, the failure is told, no half checkpoint; the next one succeeds; same bits",
)
def test_disk_full_in_a_checkpoint(lab: Lab, tally: Tally) -> None:
    counted = lab.live(lab.create(**SHORT), ("count_operations", {"within": "checkpoints"})).hits
    per_checkpoint = [hit["number"] for hit in counted if hit["number"] <= len(counted) // 3]
    chosen = random.Random(SEED).sample(per_checkpoint, often(4, len(per_checkpoint)))
    for number in chosen:
        paths = lab.create(**SHORT)
        fault = {"within": "checkpoints", "errno": errno.ENOSPC, "first": number, "times": 1}
        life = lab.live(paths, ("fail_operations", fault))
        assert life.code == 0, log_of(paths)
        assert len(life.hits) == 1
        tally.tried()
        assert_same(outcome(paths), lab.undisturbed(**SHORT))
        told = [event["message"] for event in Run(paths).events()]
        # The overview at the start of a run, on which nothing depends, is worth a word in the log only.
        assert any("No space left" in message for message in [*told, log_of(paths)])


@row(
    "disk full while the journal is written",
    injected="ENOSPC at a line of the journal, from there on",
    expected="what could not be journalled did not happen: the run stops and says why; resumed, the same bits",
)
@pytest.mark.parametrize("kind", ["append", "fsync"])
def test_disk_full_in_the_journal(lab: Lab, tally: Tally, kind: str) -> None:
    asked = intervene("adjust_routing_temperature", temperature=1.5)
    expected = lab.undisturbed(asked, **SHORT)
    for number in range(1, often(4, 7)):
        paths = lab.create(asked, **SHORT)
        fault = {"within": "journal.jsonl", "errno": errno.ENOSPC, "first": number, "times": 1, "kinds": [kind]}
        life = lab.live(paths, ("fail_operations", fault))
        assert len(life.hits) == 1
        tally.tried()
        if life.code:
            assert Run(paths).status()["state"] in ("failed", "starting")
            assert "No space left" in str(Run(paths).status()["error"])
        assert len(read_entries(paths)) == number - 1 or life.code == 0
        assert_same(lab.finish(paths) if life.code else outcome(paths), expected)


@row(
    "disk full while metrics are written",
    injected="the database may not grow (SQLITE_FULL) for some steps, a due checkpoint among them",
    expected="no step waits, the checkpoint follows later, no point is lost",
)
def test_disk_full_in_the_metrics(lab: Lab, tally: Tally) -> None:
    for step in random.Random(SEED).sample(range(2, 10), often(1, 5)):
        paths = lab.create(**{"training.max_steps": 60, "save_every_n_batches": 20})
        life = lab.live(paths, ("slow_steps", {"seconds": 0.02}), ("fill_database", {"step": step, "until": step + 30}))
        assert life.code == 0, log_of(paths)
        assert [hit["full"] for hit in life.hits] == [True, False]
        assert "database or disk is full" in paths.log.read_text()
        tally.tried()
        found = outcome(paths)
        assert found.steps == list(range(1, 61))
        assert Run(paths).status()["dropped_points"] == 0
