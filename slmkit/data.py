"""Labelled texts from a file or a frame, cleaned and checked, with every guess and every dropped row said aloud.

`read` gives the frame that all else works on; `split`, `deduplicate` and `normalise` come from `slmkit.splits`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from slmkit import parquet, tables
from slmkit.errors import InputError
from slmkit.splits import Split, deduplicate, normalise, split
from slmkit.tables import near_column

__all__ = [
    "Split", "deduplicate", "finish", "frame_sha256", "guess_text_column", "near_column", "normalise", "read", "split",
]  # fmt: skip

log = logging.getLogger(__name__)

MAX_CHARACTERS = 20_000
TEXT_NAMES = (
    *("text", "message", "sms", "sentence", "tweet", "content", "body", "review", "comment", "document"),
    *("description", "transcript", "v2"),
)
LABEL_NAMES = (
    *("label", "class", "category", "target", "sentiment", "is_fraud", "fraud", "is_spam", "spam", "scam", "tag"),
    *("intent", "y", "v1"),
)
MAX_GUESSED_CLASSES = 50


def read(
    path_or_frame: str | Path | pd.DataFrame, text_column: str | None = None, label_column: str | None = None
) -> pd.DataFrame:
    """Read labelled texts.

    Parameters
    ----------
    path_or_frame : str, Path or DataFrame
        A CSV, TSV, JSONL or Parquet file (delimiter and encoding are found), or a frame.
    text_column, label_column : str or None
        None takes the column by its name or by its content, and says so among the warnings.

    Returns
    -------
    DataFrame
        Columns text and label (str), and group where the input has a column of that name; index from 0.
        `attrs["warnings"]` lists guesses and dropped rows, `attrs["sha256"]` is the hash of the rows.

    Raises
    ------
    InputError
        An unusable file, an unknown column (with the near names), one class only, a class with one row. All problems
        of one kind are listed at once. Rows without a label or without a text are dropped with a warning.
    """
    if isinstance(path_or_frame, pd.DataFrame):
        where, table = "the frame", path_or_frame
        warnings: list[str] = []
        if table.empty:
            raise InputError("the frame has no rows")
        table = table.set_axis([str(c) for c in table.columns], axis=1)
    else:
        where = str(path_or_frame)
        table, warnings = _load(Path(path_or_frame), guessing=text_column is None or label_column is None)
    text_column, label_column, guesses = _columns(where, table, text_column, label_column)
    groups = table["group"].tolist() if "group" in table and "group" not in (text_column, label_column) else None
    frame = finish(table[text_column].tolist(), table[label_column].tolist(), groups, warnings=[*warnings, *guesses])
    _check_classes(where, frame, label_column)
    for warning in frame.attrs["warnings"]:
        log.warning("%s: %s", where, warning)
    return frame


def finish(
    texts: Sequence[object],
    labels: Sequence[object],
    groups: Sequence[object] | None = None,
    *,
    warnings: Sequence[str] = (),
) -> pd.DataFrame:
    """Build the frame that `read` returns from raw columns: labels stripped, unusable rows dropped, long texts cut.

    Parameters
    ----------
    texts, labels : sequence, length n
        Any values; missing ones (None, NaN, empty, only spaces) drop their row with a warning that counts them.
    groups : sequence or None
        What rows belong together by; an empty value means a row of its own.
    warnings : sequence of str
        What was noticed before.
    """
    columns = {"text": [tables.as_text(t) for t in texts], "label": [tables.as_text(v).strip() for v in labels]}
    if groups is not None:
        columns["group"] = [tables.as_text(g).strip() for g in groups]
    frame, notes = pd.DataFrame(columns, dtype=object), list(warnings)
    no_label, no_text = frame["label"] == "", frame["text"].map(lambda t: not t.strip())
    if no_label.any():
        notes.append(f"{no_label.sum():,} of {len(frame):,} rows dropped: no label")
    if (no_text & ~no_label).any():
        notes.append(f"{(no_text & ~no_label).sum():,} of {len(frame):,} rows dropped: empty text or only spaces")
    frame = frame[~(no_label | no_text)].reset_index(drop=True)
    long = frame["text"].str.len() > MAX_CHARACTERS
    if long.any():
        notes.append(f"{long.sum():,} texts above {MAX_CHARACTERS:,} characters cut to that length")
        frame["text"] = frame["text"].str.slice(0, MAX_CHARACTERS)
    frame.attrs = {"warnings": notes, "sha256": frame_sha256(frame)}
    return frame


def frame_sha256(frame: pd.DataFrame) -> str:
    """SHA-256 of the rows in their order (text, label and group, if there is one), as hexadecimal digits."""
    columns = [frame[c].tolist() for c in ("text", "label", "group") if c in frame]
    digest = hashlib.sha256()
    for row in zip(*columns, strict=True):
        digest.update(json.dumps(row).encode("ascii"))
    return digest.hexdigest()


def guess_text_column(columns: Sequence[str]) -> str | None:
    """The column that a name like "text" or "message" marks as the text, or the only one; None when none does."""
    return _by_name(columns, TEXT_NAMES) or (columns[0] if len(columns) == 1 else None)


def _load(path: Path, *, guessing: bool) -> tuple[pd.DataFrame, list[str]]:
    table = tables.scan(path)
    if table.kind == "Parquet":
        with parquet.open_parquet(path) as file:
            frame = file.read().to_pandas(ignore_metadata=True)
        return frame, list(table.warnings)
    cells: dict[str, list[Any]] = {name: [] for name in table.columns}
    for record in tables.records(table):
        for name, column in cells.items():
            column.append(record.values.get(name))
    if guessing and table.kind != "JSONL":
        _refuse_missing_header(table, cells)
    return pd.DataFrame(cells, dtype=object), list(table.warnings)


def _refuse_missing_header(table: tables.Table, cells: dict[str, list[Any]]) -> None:
    for name, column in cells.items():
        others = [other for other in table.columns if other != name]
        if name and name in column and not (_by_name(others, TEXT_NAMES) or _by_name(others, LABEL_NAMES)):
            raise InputError(
                f"{table.path}: the first line looks like a row, not like column names ({name!r} "
                "stands in its column again). Put a line with column names first, for example: label,text"
            )


def _columns(where: str, table: pd.DataFrame, text: str | None, label: str | None) -> tuple[str, str, list[str]]:
    """Text column, label column, and how they were found where nobody named them."""
    problems, notes, columns = [], [], list(table.columns)
    for given in (text, label):
        try:
            if given is not None:
                near_column(given, columns)
        except InputError as error:
            problems.append(str(error))
    if len(columns) < 2:
        problems.append(f"two columns are needed, texts and labels; there is only {', '.join(map(repr, columns))}")
    elif text is not None and text == label:
        problems.append(f"text and label cannot both be column {text!r}")
    if problems:
        tables.fail(where, problems)
    if label is None:
        label, why = _guess_label(where, table, [c for c in columns if c != text])
        notes += [f"label column {label!r} taken {why}"] if label != "label" else []
    if text is None:
        text, why = _guess_text(where, table, [c for c in columns if c != label])
        notes += [f"text column {text!r} taken {why}"] if text != "text" else []
    return text, label, notes


def _by_name(columns: Sequence[str], names: Sequence[str]) -> str | None:
    folded = {c.strip().casefold(): c for c in reversed(columns)}
    return next((folded[name] for name in names if name in folded), None)


def _guess_label(where: str, table: pd.DataFrame, columns: list[str]) -> tuple[str, str]:
    if name := _by_name(columns, LABEL_NAMES):
        return name, "by its name"
    text_name = _by_name(columns, TEXT_NAMES)
    distinct = {c: table[c].map(tables.as_text).nunique() for c in columns if c not in (text_name, "group")}
    few = {c: n for c, n in distinct.items() if 2 <= n <= min(MAX_GUESSED_CLASSES, len(table) // 2)}
    if len(few) != 1:
        raise InputError(
            f"{where}: which column holds the labels? {len(few) or 'none'} of the columns could. "
            f"Name it with label_column (--label-column). Columns: {', '.join(map(repr, columns))}"
        )
    name, n = few.popitem()
    return name, f"because it alone has few values ({n})"


def _guess_text(where: str, table: pd.DataFrame, columns: list[str]) -> tuple[str, str]:
    if name := _by_name(columns, TEXT_NAMES):
        return name, "by its name"
    if len(columns) == 1:
        return columns[0], "because no other is left"
    lengths = sorted(((float(table[c].map(lambda v: len(tables.as_text(v))).mean()), c) for c in columns), reverse=True)
    (longest, name), (second, _) = lengths[:2]
    if longest < 2 * second:
        raise InputError(
            f"{where}: which column holds the texts? Name it with text_column (--text-column). "
            f"Columns: {', '.join(map(repr, columns))}"
        )
    return name, f"because its values are the longest ({longest:.0f} characters on average)"


def _check_classes(where: str, frame: pd.DataFrame, label_column: str) -> None:
    counts = frame["label"].value_counts()
    if len(counts) == 0:
        tables.fail(where, [f"no usable row is left: {'; '.join(frame.attrs['warnings'])}"])
    problems = []
    if len(counts) == 1:
        problems.append(f"column {label_column!r} holds one class only ({counts.index[0]!r}); two are needed")
    single = sorted(counts.index[counts == 1])
    if len(single) > 10:
        problems.append(f"{len(single):,} classes have one row each; is {label_column!r} the label column?")
    elif len(counts) > 1:
        problems += [f"class {name!r} has one row; merge it into another class or drop it" for name in single]
    if problems:
        tables.fail(where, problems)
