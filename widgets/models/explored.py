"""Rows to look at, from a task, a file or a frame, with the Python that reads them, and the parts that may leak.

Rows that a study would take are read as it reads them; others (without labels, with one class) are read for looking at,
and what keeps them out of a study is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

import slmkit
from slmkit import data, tasks, text
from slmkit.errors import InputError
from slmkit.plots.lengths import text_lengths
from slmkit.splits import leaks
from slmkit.splits.splitfile import GivenSplit

PARTS = ("train", "validation", "test")
MOST_LABELS, MOST_LINES = 50, 60
LIMITS = (64, 128, 256, 512)
SEED = 0  # of slmkit's own split


@dataclass(frozen=True)
class Opened:
    """Rows and what is known of them.

    Attributes
    ----------
    name : str
    frame : DataFrame
        Columns text and source_row, and label, group and part where the rows have them; index from 0.
    card : str
        Markdown; "" for rows of one's own.
    notes : tuple of str
        What reading had to say.
    code : tuple of str
        Python that gives `frame`.
    licence : str
    """

    name: str
    frame: pd.DataFrame
    card: str
    notes: tuple[str, ...]
    code: tuple[str, ...]
    licence: str


def is_task(source: Any) -> bool:
    """Whether this is the name of a task, which wins over a file called the same."""
    return isinstance(source, str) and source in tasks.names()


def read(
    source: Any,
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
) -> Opened:
    """Read rows from a task's name, a file's path, a frame or a `datasets.Dataset`.

    Parameters
    ----------
    source
    text_column, label_column, split_column
        As `slmkit.read` takes them.

    Raises
    ------
    InputError, AssetError
        As reading raises them, `LicenceNotAccepted` among them.
    """
    given = GivenSplit(column=split_column)
    if is_task(source):
        task = tasks.get(source, text_column, label_column, given)
        frame = task.load()
        code = ("from slmkit import tasks", f"frame = tasks.get({source!r}).load()")
        return Opened(source, frame, task.card, tuple(frame.attrs.get("warnings", ())), code, task.licence)
    path = isinstance(source, str | Path)
    columns = {"text_column": text_column, "label_column": label_column, "split_column": split_column}
    named = "".join(f", {name}={value!r}" for name, value in columns.items() if value is not None)
    called = repr(str(source)) if path else "frame"
    name = Path(source).name if path else "your frame"
    try:
        task = tasks.get(source, text_column, label_column, given)
    except InputError as error:
        frame = _for_looking(source, text_column, label_column, split_column, error)
        notes = (f"no study can take these rows as they are: {error}", *frame.attrs["warnings"])
        return Opened(name, frame, "", notes, ("from slmkit import data", f"frame = data.rows({called}{named})"), "")
    frame = task.load()
    del frame.attrs["licence"]  # nobody knows it
    return Opened(name, frame, "", tuple(frame.attrs["warnings"]), (f"frame = slmkit.read({called}{named})",), "")


def _for_looking(source: Any, texts: Any, label: str | None, split: str | None, refused: InputError) -> pd.DataFrame:
    try:
        return data.rows(source, texts, label, split_column=split)
    except InputError:
        raise refused from None  # it says more than the second try


def histogram(lengths: np.ndarray, unit: str) -> go.Figure:
    """How long the texts are; tokens with the limits that models are commonly tuned at."""
    limits = [limit for limit in LIMITS if limit < 1.5 * lengths.max()] if unit == "tokens" else []
    figure = text_lengths(lengths, limits, unit)
    shown = {"template": "none", "height": 300, "margin": {"t": 110 if limits else 60, "b": 50}}
    return figure.update_layout(title="How long the texts are", **shown)


def counted(frame: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    """Label, rows and share of each class, the largest first, at most 50; nothing for rows without labels."""
    if "label" not in frame:
        return ()
    counts = frame["label"].value_counts().head(MOST_LABELS)
    return tuple(
        {"label": text.clean(name, 60) or "(none)", "rows": int(n), "share": text.percent(n / len(frame))}
        for name, n in counts.items()
    )


def kept(frame: pd.DataFrame, label: str | None, part: str | None, find: str) -> np.ndarray:
    """Which rows have that label and part and that text in them, bool, shape (n_rows,)."""
    found = np.ones(len(frame), dtype=bool)
    for name, value in (("label", label), ("part", part)):
        if value is not None and name in frame:
            found &= (frame[name] == value).to_numpy()
    if find:
        found &= frame["text"].str.contains(find, case=False, regex=False).to_numpy(dtype=bool)
    return found


def kept_code(label: str | None, part: str | None, find: str) -> list[str]:
    """Python that does what `kept` does."""
    filters = [f"(frame[{n!r}] == {v!r})" for n, v in (("label", label), ("part", part)) if v is not None]
    filters += [f"frame['text'].str.contains({find!r}, case=False, regex=False)"] if find else []
    return [f"shown = frame[{' & '.join(filters)}]"] if filters else []


def cleaned(lines: Sequence[str]) -> tuple[str, ...]:
    """Lines of a report as they may be shown: printable, and not too many."""
    return tuple(text.clean_document(line, 500) for line in lines[:MOST_LINES])


def leak_report(frame: pd.DataFrame, split: str = "", test_file: str = "", seed: int = SEED) -> list[str]:
    """What the guard says of a split of these rows, as lines.

    Parameters
    ----------
    frame : DataFrame
    split : str
        A split file (.json); "part" for the parts that came with the rows; "" takes those if there are any, and else
        slmkit's own split, which keeps copies and near-copies on one side.
    test_file : str
        A second table: its rows are tested, those of the frame learned.
    seed : int
        Of slmkit's own split.
    """
    given = GivenSplit.of(split.strip() or None, test_file.strip() or None)
    if given.test_file is not None:
        return leaks.check({"train": frame, "test": data.rows(given.test_file)}).lines()
    if given.is_asked or "part" in frame:
        return leaks.check(_parts(given.applied(frame))).lines()
    alone = leaks.check({"rows": frame}).lines()
    if "label" not in frame:
        return alone
    parts = slmkit.split(frame, seed=seed)
    both = leaks.check({"train": parts.train, "test": parts.test}, within=False).lines()
    return [*alone, f"slmkit's own split, seed {seed}:", *parts.warnings, *both]


def leak_code(frame: pd.DataFrame, split: str = "", test_file: str = "", seed: int = SEED) -> list[str]:
    """Python that does what `leak_report` does."""
    split, test_file = split.strip(), test_file.strip()
    report = "print(*slmkit.check_leaks({parts}).lines(), sep='\\n')"
    if test_file:
        return [
            "from slmkit import data",
            report.format(parts=f"{{'train': frame, 'test': data.rows({test_file!r})}}"),
        ]
    if split.endswith(".json"):
        load = ["from slmkit.splits import splitfile", f"parted = frame.assign(part=splitfile.load({split!r}, frame))"]
        return [*load, report.format(parts=_each("parted", ("train", "test")))]
    if "part" in frame:
        return [report.format(parts=_each("frame", _parts(frame)))]
    alone = report.format(parts="{'rows': frame}")
    if "label" not in frame:
        return [alone]
    both = report.format(parts="{'train': parts.train, 'test': parts.test}, within=False")
    return [alone, f"parts = slmkit.split(frame, seed={seed})", both]


def _each(name: str, parts: Iterable[str]) -> str:
    return f"{{part: {name}[{name}['part'] == part] for part in {tuple(parts)!r}}}"


def _parts(frame: pd.DataFrame) -> Mapping[str, pd.DataFrame]:
    """Rows by part, the test rows last."""
    return {part: rows for part in PARTS if len(rows := frame[frame["part"] == part])}
