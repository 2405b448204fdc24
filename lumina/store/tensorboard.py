"""TensorBoard event files of a run, beside the store and written by the store's own thread.

It knows TensorBoard's file format through its package (never through torch); it must not know what a series means.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class EventFile:
    """One append-only event file; made by `open`, which takes about a second for its imports."""

    def __init__(self, records: Any, event_pb2: Any, summary_pb2: Any) -> None:
        self._records = records
        self._event_pb2 = event_pb2
        self._summary_pb2 = summary_pb2

    @classmethod
    def open(cls, folder: Path) -> EventFile:
        """Start a new event file in `folder`. Raises `ImportError` without TensorBoard, `OSError`."""
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        # RecordWriter rather than EventFileWriter: no second thread, and no import of TensorFlow where it is present.
        stream = open(folder / name, "ab")  # noqa: SIM115 - closed by `close`
        opened = cls(RecordWriter(stream), event_pb2, summary_pb2)
        opened._write(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        return opened

    def scalars(self, step: int, at: float, values: Mapping[str, float | None]) -> None:
        """Add one step's values; None becomes NaN, which TensorBoard marks."""
        summary = self._summary_pb2.Summary(
            value=[
                self._summary_pb2.Summary.Value(
                    tag=name.replace(".", "/"), simple_value=float("nan") if value is None else value
                )
                for name, value in values.items()
            ]
        )
        self._write(self._event_pb2.Event(wall_time=at, step=step, summary=summary))

    def restart(self, step: int) -> None:
        """Tell TensorBoard to forget what it was shown from `step` on: a new segment continues from there."""
        start = self._event_pb2.SessionLog(status=self._event_pb2.SessionLog.START)
        self._write(self._event_pb2.Event(wall_time=time.time(), step=step, session_log=start))

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
