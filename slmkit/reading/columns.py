"""Finds the columns of texts and labels in a table: as named, or guessed from names and content, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from slmkit.errors import InputError, listed, short
from slmkit.reading import tables
from slmkit.reading.tables import near_column

TEXT_NAMES = (
    *("text", "message", "sms", "sentence", "tweet", "content", "body", "review", "comment", "document"),
    *("description", "transcript", "v2"),
)
LABEL_NAMES = (
    *("label", "class", "category", "target", "sentiment", "is_fraud", "fraud", "is_spam", "spam", "scam", "tag"),
    *("intent", "y", "v1"),
)
NEITHER = ("group", "part", "split")  # columns that say something about rows, never what they are
MAX_GUESSED_CLASSES = 50


def choose(
    where: str,
    table: pd.DataFrame,
    text: str | Sequence[str] | None,
    label: str | None,
    split: str | None = None,
    *,
    labelled: bool = True,
) -> tuple[list[str], str | None, list[str]]:
    """Text columns, label column, and how they were found where nobody named them.

    Without `labelled` rows may do without labels: the label column is None when none is named and none is called so.

    Raises `InputError` with every unknown column (and the near names), or when columns cannot be told apart.
    """
    problems: list[str] = []
    notes: list[str] = []
    columns = list(table.columns)
    texts = listed_columns(text, columns)
    for given in (*texts, label, split):
        try:
            if given is not None:
                near_column(given, columns)
        except InputError as error:
            problems.append(str(error))
    if twice := sorted({c for c in columns if columns.count(c) > 1}):
        problems.append(f"column names must differ; more than once: {listed(twice)}")
    if len(columns) < 2 and labelled:
        problems.append(f"two columns are needed, texts and labels; there is only {listed(columns)}")
    elif label is not None and label in texts:
        problems.append(f"text and label cannot both be column {short(label)!r}")
    if problems:
        tables.fail(where, problems)
    free = [c for c in columns if c != split]
    if label is None and not labelled:
        label = _by_name([c for c in free if c not in texts], LABEL_NAMES)
    elif label is None:
        label, why = _guess_label(where, table, [c for c in free if c not in texts])
        notes += [f"label column {short(label)!r} taken {why}"] if label != "label" else []
    if not texts:
        name, why = _guess_text(where, table, [c for c in free if c != label])
        notes += [f"text column {short(name)!r} taken {why}"] if name != "text" else []
        texts = [name]
    return texts, label, notes


def cells(table: pd.DataFrame, name: str) -> list[Any]:
    """The values of a column; what pandas calls missing (NaN, NA, NaT) is None."""
    column = table[name]
    return list(column.astype(object).where(column.notna(), None))


def one_text(values: Sequence[Any]) -> str:
    """The text of a row from its text columns: those that are not empty, a line each."""
    if len(values) == 1:
        return tables.as_text(values[0])
    return "\n".join(cell for cell in map(tables.as_text, values) if cell.strip())


def listed_columns(text: str | Sequence[str] | None, columns: Sequence[str]) -> list[str]:
    """The columns meant: a name that exists as it stands, else the names between its commas."""
    if text is None:
        return []
    if isinstance(text, str):
        return [text] if text in columns or "," not in text else [name.strip() for name in text.split(",")]
    return [str(name) for name in text]


def guess_text_column(columns: Sequence[str]) -> str | None:
    """The column that a name like "text" or "message" marks as the text, or the only one; None when none does."""
    return _by_name(columns, TEXT_NAMES) or (columns[0] if len(columns) == 1 else None)


def refuse_missing_header(table: tables.Table, cells: dict[str, list[Any]]) -> None:
    """Raise `InputError` when the first line of a file looks like a row."""
    for name, column in cells.items():
        others = [other for other in table.columns if other != name]
        if name and name in column and not (_by_name(others, TEXT_NAMES) or _by_name(others, LABEL_NAMES)):
            raise InputError(
                f"{table.path}: the first line looks like a row, not like column names ({short(name)!r} "
                "stands in its column again). Put a line with column names first, for example: label,text"
            )


def _by_name(columns: Sequence[str], names: Sequence[str]) -> str | None:
    folded = {c.strip().casefold(): c for c in reversed(columns)}
    return next((folded[name] for name in names if name in folded), None)


def _guess_label(where: str, table: pd.DataFrame, columns: list[str]) -> tuple[str, str]:
    if name := _by_name(columns, LABEL_NAMES):
        return name, "by its name"
    text_name = _by_name(columns, TEXT_NAMES)
    distinct = {c: len(set(map(tables.as_text, cells(table, c)))) for c in columns if c not in (text_name, *NEITHER)}
    few = {c: n for c, n in distinct.items() if 2 <= n <= min(MAX_GUESSED_CLASSES, len(table) // 2)}
    if len(few) != 1:
        raise InputError(
            f"{where}: which column holds the labels? {len(few) or 'none'} of the columns could. "
            f"Name it with label_column (--label-column). Columns: {listed(columns)}"
        )
    name, n = few.popitem()
    return name, f"because it alone has few values ({n})"


def _guess_text(where: str, table: pd.DataFrame, columns: list[str]) -> tuple[str, str]:
    if name := _by_name(columns, TEXT_NAMES):
        return name, "by its name"
    if len(columns) == 1:
        return columns[0], "because no other is left"
    lengths = sorted(((_mean_length(cells(table, c)), c) for c in columns), reverse=True)
    (longest, name), (second, _) = lengths[:2]
    if longest < 2 * second:
        raise InputError(
            f"{where}: which column holds the texts? Name it with text_column (--text-column). "
            f"Columns: {listed(columns)}"
        )
    return name, f"because its values are the longest ({longest:.0f} characters on average)"


def _mean_length(values: Sequence[Any]) -> float:
    return sum(len(tables.as_text(value)) for value in values) / len(values)
