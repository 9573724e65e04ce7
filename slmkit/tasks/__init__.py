"""What is to be decided, on which texts, under which licence: a task is a record with a function that loads its rows.

Each file beside this one ends in `TASKS = (...)` and is found by its file name; any table of one's own is a task too.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slmkit.errors import InputError, unknown
from slmkit.tables import KINDS

if TYPE_CHECKING:
    import pandas as pd

POSITIVES = ("fraud", "scam", "spam", "phishing", "smishing", "1", "yes", "true")  # what a two-class file is about


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes
    ----------
    name : str
        What the command line and the records call it.
    title : str
        What a reader calls it.
    labels : tuple of str
        All classes, sorted: the columns of `predict_proba`.
    positive : str or None
        The class to catch, where missing it and raising false alarms cost differently; precision-recall figures are
        of this class. None where all classes count the same.
    instruction : str
        One sentence that tells a model what to decide.
    label_words : dict of str to str
        The word a model should say for each label; plain English where there is one.
    noun : str
        What one text is: "message", "sentence".
    licence : str
        Licence of the data, as the records carry it.
    source : str
        Where the data comes from, and how to cite it.
    card : str
        Markdown: what the rows are, how they were made, what to beware of.
    load : callable
        Returns the frame that `slmkit.data.read` describes; `AssetError` or `InputError` says what is missing.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    positive: str | None
    instruction: str
    label_words: dict[str, str]
    noun: str
    licence: str
    source: str
    card: str
    load: Callable[[], pd.DataFrame]


def names() -> list[str]:
    """Names of all tasks that come with slmkit, sorted."""
    return sorted(_known())


def get(name_or_file: str | Path, text_column: str | None = None, label_column: str | None = None) -> Task:
    """A task by its name, or one made from a file.

    Parameters
    ----------
    name_or_file : str or Path
        A name of `names()`, or a CSV, TSV, JSONL or Parquet file. A name wins over a file called the same.
    text_column, label_column : str or None
        For a file: which columns to read; None guesses them (see `slmkit.data.read`).

    Returns
    -------
    Task

    Raises
    ------
    InputError
        Neither a known name (the near ones are given) nor a usable file.
    """
    name = str(name_or_file)
    if name in (known := _known()):
        if text_column or label_column:
            raise InputError(f"task {name!r} has columns of its own; text and label columns are for files")
        return known[name]
    path = Path(name_or_file)
    if not (path.exists() or path.suffix.lower() in KINDS or len(path.parts) > 1):
        raise InputError(f"{unknown('task', name, known)} A file of your own must end in {', '.join(KINDS)}")
    return _from_file(path, text_column, label_column)


def natural_word(label: str) -> str:
    """A label as a word to say: "Not_Fraud" becomes "not fraud"."""
    return " ".join(label.replace("_", " ").replace("-", " ").casefold().split()) or label


def _known() -> dict[str, Task]:
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return {task.name: task for module in modules for task in module.TASKS}


def _from_file(path: Path, text_column: str | None, label_column: str | None) -> Task:
    from slmkit import data

    frame = data.read(path, text_column, label_column)
    labels = tuple(sorted(frame["label"].unique()))
    words = {label: natural_word(label) for label in labels}
    if len(set(words.values())) < len(labels):
        words = {label: label for label in labels}
    notes = "".join(f"\n- {warning}" for warning in frame.attrs["warnings"])
    return Task(
        name=path.stem,
        title=path.stem.replace("_", " "),
        labels=labels,
        positive=_positive(labels),
        instruction=f"Decide which label fits the text: {_listed([words[label] for label in labels])}.",
        label_words=words,
        noun="text",
        licence="unknown (your file)",
        source=f"your file {path.name}",
        card=f"# {path.stem}\n{len(frame):,} rows from your file {path.name}.{notes}\n",
        load=frame.copy,  # read once: a second reading would repeat every warning
    )


def _positive(labels: Sequence[str]) -> str | None:
    folded = {label.casefold(): label for label in labels}
    return next((folded[name] for name in POSITIVES if name in folded), None) if len(labels) == 2 else None


def _listed(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
