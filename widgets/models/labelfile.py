"""Labels given by hand, kept as a CSV: one line an act, written whole or not at all, so that a kill costs no label.

A line holds the row's number, the hash of its text and the label (nothing for a row that was skipped), in the order of
the acts: the last line is what `undo` takes back, also after a restart. The hash tells a file of other rows apart.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from slmkit import data, files
from slmkit.errors import InputError, SlmkitError, listed, short
from slmkit.reading import tables

COLUMNS = ("row", "text_sha256", "label")
DIGITS = 24  # of each text's hash: 96 bits
STALE_S = 60  # age of a part from which nobody can be at it still
SHOWN = 5  # lines of another file's that are spelled out


@dataclass(frozen=True)
class Act:
    """One row that was given a label, or skipped (label "")."""

    row: int
    text_sha256: str
    label: str


def text_hash(text: str) -> str:
    """What a text is called in a file of labels: the first 24 hex digits of the SHA-256 of its UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def texts_of(rows: Any, text_column: str | Sequence[str] | None = None) -> pd.DataFrame:
    """Rows to label, from whatever `slmkit.data.rows` reads or a sequence of texts.

    Parameters
    ----------
    rows : str, Path, DataFrame, datasets.Dataset or sequence of str
        A frame's column source_row numbers its rows where it holds whole numbers that differ; else they count from 1.
    text_column
        As `slmkit.data.rows` takes it.

    Returns
    -------
    DataFrame
        Columns row (int), at (place among the rows as given, from 0), text, text_sha256 and, where the rows have such a
        column, label ("" where it is empty); rows without a text are left out. `attrs` holds warnings and n_given.
    """
    if isinstance(rows, pd.Series | np.ndarray):
        rows = rows.tolist()
    if isinstance(rows, Sequence) and not isinstance(rows, str):
        if wrong := [type(text).__name__ for text in rows if not isinstance(text, str)]:
            kinds = listed(dict.fromkeys(wrong))
            raise InputError(f"rows must be texts, a file or a frame; got a sequence with {kinds}")
        rows, text_column = pd.DataFrame({"text": list(rows)}, dtype=object), "text"
    found = data.rows(rows, text_column)
    row = found["source_row"].to_numpy()
    at = row - 1 if isinstance(rows, pd.DataFrame) else np.arange(len(found))
    if (numbers := _numbers(rows)) is not None:
        row = numbers[at]
    hashes = found["text"].map(text_hash)
    frame = pd.DataFrame({"row": row, "at": at, "text": found["text"], "text_sha256": hashes})
    if "label" in found:
        frame["label"] = found["label"]
    n_given = len(rows) if isinstance(rows, pd.DataFrame) else len(frame)
    frame.attrs = {"warnings": found.attrs["warnings"], "n_given": n_given}
    return frame


def labelled(rows: Any, path: str | Path, text_column: str | Sequence[str] | None = None) -> pd.DataFrame:
    """The rows that a file of labels gives a label, ready for `fit` or `slmkit.study`.

    Parameters
    ----------
    rows, text_column
        The rows that were labelled, as `texts_of` takes them.
    path : str or Path
        The CSV that a `Labeller` wrote.

    Returns
    -------
    DataFrame
        Columns text, label and source_row, in the order of the rows.

    Raises
    ------
    InputError
        No such file, or one made of other rows, with the difference.
    """
    frame = texts_of(rows, text_column)
    known = LabelFile(path, frame)
    if not known.path.is_file():
        raise InputError(f"no file at {path}")
    return known.labelled()


class LabelFile:
    """The acts so far, in memory and in a CSV that is replaced after each of them.

    Parameters
    ----------
    path : str or Path
        Ends in .csv; a file that is there is gone on with.
    frame : DataFrame
        As `texts_of` gives it.
    labels : sequence of str or None
        What may stand in the file; None allows any.

    Raises
    ------
    InputError
        A file of other rows (with the difference), of other labels, or that is no file of labels.
    """

    def __init__(self, path: str | Path, frame: pd.DataFrame, labels: Sequence[str] | None = None) -> None:
        self.path, self._frame = Path(path), frame
        if self.path.suffix.lower() != ".csv" or not self.path.parent.is_dir():
            raise InputError(f"{path} must end in .csv and lie in a folder that exists")
        self._acts: tuple[Act, ...] = ()
        self._facts: dict[str, Any] | None = None
        _sweep(self.path)
        if self.path.exists():
            self._acts = _read(self.path)
            _check(self.path, self._acts, frame, labels)
            self._facts = files.facts(self.path)

    @property
    def acts(self) -> tuple[Act, ...]:
        """In the order they were done."""
        return self._acts

    def add(self, act: Act) -> None:
        """Write one more act down; where the disk refuses, nothing has changed."""
        self.save((*self._acts, act))

    def undo(self) -> Act:
        """Take the last act back, and return it."""
        last = self._acts[-1]
        self.save(self._acts[:-1])
        return last

    def save(self, acts: Sequence[Act]) -> None:
        """Replace all acts.

        Raises
        ------
        SlmkitError
            The disk refuses, or somebody else wrote to the file since; it is left as it is, and so are the acts.
        """
        if self.path.exists():
            wrong = files.change(self.path, self._facts) if self._facts else f"{self.path.name} was not there before"
            if wrong:
                raise SlmkitError(f"{self.path}: another program wrote to it ({wrong}). Open it again and go on there")
        with files.on_disk(self.path, "Nothing was lost; this act was not taken"):
            files.replace(self.path, _document(acts))
            self._acts, self._facts = tuple(acts), files.facts(self.path)

    def labelled(self) -> pd.DataFrame:
        """Rows with a label: columns text, label and source_row, in the order of the rows."""
        given = {act.row: act.label for act in self._acts if act.label}
        rows = self._frame[self._frame["row"].isin(list(given))]
        values = {"text": rows["text"], "label": rows["row"].map(given), "source_row": rows["row"]}
        return pd.DataFrame(values).reset_index(drop=True)


def _numbers(rows: Any) -> np.ndarray | None:
    """The numbers a frame's rows have already; None where there are none, or they cannot name a row."""
    if not isinstance(rows, pd.DataFrame) or list(rows.columns).count("source_row") != 1:
        return None
    column = rows["source_row"]
    usable = pd.api.types.is_integer_dtype(column) and column.notna().all() and column.is_unique and column.min() >= 0
    return column.to_numpy(dtype=np.int64) if usable else None


def _sweep(path: Path) -> None:
    """Remove what a process that was killed in the middle of an act left beside the file."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        pid = part.suffixes[-2].removeprefix(".") if len(part.suffixes) > 1 else ""
        with suppress(OSError):
            if pid.isdecimal() and time.time() - part.stat().st_mtime > STALE_S and not psutil.pid_exists(int(pid)):
                part.unlink()


def _document(acts: Sequence[Act]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")  # so that a lone \r is quoted too
    writer.writerow(COLUMNS)
    writer.writerows((act.row, act.text_sha256, tables.guarded(act.label)) for act in acts)
    return out.getvalue()


def _read(path: Path) -> tuple[Act, ...]:
    if path.is_file() and path.read_bytes().strip() == ",".join(COLUMNS).encode():
        return ()  # all was undone
    table = tables.scan(path)
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise InputError(
            f"{path} is no file of labels: it has no column {' and no '.join(missing)}, only {listed(table.columns)}. "
            "Give another name; nothing is written over it"
        )
    found, problems = [], []
    for record in tables.records(table):
        row, digest, label = (tables.as_text(record.values.get(name)) for name in COLUMNS)
        if row.isdecimal():
            found.append(Act(int(row), digest, tables.unguarded(label)))
        else:
            problems.append(f"line {record.line}: row must be a whole number; got {short(row)!r}")
    if problems:
        tables.fail(path, problems)
    return tuple(found)


def _check(path: Path, acts: Sequence[Act], frame: pd.DataFrame, labels: Sequence[str] | None) -> None:
    """Raise one `InputError` with all that does not fit."""
    hashes = dict(zip(frame["row"].tolist(), frame["text_sha256"], strict=True))
    places = {digest: row for row, digest in reversed(hashes.items())}
    odd = [said for act in acts if (said := _difference(act, hashes, places))]
    problems = []
    if odd:
        more = f"; and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
        problems.append(
            f"it was made of other rows: {len(odd)} of its {len(acts)} lines do not fit these {len(frame):,}. "
            f"{'; '.join(odd[:SHOWN])}{more}. Give the rows it was made of, or another file"
        )
    if twice := [row for row, n in Counter(act.row for act in acts).items() if n > 1]:
        problems.append(f"rows that stand there more than once: {listed(twice)}")
    other = sorted({act.label for act in acts if act.label} - set(labels or ()))
    if labels is not None and other:
        problems.append(f"it holds labels that are not among {listed(labels)}: {listed(other)}")
    if problems:
        tables.fail(path, problems)


def _difference(act: Act, hashes: Mapping[int, str], places: Mapping[str, int]) -> str | None:
    now = hashes.get(act.row)
    if now == act.text_sha256:
        return None
    moved = f", and its text stands at row {places[act.text_sha256]}" if act.text_sha256 in places else ""
    if now is None:
        return f"row {act.row} does not exist{moved}"
    both = f"SHA-256 {now[:8]}..., written down {short(act.text_sha256[:8])}..."
    return f"row {act.row} has another text now ({both}){moved}"
