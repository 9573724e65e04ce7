"""A split written down as row hashes: no text leaves the machine, and whoever has the data can repeat the split.

A row is known by the SHA-256 of its text and label, so that the file does not depend on the order of the rows.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import slmkit
from slmkit import files
from slmkit.errors import InputError
from slmkit.splits import Split

FORMAT = "slmkit-split-1"
DIGITS = 24  # of each row's hash: 96 bits


@dataclass(frozen=True)
class GivenSplit:
    """How a person says which rows are for testing; nothing set means that slmkit splits.

    Attributes
    ----------
    column : str or None
        A column that says train or test; "part" for the published parts of a task.
    file : Path or None
        A split file.
    test_file : Path or None
        A second table, all of whose rows are for testing.
    """

    column: str | None = None
    file: Path | None = None
    test_file: Path | None = None

    @classmethod
    def of(cls, split: str | Path | None, test_file: str | Path | None) -> GivenSplit:
        """From the arguments of a study: `split` ends in .json, or names a column."""
        if split is not None and test_file is not None:
            raise InputError("split and test_file both say which rows are for testing; give one of them")
        if test_file is not None:
            return cls(test_file=Path(test_file))
        if split is not None and str(split).lower().endswith(".json"):
            return cls(file=Path(split))
        return cls(column=None if split is None else str(split))

    @property
    def is_asked(self) -> bool:
        """Whether any of the three is set."""
        return self != GivenSplit()

    def applied(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame with the column part; `InputError` when it has none."""
        if self.file is not None:
            return frame.assign(part=load(self.file, frame))
        if "part" not in frame:
            raise InputError("these data come without published parts; let slmkit split them, or give a split file")
        return frame


def row_hash(text: str, label: str) -> str:
    """What a row is called in a split file."""
    return hashlib.sha256(json.dumps([text, label]).encode("ascii")).hexdigest()[:DIGITS]


def split_sha256(split: Split) -> str:
    """SHA-256 over the row hashes of both parts: the same for the same rows, whatever their order and origin."""
    document = json.dumps([sorted(_hashes(part)) for part in (split.train, split.test)])
    return hashlib.sha256(document.encode("ascii")).hexdigest()


def save(
    split: Split,
    path: str | Path,
    *,
    data_sha256: str | None = None,
    seed: int | None = None,
    licence: str | None = None,
) -> Path:
    """Write a split as JSON, in one step.

    Parameters
    ----------
    split : Split
    path : str or Path
        Ends in .json; an earlier split file of that name is replaced, any other file is left alone.
    data_sha256 : str or None
        Hash of the rows it was cut from, as `frame.attrs["sha256"]` holds it.
    seed : int or None
    licence : str or None
        Of the rows, as `frame.attrs["licence"]` holds it.
    """
    path = check_target(path)
    document = {
        "format": FORMAT,
        "slmkit": slmkit.__version__,
        "data_sha256": data_sha256,
        "seed": seed,
        "licence": licence,
        "split_sha256": split_sha256(split),
        "row": f"first {DIGITS} hex digits of the SHA-256 of the JSON list [text, label]",
        "train": _hashes(split.train),
        "test": _hashes(split.test),
    }
    with files.on_disk(path):
        files.replace(path, json.dumps(document, indent=1) + "\n")
    return path


def check_target(path: str | Path) -> Path:
    """Raise `InputError` when no split file can be written there: another ending, no folder, another kind of file."""
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise InputError(f"a split file's name must end in .json; got {path}")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}")
    if path.exists():
        _document(path)
    return path


def load(path: str | Path, frame: pd.DataFrame) -> pd.Series:
    """The part of every row of a frame by a split file.

    Parameters
    ----------
    path : str or Path
    frame : DataFrame
        Columns text and label. Rows that the file does not name are in no part; of equal rows as many as it names.

    Returns
    -------
    Series of str
        "train", "test" or "", in the index of the frame.

    Raises
    ------
    InputError
        Not a split file, or rows that the frame does not hold (counted).
    """
    document = _document(Path(path))
    keys = _hashes(frame)
    named = Counter([*document["train"], *document["test"]])
    missing = (named - Counter(keys)).total()
    if missing:
        raise InputError(
            f"{path} names {named.total():,} rows, {missing:,} of which are not in these data; "
            "it was made from other rows"
        )
    waiting = {part: Counter(document[part]) for part in ("train", "test")}
    parts = []
    for key in keys:
        part = next((part for part, left in waiting.items() if left[key]), "")
        if part:
            waiting[part][key] -= 1
        parts.append(part)
    return pd.Series(parts, index=frame.index, dtype=object)


def _hashes(frame: pd.DataFrame) -> list[str]:
    return [row_hash(str(t), str(v)) for t, v in zip(frame["text"], frame["label"], strict=True)]


def _document(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"no split file at {path}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a split file: {error}") from error
    lists = isinstance(document, dict) and all(_is_hashes(document.get(part)) for part in ("train", "test"))
    if not lists or document.get("format") != FORMAT:
        raise InputError(f"{path} is not a split file: it must be a JSON object of the format {FORMAT!r}")
    return dict(document)


def _is_hashes(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(key, str) for key in value)
