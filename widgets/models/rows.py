"""The rows behind a threshold: their classes, those set aside for choosing, and their texts where they are known."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from slmkit import tasks, thresholds
from slmkit.errors import InputError, SlmkitError
from slmkit.runs import Run
from slmkit_widgets import display
from slmkit_widgets.models import records


def most_telling_first(found: Sequence[records.Record]) -> list[records.Record]:
    """Records of tasks with a class to catch first: that is what a threshold is for."""
    return sorted(found, key=lambda record: _known_positive(record.run) is None)


def _known_positive(run: Run) -> str | None:
    return tasks.named(run.task).positive if run.task in tasks.names() else None


def classes_of(frame: pd.DataFrame) -> list[str]:
    """Names of the classes, as the columns p_<class> have them; `InputError` for any other frame."""
    missing = [name for name in ("row", "label") if name not in frame]
    classes = [str(name)[2:] for name in frame.columns if str(name).startswith("p_")]
    if missing or len(classes) < 2:
        raise InputError(
            "probabilities must have the columns row, label and one p_<class> a class, two classes at least; "
            f"got {', '.join(display.plain(c, 30) for c in list(frame.columns)[:8])}"
        )
    return classes


def positive_of(run: Run | None, classes: Sequence[str], wanted: str | None) -> str:
    """The class asked for, the one the task is about, or the first."""
    if wanted is not None and wanted not in classes:
        raise InputError(f"positive must be one of {', '.join(map(repr, classes))}; got {wanted!r}")
    known = wanted or (None if run is None else _known_positive(run))
    folded = {name.casefold(): name for name in classes}
    telling = next((folded[name] for name in tasks.POSITIVES if name in folded), None)
    return known if known is not None and known in classes else telling or classes[0]


def parted(
    frame: pd.DataFrame, validation: float | pd.DataFrame | None, classes: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to choose on and rows to measure on; the same frame twice where none were set aside."""
    frame = frame.assign(label=frame["label"].astype(str))
    if validation is None:
        return frame, frame
    if isinstance(validation, pd.DataFrame):
        if classes_of(validation) != list(classes):
            raise InputError(f"validation rows must have the classes {', '.join(map(repr, classes))}")
        return validation.assign(label=validation["label"].astype(str)), frame
    if not 0 < validation < 1:
        raise InputError(f"validation must be a frame, None, or a share between 0 and 1; got {validation!r}")
    aside = thresholds.set_aside(frame["label"], validation)
    return frame[aside], frame[~aside]


def texts_of(
    run: Run | None, frame: pd.DataFrame, given: Sequence[str] | pd.Series | None
) -> tuple[list[str] | None, str]:
    """Texts of the rows by position: those given, or of the task if they are on this disk and those of the record.

    The second value says why there are none.
    """
    last = int(frame["row"].max())
    if given is not None:
        if len(given) <= last:
            raise InputError(f"texts must hold one for every row, {last + 1} at least; got {len(given)}")
        return [str(one) for one in given], ""
    if run is None or run.task not in tasks.names():
        return None, "Their texts are not known; give texts=..."
    task = tasks.named(run.task)
    try:
        found = _task_rows(run.task) if task.on_disk else None
    except SlmkitError as problem:
        return None, f"Their texts are not shown: {display.plain(problem, 200)}"
    if found is None:
        return None, "Their texts are not on this disk."
    sha256, texts, labels = found
    same = run.data_sha256 == sha256 and last < len(texts)
    if not same or (labels[frame["row"]] != frame["label"].to_numpy()).any():
        return None, "Their texts are not shown: the rows of the task are others than those of the record."
    return texts, ""


@functools.lru_cache(maxsize=2)
def _task_rows(name: str) -> tuple[str, list[str], np.ndarray]:
    """Hash of a task's rows, and texts and labels as the records count them: without copies."""
    from slmkit import data, splits

    whole = tasks.named(name).load()
    kept = splits.deduplicate(whole)[0]
    return data.frame_sha256(whole), kept["text"].tolist(), kept["label"].to_numpy(dtype=object)
