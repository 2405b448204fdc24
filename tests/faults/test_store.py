"""Journal, database, lock and folder of a run, damaged, locked, raced for, moved and removed."""

from __future__ import annotations

import errno
import random
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from small import until

from faults.lab import STEPS, Lab, applied, assert_same, intervene, log_of, manifests, outcome
from faults.matrix import SEED, Tally, often, row
from lumina.client import Run
from lumina.launch import log_tail
from lumina.store import inbox
from lumina.store.errors import Refusal
from lumina.store.inbox import Command
from lumina.store.journal import read_entries
from lumina.store.layout import RunPaths
from lumina.store.lock import holder, is_locked
from lumina.store.reader import StoreReader
from lumina.store.writer import HEARTBEAT_SECONDS

KILLED_AT_8 = ("kill_in_step", {"step": 8, "call": 5})
SLOW = ("slow_steps", {"seconds": 0.03})


def killed(lab: Lab, **changes: Any) -> RunPaths:
    paths = lab.create(**changes)
    assert lab.live(paths, KILLED_AT_8).code == -9
    return paths


def at_step(paths: RunPaths, step: int) -> None:
    until(lambda: (StoreReader(paths).meta().get("step") or 0) >= step, 90)


def answer_to(paths: RunPaths, command: Command) -> dict[str, Any]:
    return dict(until(lambda: inbox.receipt_of(paths, command.id), 60))


def until_locked(paths: RunPaths) -> None:
    until(lambda: is_locked(paths))


def refused(lab: Lab, paths: RunPaths, what: str) -> None:
    """A resume says what is wrong, and changes nothing of what is left."""
    before = {path: path.read_bytes() for path in (paths.journal, *paths.checkpoints.rglob("*.*")) if path.is_file()}
    assert lab.live(paths).code == 1
    assert what in log_of(paths)
    for path, content in before.items():
        assert path.read_bytes() == content


# The journal


@row(
    "a torn last line of the journal",
    injected="part of a line, of a seeded length, behind the last whole one",
    expected="cut off; the run ends in the same bits",
)
def test_a_torn_tail(lab: Lab, tally: Tally) -> None:
    chance = random.Random(SEED)
    for _ in range(often(3, 20)):
        paths = killed(lab)
        line = paths.journal.read_bytes().splitlines(keepends=True)[-1]
        with paths.journal.open("ab") as file:
            file.write(line[: chance.randrange(1, len(line))])
        tally.tried()
        assert_same(lab.finish(paths), lab.undisturbed())


@row(
    "a damaged line within the journal",
    injected="a bit flip at a seeded place of a line that others follow, or such a line removed",
    expected="refused, the line is named; nothing is changed",
)
def test_damage_within_the_journal(lab: Lab, tally: Tally) -> None:
    chance = random.Random(SEED)
    paths = lab.create()
    assert lab.live(paths, SLOW, KILLED_AT_8).code == -9  # slow: a checkpoint is journalled by then
    whole = paths.journal.read_bytes()
    end = len(whole) - len(whole.splitlines(keepends=True)[-1]) - 1
    for _ in range(often(100, 500)):
        damaged = bytearray(whole)
        damaged[chance.randrange(end)] ^= 1 << chance.randrange(8)
        paths.journal.write_bytes(damaged)
        with pytest.raises(Refusal, match=r"journal\.jsonl:\d+"):
            read_entries(paths)
        with pytest.raises(Refusal) as error:
            Run(paths).resume()
        assert error.value.code == "corrupt"
        tally.tried()
    refused(lab, paths, "journal.jsonl:")
    paths.journal.write_bytes(b"".join(whole.splitlines(keepends=True)[1:]))
    refused(lab, paths, "entry 1 expected")
    tally.tried(2)
    paths.journal.write_bytes(whole)
    assert_same(lab.finish(paths), lab.undisturbed())


@row(
    "the journal removed",
    injected="journal.jsonl deleted, or emptied, while nobody trains",
    expected="refused: checkpoints without a journal never start over silently",
)
def test_a_lost_journal(lab: Lab, tally: Tally) -> None:
    for content in (None, b""):
        paths = killed(lab)
        whole = paths.journal.read_bytes()
        paths.journal.unlink()
        if content is not None:
            paths.journal.write_bytes(content)
        assert lab.live(paths, resume="latest").code == 1
        assert "is missing or empty" in log_of(paths)
        tally.tried()
        paths.journal.write_bytes(whole)
        assert_same(lab.finish(paths), lab.undisturbed())


# The database


@row(
    "the database locked for 10 s",
    injected="another program holds an exclusive lock on run.sqlite, over due checkpoints and a command",
    expected="steps and decisions go on, the checkpoint follows, no point is lost",
)
def test_a_locked_database(lab: Lab, tally: Tally) -> None:
    for _ in range(often(1, 3)):
        asked = intervene("adjust_routing_temperature", temperature=1.5)
        changes = {"training.max_steps": 300}
        paths = lab.create(**changes)
        life = lab.start(paths, SLOW)
        at_step(paths, 3)
        other = sqlite3.connect(paths.database, isolation_level=None, timeout=60)
        other.execute("BEGIN EXCLUSIVE")
        locked = time.monotonic()
        inbox.send(paths, asked)
        receipt = answer_to(paths, asked)
        assert time.monotonic() - locked < 10, "the decision waited for the database"
        assert receipt["state"] == "verified"
        time.sleep(max(0.0, 10 - (time.monotonic() - locked)))
        other.execute("ROLLBACK")
        other.close()
        tally.tried()
        assert life.wait() == 0, log_of(paths)
        assert outcome(paths).steps == list(range(1, 301))
        assert Run(paths).status()["dropped_points"] == 0
        assert len(applied(paths, asked.id)) == 1


def scramble(database: Path, chance: random.Random) -> None:
    """Overwrites stretches of the file with noise, beyond its first page."""
    with database.open("r+b") as file:
        size = file.seek(0, 2)
        for _ in range(12):
            file.seek(chance.randrange(4096, max(4097, size - 512)))
            file.write(chance.randbytes(512))


@row(
    "the database scrambled while nobody trains",
    injected="run.sqlite overwritten with noise in twelve places, or as a whole",
    expected="made anew from the journal, kept aside; what is missing is said; same bits in the end",
)
def test_a_scrambled_database(lab: Lab, tally: Tally) -> None:
    chance = random.Random(SEED)
    asked = intervene("adjust_routing_temperature", temperature=1.5)
    for number in range(often(2, 20)):
        paths = lab.create(asked)
        assert lab.live(paths, ("slow_steps", {"seconds": 0.1}), KILLED_AT_8).code == -9
        begun = max((manifest["step"] for manifest in manifests(paths)), default=0)
        with sqlite3.connect(paths.database) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        if number % 2:
            paths.database.write_bytes(chance.randbytes(40_000))
        else:
            scramble(paths.database, chance)
        tally.tried()
        found = lab.finish(paths)
        assert found.hash == lab.undisturbed(asked).hash
        assert found.steps == list(range(begun + 1, STEPS + 1)), "the steps since the checkpoint"
        said = [event["message"] for event in Run(paths).events() if "made anew from the journal" in event["message"]]
        assert len(said) == 1
        assert "metrics recorded before" in said[0]
        assert len(list(paths.root.glob("run.sqlite.damaged-*"))) == 1
        assert [receipt.id for receipt in StoreReader(paths).receipts()] == [asked.id]
        tally.lost("metrics before the resume (kept aside in the damaged file); no decision")


@row(
    "the database scrambled or removed under a trainer",
    injected="run.sqlite overwritten with noise, or deleted, while steps are recorded",
    expected="made anew from the journal while training goes on; what is missing is said; same bits in the end",
)
def test_a_database_lost_under_a_trainer(lab: Lab, tally: Tally) -> None:
    chance = random.Random(SEED)
    for number in range(often(2, 10)):
        changes = {"training.max_steps": 120, "save_every_n_batches": 40}
        paths = lab.create(**changes)
        life = lab.start(paths, SLOW)
        at_step(paths, 10)
        if number % 2:
            paths.database.unlink()
        else:
            for suffix in ("", "-wal"):
                path = paths.database.with_name(paths.database.name + suffix)
                path.write_bytes(chance.randbytes(path.stat().st_size))
        tally.tried()
        assert life.wait() == 0, log_of(paths)
        found = outcome(paths)
        assert found.hash == lab.undisturbed(**changes).hash
        assert found.steps[-1] == 120
        assert found.steps == list(range(found.steps[0], 121)), "a gap after the database was made anew"
        assert any(
            "made" in event["message"] and "from the journal" in event["message"] for event in Run(paths).events(0, 500)
        )
        tally.lost("metrics before the damage; no decision")


@row(
    "more points than memory may hold",
    injected="the database locked while a queue of 200 numbers fills up",
    expected="no step waits; what was dropped is counted and shown; decisions are kept; same bits",
)
def test_an_overflowing_queue(lab: Lab, tally: Tally) -> None:
    changes = {"training.max_steps": 100, "save_every_n_batches": 1000}
    asked = intervene("adjust_routing_temperature", temperature=1.5)
    paths = lab.create(asked, **changes)
    life = lab.start(paths, SLOW, ("limit_queue", {"limit": 200}))
    at_step(paths, 3)
    other = sqlite3.connect(paths.database, isolation_level=None, timeout=60)
    other.execute("BEGIN EXCLUSIVE")
    step = read_entries(paths)[-1].step
    time.sleep(4)
    other.execute("ROLLBACK")
    other.close()
    assert life.wait() == 0, log_of(paths)
    dropped = Run(paths).status()["dropped_points"]
    assert dropped > 0
    tally.tried()
    tally.lost("the points that did not fit, counted in the status")
    assert outcome(paths).hash == lab.undisturbed(asked, **changes).hash
    assert [receipt.id for receipt in StoreReader(paths).receipts()] == [asked.id]
    assert step >= 0


# Lock and folder


@row(
    "20 trainers race for one run",
    injected="20 processes start on one run at once",
    expected="one trains; each other one is refused and told who holds it; same bits",
)
def test_a_race(lab: Lab, tally: Tally) -> None:
    for _ in range(often(1, 10)):
        paths = lab.create()
        # So slow that on a busy machine, too, the last of them starts before the first has ended.
        lives = [lab.start(paths, ("slow_steps", {"seconds": 0.3})) for _ in range(20)]
        codes = [life.wait() for life in lives]
        assert sorted(codes) == [0] + [1] * 19
        winner = lives[codes.index(0)]
        assert paths.log.read_text().count(f"is in use by process {winner.pid} ") == 19
        tally.tried(20)
        assert [entry.type for entry in read_entries(paths)].count("segment") == 1
        assert_same(outcome(paths), lab.undisturbed())


@row(
    "the lock file removed under a trainer",
    injected="run.lock deleted while a trainer lives, then a second trainer started",
    expected="the lock is held again from the next step on, the second one is refused; same bits",
)
def test_a_removed_lock_file(lab: Lab, tally: Tally) -> None:
    for _ in range(often(1, 10)):
        changes = {"training.max_steps": 60}
        paths = lab.create(**changes)
        life = lab.start(paths, SLOW)
        at_step(paths, 3)
        paths.lock.unlink()
        until_locked(paths)
        info = holder(paths)
        assert info is not None
        assert info.pid == life.pid
        assert lab.live(paths).code == 1
        tally.tried()
        assert life.wait() == 0
        assert_same(outcome(paths), lab.undisturbed(**changes))


@row(
    "the run's folder moved under a trainer",
    injected="the folder renamed while steps are made",
    expected="the trainer stops at the next boundary, no second folder appears; resumed in the new place, same bits",
)
def test_a_moved_folder(lab: Lab, tally: Tally) -> None:
    for _ in range(often(1, 10)):
        paths = lab.create()
        life = lab.start(paths, ("slow_steps", {"seconds": 0.1}))
        at_step(paths, 3)
        moved = RunPaths(lab.new_folder())
        paths.root.rename(moved.root)
        assert life.wait() == 1
        assert not paths.root.exists()
        assert "was moved or deleted while it was trained" in log_of(moved)
        tally.tried()
        assert_same(lab.finish(moved), lab.undisturbed())


@row(
    "the run's folder deleted under a trainer",
    injected="the folder removed with everything in it while steps are made",
    expected="the trainer stops; nothing of the run comes back half",
)
def test_a_deleted_folder(lab: Lab, tally: Tally) -> None:
    paths = lab.create()
    life = lab.start(paths, ("slow_steps", {"seconds": 0.1}))
    at_step(paths, 3)
    moved = lab.new_folder()
    paths.root.rename(moved)
    shutil.rmtree(moved)
    assert life.wait() == 1
    tally.tried()
    tally.lost("the run, which someone deleted")
    assert not paths.root.exists()


@row(
    "config.yaml changed after the start",
    injected="another learning rate, another width, or an empty file, while nobody trains",
    expected="refused with both checksums; put back, the run ends in the same bits",
)
def test_another_configuration(lab: Lab, tally: Tally) -> None:
    paths = killed(lab)
    whole = paths.config.read_text()
    for changed in (whole.replace("hidden_size: 32", "hidden_size: 64"), whole + "\n# a note\n"):
        assert changed != whole
        paths.config.write_text(changed)
        refused(lab, paths, "is not the one that the run was begun with")
        tally.tried()
    paths.config.write_text(whole)
    assert_same(lab.finish(paths), lab.undisturbed())


@row(
    "the disk turns read-only",
    injected="EROFS at every operation, from a resume's first on",
    expected="the resume fails and says why; writable again, the run ends in the same bits",
)
def test_a_read_only_disk(lab: Lab, tally: Tally) -> None:
    paths = killed(lab)
    life = lab.live(paths, ("fail_operations", {"within": "", "errno": errno.EROFS}))
    assert life.code == 1
    assert life.hits
    assert "Read-only file system" in log_of(paths)
    tally.tried()
    assert_same(lab.finish(paths), lab.undisturbed())


@row(
    "a log that is no text",
    injected="bytes that are no UTF-8 in logs/training.log, before and between the trainer's lines",
    expected="whoever shows the log's end shows it; the run is not affected",
)
def test_a_log_that_is_no_text(lab: Lab, tally: Tally) -> None:
    paths = killed(lab)
    with paths.log.open("ab") as file:
        file.write(bytes(range(256)) * 4 + b"\xff\xfe\n")
    tally.tried()
    assert "�" in log_tail(paths)
    assert_same(lab.finish(paths), lab.undisturbed())


@row(
    "the clock moved by a day",
    injected="the wall clock jumps a day forwards, or backwards, before a seeded step; killed and resumed after it",
    expected="order is by sequence: same bits and series; the heartbeat goes on",
)
@pytest.mark.parametrize("days", [1, -1])
def test_a_moved_clock(lab: Lab, tally: Tally, days: int) -> None:
    chance = random.Random(SEED + days)
    for _ in range(often(1, 8)):
        step = chance.randint(2, 7)
        jump = ("move_clock", {"step": step, "seconds": days * 86_400.0})
        paths = lab.create()
        slow = ("slow_steps", {"seconds": 1.5 * HEARTBEAT_SECONDS / (8 - step)})  # one is due between jump and kill
        assert lab.live(paths, jump, slow, KILLED_AT_8).code == -9
        beat = StoreReader(paths).facts()["heartbeat"].value
        assert abs(beat - time.time() - days * 86_400) < 600, "no heartbeat since the jump"
        tally.tried()
        assert_same(lab.finish(paths), lab.undisturbed())
        times = [entry.at for entry in read_entries(paths)]
        assert max(times) - min(times) > 80_000 or step > 5, "the jump is in the journal"
