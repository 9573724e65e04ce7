"""What is to be decided, on which texts, under which licence: a task is a record with a function that reads its rows.

Each file beside this one ends in `TASKS = (...)` and is found by its file name; any table of one's own is a task too.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slmkit import catalog
from slmkit.assets import licences, sources
from slmkit.assets.sources import DataFile, HubData
from slmkit.errors import InputError, unknown
from slmkit.reading import excel
from slmkit.reading.tables import KINDS
from slmkit.splits.splitfile import GivenSplit

if TYPE_CHECKING:
    import pandas as pd

FILES = (*KINDS, *excel.KINDS)
POSITIVES = ("fraud", "scam", "spam", "phishing", "smishing", "1", "yes", "true")  # what a two-class file is about


@dataclass(frozen=True)
class Task:
    """A task: to classify texts, or to turn them into other texts.

    Attributes
    ----------
    name : str
        What the command line and the records call it.
    title : str
        What a reader calls it.
    labels : tuple of str
        All classes, sorted: the columns of `predict_proba`. Empty for texts to be turned into texts.
    positive : str or None
        The class to catch, where missing it and raising false alarms cost differently; precision-recall figures are
        of this class. None where all classes count the same.
    instruction : str
        One sentence that tells a model what to do.
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
    read : callable
        Returns the frame that `slmkit.data.read` describes (columns text and target where there are no labels), with
        the column part where the data come split; `AssetError` or `InputError` says what is missing.
    n_rows : int or None
        Rows as published, duplicates included; None for a file of one's own.
    n_bytes : int or None
        About what has to be fetched; None where no source says.
    data : DataFile, HubData or None
        Where the files are; None for what is shipped or somebody's own.
    terms : str
        What has to be accepted before the rows are read; "" where the licence asks for naming the authors at most.
    gate : str
        The name the acceptance is recorded under; "" takes the task's.
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
    read: Callable[[], pd.DataFrame]
    n_rows: int | None = None
    n_bytes: int | None = None
    data: DataFile | HubData | None = None
    terms: str = ""
    gate: str = ""

    def load(self) -> pd.DataFrame:
        """The rows, if their terms were accepted here (`LicenceNotAccepted` says how) and they are on this disk.

        `attrs["licence"]` says what may be done with them.
        """
        if self.terms:
            licences.require(self.gate or self.name, self.licence, self.terms)
        frame = self.read()
        frame.attrs["licence"] = self.licence
        return frame

    def accept_license(self) -> None:
        """Write down that the terms of the data were accepted on this machine."""
        if self.terms:
            licences.accept(self.gate or self.name, self.licence)

    @property
    def on_disk(self) -> str | None:
        """ "shipped", "mirror" or "cache"; None when the rows have to be fetched first."""
        return "shipped" if self.data is None else sources.where(self.data)


def named(name: str) -> Task:
    """The task of that name; `InputError` with the near names otherwise."""
    if name not in (known := _known()):
        raise unknown("data set", name, known)
    return known[name]


def accept_license(name: str) -> None:
    """Accept the terms of a task's data or of a model, once on this machine.

    `slmkit data show NAME` and `slmkit models NAME` print them.

    Parameters
    ----------
    name : str
        A name of `names()` or of the catalog.
    """
    if name in catalog.MODELS:
        licences.accept_model(catalog.MODELS[name])
    elif name in (known := _known()):
        known[name].accept_license()
    else:
        raise unknown("data set or model", name, [*known, *catalog.MODELS])


def names() -> list[str]:
    """Names of all tasks that come with slmkit, sorted."""
    return sorted(_known())


def get(
    task: str | Path | pd.DataFrame,
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    given: GivenSplit | None = None,
    relabel: str | Mapping[str, str] | None = None,
) -> Task:
    """A task by its name, or one made from a file or a frame.

    Parameters
    ----------
    task : str, Path or DataFrame
        A name of `names()`, or whatever `slmkit.data.read` reads. A name wins over a file called the same.
    text_column, label_column
        For a file: which columns to read; None guesses them (see `slmkit.data.read`).
    given : GivenSplit or None
        Which rows are for testing, where that is decided already.
    relabel
        For a file, as `slmkit.data.read` takes it.

    Returns
    -------
    Task

    Raises
    ------
    InputError
        Neither a known name (the near ones are given) nor a usable file.
    """
    given = given or GivenSplit()
    if isinstance(task, str | Path):
        name = str(task)
        if name in (known := _known()):
            _refuse_columns(name, text_column, label_column, given, relabel)
            return known[name]
        path = Path(task)
        if not (path.exists() or path.suffix.lower() in FILES or len(path.parts) > 1):
            raise InputError(f"{unknown('task', name, known)} A file of your own must end in {', '.join(FILES)}")
        return _from_rows(path, path.stem, f"your file {path.name}", text_column, label_column, given, relabel)
    if not (hasattr(task, "columns") or hasattr(task, "features") or isinstance(task, dict)):
        raise InputError(f"task must be a task's name, a file or a frame; got {task!r:.200}")
    return _from_rows(task, "frame", "your frame", text_column, label_column, given, relabel)


def natural_word(label: str) -> str:
    """A label as a word to say: "Not_Fraud" becomes "not fraud"."""
    return " ".join(label.replace("_", " ").replace("-", " ").casefold().split()) or label


def _known() -> dict[str, Task]:
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return {task.name: task for module in modules for task in getattr(module, "TASKS", ())}


def _refuse_columns(name: str, text: object, label: object, given: GivenSplit, relabel: object) -> None:
    if text or label or relabel:
        raise InputError(f"task {name!r} has columns and labels of its own; to choose them is for files")
    if given.test_file or given.column not in (None, "part"):
        raise InputError(f"task {name!r} takes the split 'part' (as published, where it was) or a split file")


def _from_rows(
    rows: Path | pd.DataFrame,
    name: str,
    source: str,
    text_column: str | Sequence[str] | None,
    label_column: str | None,
    given: GivenSplit,
    relabel: str | Mapping[str, str] | None,
) -> Task:
    from slmkit import data

    frame = data.read(rows, text_column, label_column, split_column=given.column, relabel=relabel)
    if given.test_file is not None:
        tested = data.read(given.test_file, text_column, label_column, relabel=relabel, few_labels=True)
        frame = data.joined(frame, tested)
    labels = tuple(sorted(frame["label"].unique()))
    words = {label: natural_word(label) for label in labels}
    if len(set(words.values())) < len(labels):
        words = {label: label for label in labels}
    notes = "".join(f"\n- {warning}" for warning in frame.attrs["warnings"])
    return Task(
        name=name,
        title=name.replace("_", " "),
        labels=labels,
        positive=_positive(labels),
        instruction=f"Decide which label fits the text: {_listed([words[label] for label in labels])}.",
        label_words=words,
        noun="text",
        licence="unknown (your file)",
        source=source,
        card=f"# {name}\n\n{len(frame):,} rows from {source}.\n{notes}\n",
        read=frame.copy,  # read once: a second reading would repeat every warning
    )


def _positive(labels: Sequence[str]) -> str | None:
    folded = {label.casefold(): label for label in labels}
    return next((folded[name] for name in POSITIVES if name in folded), None) if len(labels) == 2 else None


def _listed(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
