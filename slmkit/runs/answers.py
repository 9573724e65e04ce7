"""What runs answered to single rows: side by side with the texts, and as a table of who was taken for whom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from slmkit import data, tasks
from slmkit.errors import InputError, listed
from slmkit.runs import Run, read_probabilities


def side_by_side(runs: Mapping[str, Run], folder: Path) -> pd.DataFrame:
    """The answers of several runs to the same test rows.

    Parameters
    ----------
    runs : mapping of str to Run
        What a column is called, and whose answers it holds.
    folder : Path
        Where their per-example probabilities lie.

    Returns
    -------
    DataFrame
        Index row, the position among the task's rows without copies; columns label and one a name.

    Raises
    ------
    InputError
        No run, a name that is taken, runs of other rows, or probabilities that are not there.
    """
    if not runs or "label" in runs:
        raise InputError(f"runs must hold one or more under names other than 'label'; got {listed(runs) or 'none'}")
    frames = {name: read_probabilities(run, folder).set_index("row").sort_index() for name, run in runs.items()}
    first, *others = frames
    for name in others:
        if not frames[name]["label"].equals(frames[first]["label"]):
            raise InputError(f"{first!r} and {name!r} answered to other rows, so they cannot stand side by side")
    return pd.DataFrame({"label": frames[first]["label"], **{name: each["predicted"] for name, each in frames.items()}})


def texts(run: Run) -> pd.Series:
    """Texts of a shipped or stored task, by the rows of a run's answers.

    Raises
    ------
    InputError
        The task is not known by name, or its rows are others than those the run was made from.
    """
    whole = tasks.named(run.task).load()
    if data.frame_sha256(whole) != run.data_sha256:
        raise InputError(f"the rows of {run.task!r} are others than those of run {run.run_id}")
    return data.deduplicate(whole)[0]["text"]


def confusion(run: Run, folder: Path) -> pd.DataFrame:
    """How many rows of each class were taken for each class, for `plots.confusion_matrix`.

    Returns
    -------
    DataFrame of int
        One row a class in truth, one column a class it was taken for; every class has both, a class that was never
        seen in training a row of its own.
    """
    frame = read_probabilities(run, folder)
    classes = [str(name).removeprefix("p_") for name in frame if str(name).startswith("p_")]
    counts = pd.crosstab(frame["label"], frame["predicted"])
    names = [*classes, *sorted(set(frame["label"]) - set(classes))]
    return counts.reindex(index=names, columns=classes, fill_value=0).rename_axis(index=None, columns=None)


def examples(run: Run, folder: Path, known: pd.Series | None = None) -> pd.DataFrame:
    """Test rows behind each cell of the confusion matrix, the surest answers first, for `plots.confusion_matrix`.

    Parameters
    ----------
    run : Run
    folder : Path
        Where its per-example probabilities lie.
    known : Series or None
        Text of each row by its position; None takes `texts(run)`.

    Returns
    -------
    DataFrame
        Columns truth, decided and text.
    """
    frame = read_probabilities(run, folder)
    sure = frame.filter(regex="^p_").max(axis=1).sort_values(ascending=False, kind="stable")
    frame = frame.loc[sure.index]
    told = texts(run) if known is None else known
    return pd.DataFrame({"truth": frame["label"], "decided": frame["predicted"], "text": told[frame["row"]].to_numpy()})
