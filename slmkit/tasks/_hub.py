"""Data sets of the hub: their files as frames, the published parts kept in the column part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmkit import sources
from slmkit.errors import AssetError, listed
from slmkit.sources import HubData

if TYPE_CHECKING:
    import pandas as pd


def classified(
    data: HubData, text: str | Callable[[Any], Any], label: str, names: Sequence[str] | None = None
) -> pd.DataFrame:
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
    """
    import pandas as pd

    from slmkit.data import finish

    texts: list[Any] = []
    labels: list[Any] = []
    parts: list[str] = []
    for part, table in _tables(data, [label, *([text] if isinstance(text, str) else [])]):
        if names is not None:
            numbers = pd.to_numeric(table[label])
            table = table[numbers >= 0]
            labels += [names[int(n)] for n in numbers[numbers >= 0]]
        else:
            labels += table[label].tolist()
        texts += list(table[text] if isinstance(text, str) else text(table))
        parts += [part] * len(table)
    return finish(texts, labels, parts=parts)


def paired(data: HubData, text: Callable[[Any], Any], target: Callable[[Any], Any]) -> pd.DataFrame:
    """Texts and what they should become: columns text, target, part; rows with an empty side are left out."""
    import pandas as pd

    frames = [
        pd.DataFrame({"text": list(text(table)), "target": list(target(table)), "part": part})
        for part, table in _tables(data, [])
    ]
    frame = pd.concat(frames, ignore_index=True)
    filled = frame["text"].str.strip().astype(bool) & frame["target"].str.strip().astype(bool)
    return frame[filled].reset_index(drop=True)


def _tables(data: HubData, needed: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    for part, paths in sources.hub_paths(data).items():
        for path in paths:
            table = _table(path)
            missing = [name for name in needed if name not in table]
            if missing:
                raise AssetError(f"{path} has no column {listed(missing)}; it has {listed(table.columns)}")
            yield part, table


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
