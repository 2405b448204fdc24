"""Rows of Parquet and Arrow files, a few megabytes at a time and only the columns that some form of sample reads.

It knows columnar files, not samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.data.documents import Reading
from lumina.data.jsonvalues import Found
from lumina.data.records import FIELDS
from lumina.data.report import DataError, Issue

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_BYTES = 8 << 20
BATCH_ROWS = 1024


def rows(path: Path, reading: Reading) -> Iterator[Found]:
    """(row, values by column) of a Parquet or Arrow file, rows counted from 1; an issue for one that is not readable.

    Raises `DataError`: damaged, or without a column that could hold a sample.
    """
    import pyarrow as pa

    try:
        number = 0
        for batch in _batches(path, reading):
            for index in range(batch.num_rows):
                number += 1
                yield _row(batch, index, number)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise DataError(f"not an intact {path.suffix[1:]} file ({reason})", str(path)) from error


def _row(batch: pa.RecordBatch, index: int, number: int) -> Found:
    try:
        return number, {name: column[index].as_py() for name, column in zip(batch.schema.names, batch, strict=True)}
    except UnicodeDecodeError as error:
        return Issue(number, f"not UTF-8 text (byte {error.start + 1})")


def _batches(path: Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    if path.suffix.lower() == ".arrow":
        yield from _arrow(path, reading)
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(str(path), pre_buffer=False, memory_map=True) as file:
        columns = _wanted(path, file.schema_arrow, reading)
        yield from file.iter_batches(_rows_per_batch(file.metadata), columns=columns, use_threads=False)


def _rows_per_batch(metadata: Any) -> int:
    """So many rows that the largest row group's average is far below the memory that there is for a batch."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    widest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1.0)
    return int(min(BATCH_ROWS, max(1, BATCH_BYTES / max(1.0, widest))))


def _arrow(path: Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    """Batches of an Arrow stream, as `datasets` saves it, or of an Arrow file; mapped, not read."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            reader: Any = pa.ipc.open_stream(source)
            batches = iter(reader)
        except pa.ArrowInvalid:
            source.seek(0)
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        columns = _wanted(path, reader.schema, reading)
        for batch in batches:
            yield batch.select(columns)


def _wanted(path: Path, schema: pa.Schema, reading: Reading) -> list[str]:
    columns = [name for name in schema.names if name == reading.text_field or name in FIELDS]
    if not columns:
        shown = ", ".join(schema.names[:8]) or "none"
        raise DataError(
            f"no column has text or conversations; its columns are {shown} (data.text_field names another)", str(path)
        )
    return columns
