"""Points are stored without making anyone wait, and are read back by a cursor, whole and in order."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import Recording, loss_at, new_run

from lumina.store.journal import Journal
from lumina.store.layout import RunPaths
from lumina.store.reader import StoreReader
from lumina.store.schema import connect_reader, filesystem_type, is_network
from lumina.store.writer import StoreWriter

SEGMENT = "a" * 32
OTHER = "b" * 32


@contextmanager
def writing(paths: RunPaths, **options: Any) -> Iterator[StoreWriter]:
    writer = StoreWriter(paths, tensorboard=False, **options)
    yield writer
    assert writer.close()


def stored(paths: RunPaths, values: dict[int, float | None], name: str = "loss") -> None:
    with writing(paths) as writer:
        writer.segment(SEGMENT)
        for step, value in values.items():
            writer.points(SEGMENT, step, {name: value})


def joined(*deltas: dict[str, Any]) -> dict[str, list[Any]]:
    return {column: [item for delta in deltas for item in delta[column]] for column in ("step", "value")}


def test_what_was_told_is_read_back_exactly(paths: RunPaths) -> None:
    values = {step: loss_at(step) for step in range(1, 30)}
    stored(paths, values)
    assert StoreReader(paths).series(["loss"]) == {"loss": {"step": list(values), "value": list(values.values())}}


def test_a_run_that_was_never_started_has_nothing_to_tell(paths: RunPaths) -> None:
    reader = StoreReader(paths)
    assert (reader.series(), reader.meta(), reader.events(), reader.line(), reader.array("expert_load")) == (
        {},
        {},
        [],
        [],
        None,
    )
    assert reader.delta(None, None) == reader.delta(None, "anything")
    assert reader.delta(None, None).full


def test_what_is_not_finite_is_stored_as_nothing(paths: RunPaths) -> None:
    stored(paths, {1: 1.0, 2: math.nan, 3: math.inf, 4: -math.inf, 5: None, 6: 6.0})
    found = StoreReader(paths).series(["loss"])["loss"]
    assert found == {"step": [1, 2, 3, 4, 5, 6], "value": [1.0, None, None, None, None, 6.0]}
    assert StoreReader(paths).recent("loss", 10) == [1.0, 6.0]
    with closing(sqlite3.connect(paths.database)) as db:
        assert db.execute("SELECT count(*) FROM point WHERE value IS NULL").fetchone() == (4,)


def test_a_value_that_is_no_number_is_counted_and_stops_nothing(paths: RunPaths) -> None:
    with writing(paths) as writer:
        writer.points(SEGMENT, 1, {"loss": 1.0, "odd": "text"})  # type: ignore[dict-item]
    assert StoreReader(paths).latest(["loss", "odd"]) == {"loss": (1, 1.0)}
    assert StoreReader(paths).meta()["dropped_points"] == 1


def test_a_cursor_brings_only_what_is_new(paths: RunPaths) -> None:
    reader = StoreReader(paths)
    with writing(paths) as writer:
        for step in range(1, 11):
            writer.points(SEGMENT, step, {"loss": float(step)})
        assert writer.flush()
        first = reader.delta(["loss"], None)
        nothing = reader.delta(["loss"], first.cursor)
        for step in range(11, 14):
            writer.points(SEGMENT, step, {"loss": float(step)})
        assert writer.flush()
        second = reader.delta(["loss"], first.cursor)
    assert first.full
    assert not nothing.full
    assert nothing.series == {}
    assert nothing.cursor == first.cursor
    assert not second.full
    assert second.series["loss"]["step"] == [11, 12, 13]
    assert joined(first.series["loss"], second.series["loss"]) == reader.series(["loss"])["loss"]


def test_a_series_that_lags_behind_is_not_skipped(paths: RunPaths) -> None:
    """The validation loss of step 10 is stored after the loss of step 12."""
    reader = StoreReader(paths)
    with writing(paths) as writer:
        writer.points(SEGMENT, 5, {"val_loss": 4.0})
        for step in range(1, 13):
            writer.points(SEGMENT, step, {"loss": float(step)})
        assert writer.flush()
        seen = reader.delta(None, None)
        writer.points(SEGMENT, 10, {"val_loss": 3.0})
        assert writer.flush()
        assert reader.delta(None, seen.cursor).series == {"val_loss": {"step": [10], "value": [3.0]}}


@pytest.mark.parametrize("cursor", ["", "nonsense", "00000000-1", "'; DROP TABLE point", "ffffffff-1~99.1"])
def test_a_cursor_of_nowhere_brings_everything(paths: RunPaths, cursor: str) -> None:
    stored(paths, {1: 1.0, 2: 2.0})
    delta = StoreReader(paths).delta(["loss"], cursor)
    assert delta.full
    assert delta.series["loss"]["step"] == [1, 2]


@pytest.mark.parametrize("until", [12, 25])
def test_a_new_segment_makes_what_was_seen_void(tmp_path: Path, until: int) -> None:
    paths = new_run(tmp_path)
    first = Recording(paths)
    first.train(20)
    first.close()
    reader = StoreReader(paths)
    seen = reader.delta(["loss"], None)
    second = Recording(paths, cause="rewind", fork_step=10)
    second.train(until)
    second.close()
    delta = reader.delta(["loss"], seen.cursor)
    assert delta.full
    assert delta.series["loss"]["step"] == list(range(1, until + 1))
    assert not reader.delta(["loss"], delta.cursor).full


def test_abandoned_stretches_are_kept_beside_the_current_line(tmp_path: Path) -> None:
    paths = new_run(tmp_path)
    first = Recording(paths)
    first.train(20)
    first.close()
    second = Recording(paths, cause="rewind", fork_step=10)
    second.train(12)
    second.close()
    every = StoreReader(paths).series(["loss"], max_points=None, all_segments=True)["loss"]
    assert every["segment"] == [first.segment] * 20 + [second.segment] * 2
    assert every["step"] == [*range(1, 21), 11, 12]


def test_arrays_come_back_with_their_shape_and_type(paths: RunPaths) -> None:
    load = np.arange(16, dtype=np.float32).reshape(2, 8)
    with writing(paths) as writer:
        for step in (1, 2, 3):
            writer.array(SEGMENT, step, "expert_load", load + step)
    reader = StoreReader(paths)
    step, newest = reader.array("expert_load") or (0, load)
    assert (step, newest.dtype) == (3, np.float32)
    np.testing.assert_array_equal(newest, load + 3)
    assert [at for at, _ in reader.array_history("expert_load", limit=2)] == [2, 3]
    assert (reader.array("expert_load", step=2) or (0,))[0] == 2
    assert reader.array("nothing") is None


def test_the_newest_fact_wins_and_nan_in_a_fact_is_null(paths: RunPaths) -> None:
    with writing(paths) as writer:
        writer.meta("state", "running")
        writer.meta("health", {"score": math.nan, 1: "one"})
        writer.meta("state", "paused")
    meta = StoreReader(paths).meta()
    assert meta["state"] == "paused"
    assert meta["health"] == {"score": None, "1": "one"}


# Rollups


def expected_rollups(steps: np.ndarray, values: np.ndarray) -> dict[tuple[int, int], tuple[int, Any, Any, Any]]:
    """(level, bucket) → n, min, max, sum of every bucket that is complete, by numpy."""
    rows: dict[tuple[int, int], tuple[int, Any, Any, Any]] = {}
    for level in range(1, 8):
        bucket = steps // 8**level
        for number in np.unique(bucket):
            if steps.max() + 1 < (number + 1) * 8**level:
                continue
            inside = values[bucket == number]
            finite = inside[np.isfinite(inside)]
            least, most, total = (finite.min(), finite.max(), finite.sum()) if len(finite) else (None,) * 3
            rows[level, int(number)] = (len(finite), least, most, total)
    return rows


@pytest.mark.parametrize("batch", [1, 7, 5000])
def test_rollups_are_what_numpy_computes(paths: RunPaths, batch: int) -> None:
    random = np.random.default_rng(0)
    steps = np.sort(random.choice(np.arange(1, 3000), 700 if batch == 1 else 2500, replace=False))
    values = random.normal(size=len(steps))
    values[random.random(len(steps)) < 0.05] = np.nan
    values[100:130] = np.nan
    with writing(paths) as writer:
        for start in range(0, len(steps), batch):
            for step, value in zip(steps[start : start + batch], values[start : start + batch], strict=True):
                writer.points(SEGMENT, int(step), {"loss": float(value)})
            if batch > 1 or start % 50 == 0:
                assert writer.flush()
    with closing(sqlite3.connect(paths.database)) as db:
        rows = {row[:2]: row[2:] for row in db.execute("SELECT level, bucket, n, min, max, sum FROM rollup")}
    wanted = expected_rollups(steps, values)
    assert set(rows) == set(wanted)
    for key, (n, least, most, total) in wanted.items():
        assert rows[key][:3] == (n, least, most)
        assert rows[key][3] == (None if total is None else pytest.approx(total))


@pytest.mark.parametrize("limit", [10, 50, 333, 2000])
def test_a_long_series_is_drawn_in_few_positions_that_hide_no_extreme(paths: RunPaths, limit: int) -> None:
    values = np.random.default_rng(1).normal(size=3000)
    values[1234] = 99.0
    stored(paths, {step + 1: float(value) for step, value in enumerate(values)})
    found = StoreReader(paths).series(["loss"], max_points=limit)["loss"]
    assert len(found["step"]) <= limit
    assert found["step"] == sorted(found["step"])
    assert max(found["max"]) == 99.0
    assert min(found["min"]) == values.min()
    low, mean, high = (np.array(found[name]) for name in ("min", "value", "max"))
    assert ((low <= mean) & (mean <= high)).all()


def test_a_line_of_several_segments_is_drawn_without_the_abandoned_part(tmp_path: Path) -> None:
    paths = new_run(tmp_path)
    with writing(paths) as writer, Journal.open(paths) as journal:
        for id, parent, fork in ((SEGMENT, None, 0), (OTHER, SEGMENT, 777)):
            doc = {"parent": parent, "fork_step": fork, "cause": "rewind" if parent else "start"}
            writer.entry(journal.append("segment", id, fork, id, doc))
            for step in range(fork + 1, 1500):
                writer.points(id, step, {"loss": 1.0 if id == OTHER or step <= 777 else 1000.0})
    found = StoreReader(paths).series(["loss"], max_points=100)["loss"]
    assert set(found["value"]) == {1.0}
    assert set(found["max"]) == {1.0}
    assert len(found["step"]) <= 100


def test_deltas_joined_cover_a_long_series_once(paths: RunPaths) -> None:
    reader, cursor, bars, full = StoreReader(paths), None, [], []
    with writing(paths) as writer:
        for start in range(1, 3001, 500):
            for step in range(start, start + 500):
                writer.points(SEGMENT, step, {"loss": float(step)})
            assert writer.flush()
            delta = reader.delta(["loss"], cursor, max_points=100)
            cursor = delta.cursor
            full.append(delta.full)
            bars.append(delta.series["loss"])
    assert full == [True] + [False] * 5
    steps = [step for bar in bars for step in bar["step"]]
    assert steps == sorted(set(steps))
    for number, bar in enumerate(bars):
        assert (min(bar["min"]), max(bar["max"])) == (500 * number + 1, 500 * (number + 1))


# Where the database lies


def test_a_finished_run_can_be_read_from_a_folder_that_may_not_be_written(paths: RunPaths) -> None:
    stored(paths, {1: 1.0})
    assert paths.database.read_bytes()[18:20] == b"\x01\x01", "no longer in write-ahead mode"
    assert sorted(path.name for path in paths.root.glob("run.sqlite*")) == ["run.sqlite"]


def test_a_reader_can_never_write(paths: RunPaths) -> None:
    stored(paths, {1: 1.0})
    with closing(connect_reader(paths.database)) as db, pytest.raises(sqlite3.OperationalError, match="readonly"):  # type: ignore[type-var]
        db.execute("DELETE FROM point")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "network"),
    [("ext4", False), ("nfs4", True), ("fuse.sshfs", True), ("fuseblk", False), ("cifs", True), (None, False)],
)
def test_file_systems_on_which_several_machines_write_are_known(kind: str | None, network: bool) -> None:
    assert is_network(kind) is network


def test_the_file_system_of_a_path_is_the_innermost_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/x {str(tmp_path).replace(' ', chr(92) + '040')} nfs4 rw 0 0\n")
    assert filesystem_type(tmp_path / "first", mounts) == "nfs4"
    assert filesystem_type(Path("/usr"), mounts) == "ext4"
    assert filesystem_type(tmp_path, tmp_path / "missing") is None


def test_on_a_network_file_system_the_store_avoids_write_ahead_logging(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumina.store.sink.filesystem_type", lambda path: "nfs4")
    with writing(paths) as writer:
        writer.points(SEGMENT, 1, {"loss": 1.0})
        assert writer.flush()
        assert not paths.database.with_name("run.sqlite-wal").exists()
        assert paths.database.read_bytes()[18:20] == b"\x01\x01"
    assert "network file system (nfs4)" in StoreReader(paths).events()[0].doc["message"]
