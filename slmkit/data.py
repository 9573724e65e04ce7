"""Labelled texts from a file or a frame, cleaned and checked, with every guess and every dropped row said aloud.

`read` gives the frame that all else works on; `split`, `deduplicate` and `normalise` come from their own modules.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from slmkit.errors import InputError, listed, short
from slmkit.reading import columns, excel, labels, parquet, tables
from slmkit.reading.tables import near_column
from slmkit.splits import Split, deduplicate, given, split
from slmkit.splits.alike import normalise

__all__ = [
    "Split",
    "deduplicate",
    "finish",
    "frame_sha256",
    "given",
    "near_column",
    "normalise",
    "read",
    "rows",
    "split",
]

log = logging.getLogger(__name__)

MAX_CHARACTERS = 20_000
_BREAK = re.compile(r"[ \t]*[\r\n]+[ \t]*")
PARTS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def read(
    path_or_frame: Any,
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    *,
    split_column: str | None = None,
    relabel: str | Mapping[str, str] | None = None,
    few_labels: bool = False,
) -> pd.DataFrame:
    """Read labelled texts.

    Parameters
    ----------
    path_or_frame : str, Path, DataFrame or datasets.Dataset
        A CSV, TSV, JSONL, Parquet, Excel or OpenDocument file (delimiter and encoding are found), a frame, or a data
        set of the library `datasets`; a `DatasetDict` is read whole, its parts in the column part.
    text_column : str, sequence of str or None
        Several (a sequence, or names with commas between) are joined with line breaks, in that order. None takes the
        column by its name or by its content, and says so among the warnings.
    label_column : str or None
        None takes it the same way.
    split_column : str or None
        A column that says train, validation or test, for a split given with the data.
    relabel : "proposed", mapping of old label to new, or None
        None changes no label; what looks like a slip of the pen is proposed among the warnings. "proposed" does that.
    few_labels : bool
        Whether one class alone, or a class with one row, will do: in rows that are only to be tested.

    Returns
    -------
    DataFrame
        Columns text and label (str), group where the input has a column of that name, part where a split is given, and
        source_row, the row's number in the input (from 1, the header apart); index from 0. `attrs["warnings"]` lists
        guesses, proposals and dropped rows, `attrs["sha256"]` is the hash of the rows.

    Raises
    ------
    InputError
        An unusable file, an unknown column (with the near names), one class only, a class with one row. All problems
        of one kind are listed at once. Rows without a label or without a text are dropped with a warning.
    """
    where, table, warnings = table_of(path_or_frame, guessing=text_column is None or label_column is None)
    texts, label_column, guesses = columns.choose(where, table, text_column, label_column, split_column)
    assert label_column is not None  # rows must have labels here
    used = {*texts, label_column, split_column}
    frame = finish(
        _joined(table, texts),
        columns.cells(table, label_column),
        columns.cells(table, "group") if "group" in table and "group" not in used else None,
        columns.cells(table, "part") if _is_dict(path_or_frame) else _parts(where, table, split_column),
        warnings=[*warnings, *guesses],
        relabel=relabel,
    )
    _check_classes(where, frame, label_column, few_labels)
    for warning in frame.attrs["warnings"]:
        log.warning("%s: %s", where, warning)
    return frame


def rows(
    path_or_frame: Any,
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    *,
    split_column: str | None = None,
) -> pd.DataFrame:
    """Read texts for looking at, with the labels, groups and parts they have; nothing is required but a text.

    Parameters and the file kinds are those of `read`. Returns the columns text, source_row and, where there are such,
    label, group and part; rows without a text are dropped, and counted in `attrs["warnings"]`.
    """
    where, table, notes = table_of(path_or_frame, guessing=text_column is None)
    texts, label, guesses = columns.choose(where, table, text_column, label_column, split_column, labelled=False)
    frame = pd.DataFrame({"text": list(map(tables.as_text, _joined(table, texts)))}, dtype=object)
    frame["source_row"] = range(1, len(frame) + 1)
    for name, column in (("label", label), ("group", "group")):
        if column is not None and column in table and column not in texts:
            frame[name] = [tables.as_text(value).strip() for value in columns.cells(table, column)]
    if parts := _parts(where, table, split_column):
        frame["part"] = parts
    filled = frame["text"].map(lambda text: bool(text.strip()))
    if not filled.all():
        notes = [*notes, f"{(~filled).sum():,} of {len(frame):,} rows dropped: empty text or only spaces"]
    frame = frame[filled].reset_index(drop=True)
    if frame.empty:
        raise InputError(f"{where} holds no text")
    if parts and (without := int((frame["part"] == "").sum())):
        notes = [*notes, f"{without:,} rows belong to no part"]
    frame.attrs = {"warnings": [*notes, *guesses]}
    return frame


def finish(
    texts: Sequence[object],
    labels_: Sequence[object],
    groups: Sequence[object] | None = None,
    parts: Sequence[str] | None = None,
    *,
    warnings: Sequence[str] = (),
    relabel: str | Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Build the frame that `read` returns from raw columns: unusable rows dropped, long texts cut, all of it said.

    Parameters
    ----------
    texts, labels_ : sequence, length n
        Any values; missing ones (None, NaN, empty, only spaces) drop their row with a warning that counts them.
    groups : sequence or None
        What rows belong together by; an empty value means a row of its own.
    parts : sequence of str or None
        "train", "validation", "test" or "", where a split is given.
    warnings : sequence of str
        What was noticed before.
    relabel
        As `read` takes it.
    """
    raw = [tables.as_text(v) for v in labels_]
    found = {"text": [tables.as_text(t) for t in texts], "label": [_BREAK.sub(" ", v.strip()) for v in raw]}
    if groups is not None:
        found["group"] = [tables.as_text(g).strip() for g in groups]
    if parts is not None:
        found["part"] = list(parts)
    frame, notes = pd.DataFrame(found, dtype=object), list(warnings)
    frame["source_row"] = range(1, len(frame) + 1)
    if spaced := sum(v != v.strip() and bool(v.strip()) for v in raw):
        notes.append(f"{spaced:,} labels had spaces around them, which were taken off")
    if broken := sum(_BREAK.search(v.strip()) is not None for v in raw):
        notes.append(f"{broken:,} labels had line breaks in them, which are read as spaces")
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
    notes += _relabel(frame, relabel)
    frame.attrs = {"warnings": notes, "sha256": frame_sha256(frame)}
    return frame


def joined(train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Two frames of `read` as one, with the column part: "train" for the first, "test" for the second."""
    bare = [frame.drop(columns="part", errors="ignore") for frame in (train, test)]
    frame = pd.concat([bare[0].assign(part="train"), bare[1].assign(part="test")], ignore_index=True)
    if "group" in frame:
        frame["group"] = frame["group"].fillna("")
    frame.attrs = {
        "warnings": [*train.attrs.get("warnings", ()), *test.attrs.get("warnings", ())],
        "sha256": frame_sha256(frame),
    }
    return frame


def frame_sha256(frame: pd.DataFrame) -> str:
    """SHA-256 of the rows in their order (text, label and group, if there is one), as hexadecimal digits."""
    columns = [frame[c].tolist() for c in ("text", "label", "group") if c in frame]
    digest = hashlib.sha256()
    for row in zip(*columns, strict=True):
        digest.update(json.dumps(row).encode("ascii"))
    return digest.hexdigest()


def table_of(source: Any, *, guessing: bool) -> tuple[str, pd.DataFrame, list[str]]:
    """What to call the source, its columns as they stand, and what was noticed."""
    if isinstance(source, pd.DataFrame):
        if source.empty:
            raise InputError("the frame has no rows")
        return "the frame", source.set_axis([str(c) for c in source.columns], axis=1), []
    if _is_dict(source):
        parts = {str(name): _plain(part) for name, part in source.items()}
        named = [frame.assign(part=PARTS.get(name.casefold(), "")) for name, frame in parts.items()]
        other = [f"{short(name)!r} ({len(f):,} rows)" for name, f in parts.items() if name.casefold() not in PARTS]
        notes = [f"neither train, validation nor test by their names: {', '.join(other)}"] if other else []
        return "the DatasetDict", pd.concat(named, ignore_index=True), notes
    if hasattr(source, "features") and hasattr(source, "to_pandas"):
        return "the Dataset", _plain(source), []
    if not isinstance(source, (str, Path)):
        raise InputError(f"a file, a frame or a Dataset can be read; got {type(source).__name__}")
    path = Path(source)
    ending = path.suffix.lower()
    if ending in excel.KINDS and path.is_file():
        return str(path), *excel.read(path)
    if ending not in (*tables.KINDS, *excel.KINDS) and path.is_file():
        allowed = ", ".join((*tables.KINDS, *excel.KINDS))
        raise InputError(f"{path}: ending {ending or 'none'!r} is not supported. Allowed: {allowed}")
    return str(path), *_load(path, guessing=guessing)


def _is_dict(source: Any) -> bool:
    """Whether this is a `DatasetDict`, told by its values, so that the library need not be installed."""
    return isinstance(source, dict) and bool(source) and all(hasattr(v, "to_pandas") for v in source.values())


def _plain(dataset: Any) -> pd.DataFrame:
    """A `datasets.Dataset` as a frame, class numbers as their names."""
    frame = dataset.to_pandas()
    if frame.empty:
        raise InputError("the Dataset has no rows")
    for name, feature in dataset.features.items():
        if hasattr(feature, "names") and hasattr(feature, "int2str"):
            known = range(len(feature.names))
            frame[name] = [feature.names[int(v)] if v in known else None for v in frame[name]]
    return frame.set_axis([str(c) for c in frame.columns], axis=1)


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
        columns.refuse_missing_header(table, cells)
    return pd.DataFrame(cells, dtype=object), list(table.warnings)


def _joined(table: pd.DataFrame, names: Sequence[str]) -> list[object]:
    if len(names) == 1:
        return columns.cells(table, names[0])
    return [columns.one_text(row) for row in zip(*(columns.cells(table, name) for name in names), strict=True)]


def _parts(where: str, table: pd.DataFrame, column: str | None) -> list[str] | None:
    if column is None:
        return None
    values = pd.Series(list(map(tables.as_text, columns.cells(table, column)))).str.strip().str.casefold()
    wrong = sorted(set(values) - set(PARTS) - {""})
    if wrong:
        raise InputError(
            f"{where}: column {short(column)!r} must say train, validation or test (or nothing, for rows of no part); "
            f"it says {listed(wrong)}"
        )
    there = set(values.map(PARTS.get))
    missing = [
        what for what, found in (("train", "train" in there), ("test", there & {"test", "validation"})) if not found
    ]
    if missing:
        raise InputError(f"{where}: column {short(column)!r} names no {' and no '.join(missing)} row")
    return [PARTS.get(value, "") for value in values]


def _relabel(frame: pd.DataFrame, relabel: str | Mapping[str, str] | None) -> list[str]:
    """Rename labels in place if asked to, and say what was done or could be."""
    if isinstance(relabel, str) and relabel != "proposed":
        raise InputError(f"relabel must be 'proposed' or a mapping of old labels to new; got {short(relabel)!r}")
    proposals = labels.propose(frame["label"])
    if relabel is None:
        if not proposals:
            return []
        said = [p.sentence() for p in proposals]
        return [*said, "no label was changed; relabel='proposed' (--relabel) merges what is named here"]
    if isinstance(relabel, str):
        into = labels.mapping(proposals)
    else:
        into = {tables.as_text(old): tables.as_text(new).strip() for old, new in relabel.items()}
    problems = []
    if unknown := sorted(set(into) - set(frame["label"])):
        problems.append(f"relabel names labels that do not occur: {listed(unknown)}")
    if empty := sorted(old for old, new in into.items() if not new):
        problems.append(f"relabel gives no new label for {listed(empty)}")
    if problems:
        raise InputError("; ".join(problems))
    counts = frame["label"].value_counts()
    frame["label"] = frame["label"].map(lambda label: into.get(label, label))
    return [
        f"label {short(old)!r} renamed to {short(new)!r} in {counts[old]:,} rows, as asked" for old, new in into.items()
    ]


def _check_classes(where: str, frame: pd.DataFrame, label_column: str, few_labels: bool) -> None:
    counts = frame["label"].value_counts()
    if len(counts) == 0:
        tables.fail(where, [f"no usable row is left: {'; '.join(frame.attrs['warnings'])}"])
    if few_labels:
        return
    problems, column = [], short(label_column)
    if len(counts) == 1:
        problems.append(f"column {column!r} holds one class only ({short(counts.index[0])!r}); two are needed")
    single = sorted(counts.index[counts == 1])
    if len(single) > 10:
        problems.append(f"{len(single):,} classes have one row each; is {column!r} the label column?")
    elif len(counts) > 1:
        meant = {p.found: p.into for p in labels.propose(frame["label"])}
        for name in single:
            into = (
                f"is {short(meant[name])!r} meant? relabel='proposed' (--relabel) merges them" if name in meant else ""
            )
            problems.append(f"class {short(name)!r} has one row; {into or 'merge it into another class or drop it'}")
    if problems:
        tables.fail(where, problems)
