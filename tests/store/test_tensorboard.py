"""TensorBoard shows the same values as the store, also after a rewind."""

from __future__ import annotations

import errno
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import Recording, new_run

from lumina.store.layout import RunPaths
from lumina.store.reader import StoreReader
from lumina.store.tensorboard import EventFile

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorBoard's own imports
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def shown(paths: RunPaths) -> Any:
    accumulator = EventAccumulator(str(paths.tensorboard), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def test_the_event_files_hold_what_the_store_holds(tmp_path: Path) -> None:
    paths = new_run(tmp_path)
    recording = Recording(paths, tensorboard=True)
    recording.train(30)
    recording.finish()
    accumulator, store = shown(paths), StoreReader(paths).series(max_points=None)
    assert {tag.replace("/", ".") for tag in accumulator.Tags()["scalars"]} == set(store)
    for name, series in store.items():
        events = accumulator.Scalars(name.replace(".", "/"))
        assert [event.step for event in events] == series["step"]
        np.testing.assert_array_equal(
            np.float32([event.value for event in events]), np.float32(series["value"]), err_msg=name
        )


def test_what_is_not_finite_is_shown_as_nan(tmp_path: Path) -> None:
    paths = new_run(tmp_path)
    recording = Recording(paths, tensorboard=True)
    recording.writer.points(recording.segment, 1, {"loss": math.inf})
    recording.finish()
    assert math.isnan(shown(paths).Scalars("loss")[0].value)


def test_after_a_rewind_the_abandoned_steps_are_no_longer_shown(tmp_path: Path) -> None:
    paths = new_run(tmp_path)
    first = Recording(paths, tensorboard=True)
    first.train(20)
    first.close()
    second = Recording(paths, cause="rewind", fork_step=10, tensorboard=True)
    second.train(15)
    second.finish()
    events = shown(paths).Scalars("loss")
    assert [event.step for event in events] == StoreReader(paths).series(["loss"])["loss"]["step"]


def test_events_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    paths = new_run(tmp_path)
    recording = Recording(paths, tensorboard=True)
    recording.train(5)
    assert recording.writer.flush()
    assert [event.step for event in shown(paths).Scalars("loss")] == [1, 2, 3, 4, 5]
    recording.finish()


@pytest.mark.parametrize("call", ["open", "scalars", "flush"])
def test_a_folder_that_cannot_be_written_costs_its_files_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventFile, call, full)
    paths = new_run(tmp_path)
    recording = Recording(paths, tensorboard=True)
    recording.train(5)
    assert recording.writer.flush()
    recording.train(10)
    recording.finish()
    assert StoreReader(paths).series(["loss"])["loss"]["step"] == list(range(1, 11))
    assert caplog.text.count("no TensorBoard files from here on") == 1
