"""Data sets of the hub: their files as frames, the published parts kept in the column part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmkit.assets import sources
from slmkit.assets.sources import HubData
from slmkit.errors import AssetError, listed
from slmkit.reading import tables

if TYPE_CHECKING:
    import pandas as pd

Column = str | Callable[[Any], Any]  # a column's name, or a function of the whole table


def classified(data: HubData, text: Column, label: str, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Labelled texts: columns text, label, part.

    Parameters
    ----------
    data : HubData
    text : str or callable
        The column of texts, or a function of a whole table that gives them.
    label : str
        The column of labels. Rows whose number is below 0 are published without a label and are left out.
    names : sequence of str or None
        The label of each number; None takes the values as they stand.

    Raises
    ------
    AssetError
        Files that are missing, altered, cut off, or not of the columns and labels that are known; each by its path.
    """
    from slmkit.data import finish

    texts: list[Any] = []
    labels: list[Any] = []
    parts: list[str] = []
    for part, path, table in _tables(data):
        found = _column(table, label, path)
        if names is not None:
            found = [_named(value, names, label, path) for value in found]
        rows = [(t, v) for t, v in zip(_column(table, text, path), found, strict=True) if v is not _HIDDEN]
        texts += [t for t, _ in rows]
        labels += [v for _, v in rows]
        parts += [part] * len(rows)
    return finish(texts, labels, parts=parts)


def paired(data: HubData, text: Column, target: Column) -> pd.DataFrame:
    """Texts and what they should become: columns text, target, part; `attrs["warnings"]` counts rows left out."""
    import pandas as pd

    rows: dict[str, list[str]] = {"text": [], "target": [], "part": []}
    n_rows = 0
    for part, path, table in _tables(data):
        n_rows += len(table)
        for one, other in zip(_column(table, text, path), _column(table, target, path), strict=True):
            pair = tables.as_text(one), tables.as_text(other)
            if all(side.strip() for side in pair):
                for name, value in zip(rows, (*pair, part), strict=True):
                    rows[name].append(value)
    frame = pd.DataFrame(rows, dtype=object)
    left_out = n_rows - len(frame)
    notes = [f"{left_out:,} of {n_rows:,} rows dropped: one side is empty"] if left_out else []
    frame.attrs = {"warnings": notes}
    return frame


_HIDDEN = object()  # a label that is published as below 0


def _named(value: Any, names: Sequence[str], column: str, path: Path) -> Any:
    try:
        number = int(value)
        if number != float(value) or number >= len(names):
            raise ValueError(value)
    except (TypeError, ValueError) as error:
        raise AssetError(
            f"{path}: column {column!r} must hold whole numbers up to {len(names) - 1}; it holds {value!r}"
        ) from error
    return names[number] if number >= 0 else _HIDDEN


def _column(table: pd.DataFrame, column: Column, path: Path) -> list[Any]:
    try:
        return list(table[column] if isinstance(column, str) else column(table))
    except (KeyError, TypeError, AttributeError) as error:
        raise AssetError(
            f"{path} has not the columns that are known ({error}); it has {listed(table.columns)}"
        ) from error


def _tables(data: HubData) -> Iterator[tuple[str, Path, pd.DataFrame]]:
    for part, paths in sources.hub_paths(data).items():
        for path in paths:
            yield part, path, _table(path)


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype=str, keep_default_na=False)
        with open(path, encoding="utf-8") as file:
            return pd.DataFrame([json.loads(line) for line in file if line.strip()])
    except Exception as error:  # pyarrow, pandas and json each have errors of their own for a cut or altered file
        raise AssetError(f"{path} cannot be read (cut off or altered): {error}") from error
