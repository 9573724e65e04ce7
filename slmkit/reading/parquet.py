"""Parquet files read and written batch by batch with pyarrow, so that their size does not matter."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from slmkit.errors import InputError, MissingExtra

GROUP_ROWS, GROUP_BYTES = 65_536, 16 * 2**20  # a row group ends at either


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`, to be closed; `InputError` when the file is none."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("Parquet files need pyarrow: pip install pyarrow") from error
    try:
        return parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False)  # else it reads whole row groups
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file (cut off or altered): {error}") from error


def check_text_type(path: Path, column: str) -> None:
    """Raise `InputError` unless the column holds strings."""
    import pyarrow as pa

    with open_parquet(path) as file:
        kind = file.schema_arrow.field(column).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(test(plain) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        raise InputError(f"{path}: column {column!r} holds {kind}, not text")


def cells(path: Path, columns: Sequence[str], skip: int, batch_rows: int) -> Iterator[list[tuple[str, ...]]]:
    """Texts of some columns after the first `skip` rows, in batches of at most `batch_rows`; null becomes ""."""
    with open_parquet(path) as file:
        ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
        first = int(np.searchsorted(ends, skip, side="right"))
        skip -= int(ends[first - 1]) if first else 0
        groups = list(range(first, file.num_row_groups))
        wanted = list(columns)
        for batch in file.iter_batches(batch_size=batch_rows, columns=wanted, row_groups=groups) if groups else ():
            read = [[value or "" for value in batch.column(name).slice(skip).to_pylist()] for name in wanted]
            skip = max(0, skip - batch.num_rows)
            if read[0]:
                yield list(zip(*read, strict=True))


def add_columns(path: Path, out: Path, classes: Sequence[str], probabilities: IO[bytes], batch_rows: int) -> None:
    """Write the input with `predicted` and `p_<class>` added, same schema, same order, fsynced.

    Parameters
    ----------
    path, out : Path
    classes : sequence of str
    probabilities : binary file
        Little-endian float64, n_classes a row, NaN where there is no prediction.
    batch_rows : int
        Rows read at a time; up to 16 MB of them wait to be written as one row group.
    """
    import pyarrow as pa
    from pyarrow import parquet

    with open_parquet(path) as file:
        schema = file.schema_arrow.append(pa.field("predicted", pa.string()))
        for name in classes:
            schema = schema.append(pa.field(f"p_{name}", pa.float64()))
        with parquet.ParquetWriter(out, schema, compression=_compression(file)) as writer:
            for batches in _row_groups(file, batch_rows):
                writer.write_table(
                    pa.Table.from_batches([_widened(b, schema, classes, probabilities) for b in batches])
                )
                pa.default_memory_pool().release_unused()  # else what was freed stays with the process
    with open(out, "rb+") as written:
        os.fsync(written.fileno())


def _row_groups(file: Any, batch_rows: int) -> Iterator[list[Any]]:
    """Batches of the input in order, as many at a time as make a row group."""
    waiting: list[Any] = []
    size = n_rows = 0
    for group in range(file.num_row_groups):
        for batch in file.iter_batches(batch_size=batch_rows, row_groups=[group]):
            waiting.append(batch)
            size, n_rows = size + batch.nbytes, n_rows + batch.num_rows
            if n_rows >= GROUP_ROWS or size >= GROUP_BYTES:
                yield waiting
                waiting, size, n_rows = [], 0, 0
    if waiting:
        yield waiting


def _widened(batch: Any, schema: Any, classes: Sequence[str], probabilities: IO[bytes]) -> Any:
    """A batch with the new columns, from the next of its rows' probabilities."""
    import pyarrow as pa

    block = probabilities.read(8 * len(classes) * batch.num_rows)
    proba = np.frombuffer(block, dtype="<f8").reshape(batch.num_rows, len(classes))
    return pa.RecordBatch.from_arrays([*batch.columns, *_added(classes, proba)], schema=schema)


def _added(classes: Sequence[str], proba: np.ndarray) -> list[Any]:
    """The new columns of a batch from probabilities of shape (n_rows, n_classes)."""
    import pyarrow as pa

    empty = np.isnan(proba[:, 0])
    best = np.asarray(classes, dtype=object)[np.where(empty, 0, proba.argmax(axis=1))]
    predicted = pa.array(best, type=pa.string(), mask=empty)
    return [predicted, *(pa.array(proba[:, i], type=pa.float64(), mask=empty) for i in range(len(classes)))]


def _compression(file: Any) -> str:
    """The codec of the input's first column, in the writer's words."""
    if file.num_row_groups == 0 or file.metadata.num_columns == 0:
        return "snappy"
    codec = str(file.metadata.row_group(0).column(0).compression).lower()
    return "none" if codec == "uncompressed" else codec
