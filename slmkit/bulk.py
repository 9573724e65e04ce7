"""Classifies a table of any size in bounded memory: the input's bytes are copied as they stand, columns are added.

Rows go to `OUTPUT.part` (`slmkit.files.partfile`), so that Ctrl-C, `kill -9` or a full disk lose one batch at most; the
output appears at once, when it is whole. For Parquet, which cannot be appended to, the part holds the probabilities
(float64, row by row) and the output is put together at the end.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from slmkit import data
from slmkit.errors import InputError, SlmkitError, listed
from slmkit.files import partfile
from slmkit.files.partfile import State
from slmkit.reading import columns, parquet, tables
from slmkit.reading.tables import Record, Table

log = logging.getLogger(__name__)

BATCH_BYTES = 32 * 2**20  # a batch ends here even with fewer rows
PROGRESS_S = 0.25
Progress = Callable[[Mapping[str, Any]], None]
Batch = tuple[list[Record], list[str]]  # rows as they stand (none for Parquet) and their texts


class Estimator(Protocol):
    """What this file needs of a classifier."""

    classes_: np.ndarray

    def predict_proba(self, texts: list[str]) -> np.ndarray:
        """Probabilities, shape (n_texts, n_classes)."""


def classify_file(
    model_folder: str | Path,
    input: str | Path,
    output: str | Path,
    *,
    text_column: str | Sequence[str] | None = None,
    resume: bool = True,
    batch_rows: int = 2048,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Classify every row of a file and write it with the columns `predicted` and `p_<class>` added.

    Parameters
    ----------
    model_folder : str or Path
        What `save` of a classifier wrote.
    input : str or Path
        A CSV, TSV, JSONL or Parquet file. Its columns, cells and row order are copied as they are.
    output : str or Path
        A file of the same kind that does not exist yet.
    text_column : str, sequence of str or None
        Several (a sequence, or names with commas between) are joined as `slmkit.read` joins them. None takes the column
        named like a text ("text", "message", ...), or the only one.
    resume : bool
        Go on with an unfinished part of the same input and model; False starts again from the first row.
    batch_rows : int
        Rows read, classified and secured at a time: more take more memory and lose more work when stopped.
    progress : callable or None
        Gets {"rows", "total_rows", "rows_per_s", "seconds_left"} at most four times a second; an exception it
        raises stops the work, which can then be resumed.

    Returns
    -------
    dict
        rows (all of the output), empty (rows without a text: no prediction), formula_cells (cells of the input that a
        spreadsheet would run, which stay as they are), seconds and rows_per_s of this call, resumed_from (rows that
        were there before), output.

    Raises
    ------
    InputError
        Anything wrong with the input, the output or the part that stands there.
    SlmkitError
        The disk is full or cannot be written; what is done so far is kept.
    """
    started = time.monotonic()
    source, target = Path(input), Path(output)
    if batch_rows < 1:
        raise InputError(f"batch_rows must be at least 1; got {batch_rows}")
    _check_target(source, target)
    table = tables.scan(source)
    texts = _text_columns(table, text_column)
    model_sha256 = _folder_sha256(Path(model_folder))
    fresh = State(0, 0, 0, source.stat().st_size, _first_mb(source), model_sha256, texts)
    if resume:  # refuse before a model is loaded
        partfile.resumable(target, fresh)
    from slmkit import classify

    estimator: Estimator = classify.load(Path(model_folder))
    try:
        names = [str(c) for c in estimator.classes_]
        _check_new_columns(table, names)
        with partfile.part_file(target, fresh, resume=resume) as (part, state):
            done = _append_all(part, state, table, estimator, names, target, batch_rows, progress)
            finished = Path(part.name)
            if table.kind == "Parquet":
                finished = _assemble(table, names, finished, batch_rows)
        with partfile.on_disk(target, done.rows):
            os.replace(finished, target)
    finally:
        if hasattr(estimator, "release"):
            estimator.release()
    if done.formula_cells:
        log.warning(
            "%s: %s cells begin like formulas, as they did in the input; do not open it in a spreadsheet unchecked",
            target, f"{done.formula_cells:,}",
        )  # fmt: skip
    for leftover in (partfile.part_path(target), partfile.state_path(target)):
        leftover.unlink(missing_ok=True)
    seconds = time.monotonic() - started
    return {
        "rows": done.rows,
        "empty": done.empty,
        "formula_cells": done.formula_cells,
        "seconds": seconds,
        "rows_per_s": (done.rows - state.rows) / seconds,
        "resumed_from": state.rows,
        "output": str(target),
    }


def _check_target(source: Path, target: Path) -> None:
    problems = []
    if target.exists() and source.exists() and target.samefile(source):
        problems.append("input and output are the same file")
    elif target.exists():
        problems.append("the output exists; delete it or choose another name")
    if not target.parent.is_dir():
        problems.append(f"there is no folder {target.parent}")
    kinds = tables.kind_of(source), tables.kind_of(target)
    if kinds[0] != kinds[1]:
        problems.append(f"the output must be {kinds[0]} as the input is; its ending says {kinds[1]}")
    if problems:
        tables.fail(target, problems)


def _text_columns(table: Table, given: str | Sequence[str] | None) -> list[str]:
    try:
        found = [data.near_column(name, table.columns) for name in columns.listed_columns(given, table.columns)]
    except InputError as error:
        raise InputError(f"{table.path}: {error}") from error
    if not found and (guessed := columns.guess_text_column(table.columns)):
        log.info("%s: text column %r taken by its name", table.path, guessed)
        found = [guessed]
    if not found:
        raise InputError(
            f"{table.path}: which column holds the texts? Name it with text_column (--text-column). "
            f"Columns: {listed(table.columns)}"
        )
    if table.kind == "Parquet":
        for name in found:
            parquet.check_text_type(table.path, name)
    return found


def _check_new_columns(table: Table, names: list[str]) -> None:
    new = ["predicted", *(f"p_{name}" for name in names)]
    if clash := [name for name in new if name in table.columns]:
        raise InputError(
            f"{table.path} already has the column {', '.join(map(repr, clash))}, which the model would add. "
            "Rename it, or start from the table without it"
        )
    try:
        _csv_cells(table, new)
    except (UnicodeEncodeError, csv.Error) as error:
        raise InputError(f"{table.path}: the classes {names} cannot be written as the file is ({error})") from error


def _first_mb(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(2**20)).hexdigest()


def _folder_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _append_all(
    part: IO[bytes],
    state: State,
    table: Table,
    estimator: Estimator,
    names: list[str],
    target: Path,
    batch_rows: int,
    progress: Progress | None,
) -> State:
    """Classify what is missing, batch after batch; each is on the disk before the state counts it."""
    started, said, begun_at = time.monotonic(), 0.0, state.rows
    for rows, texts in _batches(table, state.text_columns, state.rows, batch_rows):
        proba = _score(estimator, texts, len(names))
        block = _encode(table, names, rows, proba, with_header=state.rows == 0)
        n_empty = int(np.isnan(proba[:, 0]).sum())
        counts = {"rows": state.rows + len(texts), "empty": state.empty + n_empty, "bytes": state.bytes + len(block)}
        if table.kind in ("CSV", "TSV"):
            n_formulas = sum(tables.is_formula(cell) for row in rows for cell in row.values.values())
            counts["formula_cells"] = state.formula_cells + n_formulas
        with partfile.on_disk(Path(part.name), state.rows):
            write_whole(part, block)
            os.fsync(part.fileno())
            partfile.write_state(target, State(**{**asdict(state), **counts}))
        state = State(**{**asdict(state), **counts})
        if progress and (time.monotonic() - said > PROGRESS_S or state.rows == table.n_rows):
            said = time.monotonic()
            rate = (state.rows - begun_at) / max(said - started, 1e-9)
            left = (table.n_rows - state.rows) / rate
            progress({"rows": state.rows, "total_rows": table.n_rows, "rows_per_s": rate, "seconds_left": left})
    return state


def write_whole(part: IO[bytes], block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[part.write(view) :]


def _batches(table: Table, names: Sequence[str], skip: int, batch_rows: int) -> Iterator[Batch]:
    if table.kind == "Parquet":
        yield from (([], [*map(columns.one_text, b)]) for b in parquet.cells(table.path, names, skip, batch_rows))
        return
    rows: list[Record] = []
    size = 0
    for record in islice(tables.records(table), skip, None):
        rows.append(record)
        size += len(record.raw)
        if len(rows) == batch_rows or size > BATCH_BYTES:
            yield rows, [columns.one_text([r.values.get(name) for name in names]) for r in rows]
            rows, size = [], 0
    if rows:
        yield rows, [columns.one_text([r.values.get(name) for name in names]) for r in rows]


def _score(estimator: Estimator, texts: list[str], n_classes: int) -> np.ndarray:
    """Probabilities, shape (n_texts, n_classes); NaN for empty texts, equal texts are scored once."""
    cut = [text[: data.MAX_CHARACTERS] if text.strip() else "" for text in texts]
    unique = list(dict.fromkeys(text for text in cut if text))
    proba = np.full((len(texts), n_classes), np.nan)
    if unique:
        scored = np.asarray(estimator.predict_proba(unique), dtype=np.float64)
        if scored.shape != (len(unique), n_classes) or not np.isfinite(scored).all():
            raise SlmkitError(
                f"the model gave probabilities of shape {scored.shape} or not finite, for {len(unique)} texts"
            )
        position = {text: i for i, text in enumerate(unique)}
        filled = [i for i, text in enumerate(cut) if text]
        proba[filled] = scored[[position[cut[i]] for i in filled]]
    return proba


def _encode(table: Table, names: list[str], rows: list[Record], proba: np.ndarray, *, with_header: bool) -> bytes:
    """What a batch adds to the part file."""
    if table.kind == "Parquet":
        return proba.astype("<f8").tobytes()
    header = b""
    if with_header:
        header = b"\xef\xbb\xbf" if table.has_bom else b""
        if table.kind != "JSONL":
            added = _csv_cells(table, ["predicted", *(f"p_{name}" for name in names)])
            header += tables.header_bytes(table) + added + table.newline
    add = _json_row if table.kind == "JSONL" else _csv_row
    lines = (add(table, row, _cells(names, p)) + table.newline for row, p in zip(rows, proba, strict=True))
    return header + b"".join(lines)


def _cells(names: list[str], p: np.ndarray) -> dict[str, Any]:
    if np.isnan(p[0]):
        return {"predicted": None, **{f"p_{name}": None for name in names}}
    rounded = {f"p_{name}": float(f"{value:.6g}") for name, value in zip(names, p, strict=True)}
    return {"predicted": names[int(p.argmax())], **rounded}


def _csv_row(table: Table, row: Record, cells: dict[str, Any]) -> bytes:
    missing = table.delimiter.encode() * (len(table.columns) - row.n_cells)
    return row.raw + missing + _csv_cells(table, list(cells.values()))


def _csv_cells(table: Table, cells: list[Any]) -> bytes:
    """Cells with a delimiter before each; a label that a spreadsheet would run as a formula gets an apostrophe."""
    line = io.StringIO()
    writer = csv.writer(line, delimiter=table.delimiter, quoting=table.quoting, lineterminator="")
    writer.writerow(["", *(tables.guarded(cell) if isinstance(cell, str) else cell for cell in cells)])
    return line.getvalue().encode(table.encoding)


def _json_row(table: Table, row: Record, cells: dict[str, Any]) -> bytes:
    added = json.dumps(cells, ensure_ascii=False)[1:]
    body = row.raw[: row.raw.rindex(b"}")].rstrip()
    return body + (b", " if row.n_cells else b"") + added.encode(table.encoding)


def _assemble(table: Table, names: list[str], part: Path, batch_rows: int) -> Path:
    """Join input and probabilities into a whole Parquet file beside the part, which stays until that is in place."""
    finished = part.with_name(part.name + ".parquet")
    try:
        with partfile.on_disk(finished, table.n_rows), open(part, "rb") as file:
            parquet.add_columns(table.path, finished, names, file, batch_rows)
    except BaseException:
        with suppress(OSError):
            finished.unlink(missing_ok=True)
        raise
    return finished
