"""Neither a locked, full nor damaged database stops a trainer or loses a decision; the journal makes its rows anew."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from factories import Recording, finished_run, new_run

from lumina.store import schema
from lumina.store.errors import Refusal
from lumina.store.journal import Journal, read_entries
from lumina.store.layout import RunPaths
from lumina.store.lock import RunLock
from lumina.store.reader import StoreReader
from lumina.store.sink import Array, Points, Sink
from lumina.store.writer import StoreWriter, rebuild_projection

SEGMENT = "a" * 32
HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked_by_another_process(paths: RunPaths) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(paths.database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "locked\n"
        yield
        process.stdin.close()
        process.wait()


def until_it_fails(writer: StoreWriter) -> str:
    """Wait until the writer's thread has met the lock."""
    while writer.last_error is None:
        time.sleep(0.01)
    return writer.last_error


def rows(paths: RunPaths, table: str) -> list[tuple[Any, ...]]:
    columns = {
        "event": "journal_seq, segment, step, state, doc",
        "segment": "num, id, parent, fork_step, cause, cause_id, started, fork_seq",
    }.get(table, "id, journal_seq, segment, step, state, doc")
    where = "WHERE journal_seq IS NOT NULL" if table == "event" else ""
    with closing(sqlite3.connect(paths.database)) as db:
        return db.execute(f"SELECT {columns} FROM {table} {where} ORDER BY 1, 2").fetchall()


def projected(paths: RunPaths) -> dict[str, list[tuple[Any, ...]]]:
    return {table: rows(paths, table) for table in ("proposal", "receipt", "effect", "event", "segment")}


def eventful_run(directory: Path) -> RunPaths:
    """Every kind of journal entry, a crash, a restart and a rewind."""
    paths = new_run(directory)
    first = Recording(paths)
    first.train(5)
    proposal = first.propose()
    first.decide(first.propose(), why="too early")
    first.decide(first.propose(), "expired")
    approved = first.apply(1.4, proposal=proposal)
    first.commit("effect", approved, {"state": "helped", "summary": "entropy rose"})
    first.commit("refused", "f" * 32, {"kind": "pause", "state": "refused", "reason": "busy", "code": "busy"})
    first.commit("checkpoint", "checkpoint_step_5", {"name": "checkpoint_step_5", "reason": "periodic"})
    first.commit("batch_skipped", "5-40", {"reason": "non-finite loss or gradient"})
    first.commit("oom_split", "5-oom", {})
    first.commit("accepted", "e" * 32, {"kind": "intervene", "method": "add_expert"})
    first.close()
    second = Recording(paths, cause="restart", fork_step=5, fork_seq=9)
    second.train(8)
    second.propose(2.0)
    second.close()
    third = Recording(paths, cause="rewind", fork_step=5, fork_seq=9)
    third.train(10)
    third.finish()
    return paths


def test_a_locked_database_makes_nobody_wait_and_loses_nothing(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
    caplog.set_level(logging.INFO, "lumina.store")
    writer, journal = StoreWriter(paths, tensorboard=False), Journal.open(paths)
    writer.entry(journal.append("segment", SEGMENT, 0, SEGMENT, {"cause": "start"}))
    assert writer.flush()
    with locked_by_another_process(paths):
        for step in range(1, 501):
            writer.points(SEGMENT, step, {"loss": float(step), "grad_norm": 1.0})
            writer.meta("step", step)
        writer.entry(journal.append("applied", "c" * 32, 500, "c" * 32, {"kind": "pause", "state": "verified"}))
        assert "locked" in until_it_fails(writer)
        assert not writer.flush(timeout=0.1), "only a flush waits, and it says that it did not get through"
        reader = StoreReader(paths)
        assert reader.series(["loss"]) == {}, "readers go on"
        assert reader.receipts() == []
    assert writer.flush()
    assert writer.last_error is None
    assert reader.series(["loss"], max_points=None)["loss"]["step"] == list(range(1, 501))
    assert reader.meta()["step"] == 500
    assert [row.id for row in reader.receipts()] == ["c" * 32]
    assert writer.dropped_points == 0
    assert writer.close()
    journal.close()
    assert [record.message.split("run.sqlite ")[1] for record in caplog.records] == [
        "cannot be written, trying again: database is locked",
        "can be written again; nothing was lost",
    ]


def test_a_database_that_is_locked_from_the_start_is_waited_for(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
    with locked_by_another_process(paths):
        writer = StoreWriter(paths, tensorboard=False)
        writer.points(SEGMENT, 1, {"loss": 1.0})
        assert "locked" in until_it_fails(writer)
    assert writer.close()
    assert StoreReader(paths).latest(["loss"]) == {"loss": (1, 1.0)}


def test_what_does_not_fit_into_memory_is_counted_and_shown_but_decisions_never_dropped(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
    writer, journal = StoreWriter(paths, tensorboard=False, limit=10), Journal.open(paths)
    assert writer.flush()
    with locked_by_another_process(paths):
        for step in range(1, 21):
            writer.points(SEGMENT, step, {"loss": float(step)})
        for number in range(20):
            id = f"{number:032x}"
            writer.entry(journal.append("applied", SEGMENT, 20, id, {"kind": "pause"}))
    assert writer.close()
    journal.close()
    reader = StoreReader(paths)
    assert reader.series(["loss"])["loss"]["step"] == list(range(1, 11))
    assert reader.meta()["dropped_points"] == 10
    assert len(reader.receipts()) == 20


def test_a_close_that_cannot_store_everything_says_so(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr("lumina.store.sink.LEAVE_WAL_SECONDS", 0.1)
    writer = StoreWriter(paths, tensorboard=False)
    assert writer.flush()
    with locked_by_another_process(paths):
        writer.points(SEGMENT, 1, {"loss": 1.0})
        assert not writer.close(timeout=0.2)


def test_a_reader_of_a_locked_database_says_busy(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
    assert StoreWriter(paths, tensorboard=False).close()
    with locked_by_another_process(paths), pytest.raises(Refusal, match="the run itself is not affected") as refused:
        StoreReader(paths).meta()
    assert refused.value.code == "busy"


def test_a_transaction_that_failed_halfway_is_tried_again_as_a_whole(paths: RunPaths) -> None:
    points = Points(0.0, SEGMENT, 1, {"loss": 1.0})
    unstorable = Array(SEGMENT, 1, "expert_load", (1,), object(), b"")  # type: ignore[arg-type]
    sink = Sink(paths)
    with pytest.raises(sqlite3.Error):
        sink.commit([points, unstorable], {}, durable=False)
    assert StoreReader(paths).segments() == [], "all or nothing"
    sink.commit([points], {}, durable=False)
    sink.close()
    assert StoreReader(paths).latest(["loss"]) == {"loss": (1, 1.0)}


def test_the_projection_made_anew_is_the_one_that_was_written_live(tmp_path: Path) -> None:
    paths = eventful_run(tmp_path)
    live = projected(paths)
    assert {table: len(found) for table, found in live.items()} == {
        "proposal": 4,
        "receipt": 3,
        "effect": 1,
        "event": len([entry for entry in read_entries(paths) if entry.type != "accepted"]),
        "segment": 3,
    }
    rebuild_projection(paths)
    assert projected(paths) == live, "in place"
    paths.database.unlink()
    rebuild_projection(paths)
    assert projected(paths) == live, "from nothing"


def test_proposals_end_in_the_state_that_was_decided(tmp_path: Path) -> None:
    found = StoreReader(eventful_run(tmp_path)).proposals()
    assert [row.state for row in found] == ["open", "expired", "rejected", "approved"]
    assert found[2].doc["decided"]["why"] == "too early"
    assert found[3].doc["decided"]["args"] == {"temperature": 1.4}


def test_a_lost_database_still_tells_state_and_step(tmp_path: Path) -> None:
    paths = finished_run(tmp_path)
    paths.database.unlink()
    rebuild_projection(paths)
    meta = StoreReader(paths).meta()
    assert (meta["state"], meta["step"], meta["total_steps"]) == ("finished", 40, 40)


def test_a_damaged_database_is_kept_aside_and_made_anew(tmp_path: Path) -> None:
    paths = finished_run(tmp_path)
    live = projected(paths)
    paths.database.write_bytes(b"this is no database" * 500)
    with pytest.raises(Refusal) as refused:
        StoreReader(paths).meta()
    assert refused.value.code == "corrupt"
    assert StoreWriter(paths, tensorboard=False).close()
    assert projected(paths) == live
    kept = list(paths.root.glob("run.sqlite.damaged-*"))
    assert [path.read_bytes()[:7] for path in kept] == [b"this is"]
    assert "was damaged" in StoreReader(paths).events(limit=1)[0].doc["message"]


def test_what_the_journal_holds_beyond_the_database_is_caught_up_on(tmp_path: Path) -> None:
    """The trainer died after the journal's fsync and before its rows were stored."""
    paths = new_run(tmp_path)
    recording = Recording(paths)
    recording.train(5)
    assert recording.writer.flush()
    recording.journal.append("applied", recording.segment, 5, "d" * 32, {"kind": "pause", "state": "verified"})
    recording.close()
    assert StoreReader(paths).receipts() == []
    assert StoreWriter(paths, tensorboard=False).close()
    assert [row.id for row in StoreReader(paths).receipts()] == ["d" * 32]


def test_a_living_run_is_not_rebuilt_under_its_trainer(tmp_path: Path) -> None:
    paths = finished_run(tmp_path)
    with RunLock.acquire(paths), pytest.raises(Refusal) as refused:
        rebuild_projection(paths)
    assert refused.value.code == "locked"
