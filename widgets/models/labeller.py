"""What a `Labeller` holds and does, without any widget: which row comes next, labels, skips, undo, and the file.

The rows a model is least sure of come first: those with the smallest margin between its two likeliest classes (margin
sampling: Scheffer, Decomain, Wrobel 2001; Settles 2009, "Active Learning Literature Survey"). Without a model rows come
as they stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import traitlets

from slmkit import text
from slmkit.errors import InputError, listed, short
from slmkit.reading import tables
from slmkit_widgets.models.base import ViewModel
from slmkit_widgets.models.labelfile import Act, LabelFile, texts_of

MOST_LABELS = 30
MOST_TEXT = 5_000  # characters of a row that are shown
KEYS, UNDO, SKIP = "123456789", "u", "s"


class LabellerModel(ViewModel):
    """Rows to label one after the other; every act is in the file before the next row is shown.

    Parameters
    ----------
    rows
        As `labelfile.texts_of` takes them. Rows that have a label already (in a column called so) are not asked.
    labels : sequence of str or None
        The choices, in the order of the keys 1 to 9; None takes the labels that some rows have already, sorted.
    path : str or Path
        The CSV; one that is there is gone on with.
    text_column
        As `slmkit.data.rows` takes it.
    model : fitted classifier, ndarray (n_rows, n_classes) or None
        Anything with `predict_proba`, or probabilities of the rows as they were given: the least sure rows come first.

    Attributes
    ----------
    row : int or None
        Number of the row that is shown; None when all are done.
    shown, progress, hint : str
        The row's text; how far it is; what the model says of the row (shown on request: people follow it).
    choices : tuple of str
        The labels as they are shown, cleaned.
    show_hint : bool
        Whether `hint` says anything.
    can_undo, finished : bool

    Raises
    ------
    InputError
        Unusable rows, labels or probabilities, or a file of other rows with the difference.
    """

    row = traitlets.Int(None, allow_none=True, read_only=True)
    shown = traitlets.Unicode(read_only=True)
    progress = traitlets.Unicode(read_only=True)
    hint = traitlets.Unicode(read_only=True)
    show_hint = traitlets.Bool(False)
    choices = traitlets.Tuple(read_only=True)
    can_undo = traitlets.Bool(read_only=True)
    finished = traitlets.Bool(read_only=True)

    def __init__(
        self,
        rows: Any,
        labels: Sequence[str] | None = None,
        path: str | Path = "labels.csv",
        *,
        text_column: str | Sequence[str] | None = None,
        model: Any = None,
    ) -> None:
        super().__init__()
        frame = texts_of(rows, text_column)
        self.labels = _choices(labels, frame)
        self.file = LabelFile(path, frame, self.labels)
        has = frame["label"] != "" if "label" in frame else pd.Series(False, index=frame.index)
        has &= ~frame["row"].isin([act.row for act in self.file.acts])
        self._frame, self.n_given = frame[~has].reset_index(drop=True), int(has.sum())
        if self._frame.empty:
            raise InputError(f"all {len(frame):,} rows have a label already; leave that column out to label them anew")
        self._place = {row: i for i, row in enumerate(self._frame["row"].tolist())}
        self._n_input = frame.attrs["n_given"]
        self._order = np.arange(len(self._frame))
        self._proba, self._classes = np.zeros((0, 0)), list[str]()
        self._source = rows if isinstance(rows, str | Path) else None
        self._text_column = text_column
        self.set_trait("choices", tuple(text.clean(label, 60) for label in self.labels))
        if model is not None:
            self._rank(model)
        self.code = self._code()
        self._show(self._next())
        self.observe(lambda change: self._say_hint(), "show_hint")

    def press(self, key: str, row: int | None = None) -> bool:
        """Do what a key stands for: 1 to 9 a label, u undo, s skip. Whether anything was done.

        Parameters
        ----------
        key : str
        row : int or None
            The row that was seen when the key was pressed; nothing is done when another one is shown by now, so that no
            row is labelled unseen.
        """
        if row is not None and row != self.row:
            return False
        if key.casefold() == UNDO:
            self.undo()
        elif key.casefold() == SKIP:
            self.skip()
        elif len(key) == 1 and key in KEYS[: len(self.labels)]:
            self.choose(KEYS.index(key))
        else:
            return False
        return True

    def choose(self, label: int | str) -> None:
        """Give the row that is shown a label, by its place in `labels` or its name."""
        if isinstance(label, str) and label not in self.labels:
            raise InputError(f"label must be one of {listed(self.labels)}; got {short(label)!r}")
        self._act(label if isinstance(label, str) else self.labels[label])

    def skip(self) -> None:
        """Leave the row that is shown without a label."""
        self._act("")

    def undo(self) -> None:
        """Take the last act back and show its row again, also after a restart."""
        if not self.file.acts:
            raise InputError("nothing to undo")
        self._show(self._place[self.file.undo().row])

    def again(self) -> None:
        """Forget the skips, so that those rows are shown once more."""
        kept = [act for act in self.file.acts if act.label]
        if len(kept) == len(self.file.acts):
            raise InputError("no row was skipped")
        self.file.save(kept)
        self._show(self._next())

    def order_by(self, model: Any) -> None:
        """Order what is left by how sure a model is, the least sure first.

        Parameters
        ----------
        model : fitted classifier, or ndarray of shape (n_rows, n_classes)
            Anything with `predict_proba`; or the probabilities of the rows as they were given.
        """
        self._rank(model)
        self._show(self._next())

    def learn(self) -> None:
        """Fit the floor (word counts) on the labels so far and order what is left by it."""
        from slmkit import classify

        rows = self.file.labelled()
        try:
            floor = classify.FloorClassifier().fit(rows["text"].tolist(), rows["label"].tolist())
        except InputError as error:
            raise InputError(f"too few labels to learn from: {error}") from error
        self.order_by(floor)

    def describe(self) -> str:
        """The progress and the Python, in plain text."""
        return f"{self.progress}\n{self.code}"

    def labelled(self) -> pd.DataFrame:
        """Rows that were given a label: columns text, label and source_row, in the order of the rows."""
        return self.file.labelled()

    def _act(self, label: str) -> None:
        if self.row is None:
            raise InputError("all rows are done")
        digest = self._frame["text_sha256"].iloc[self._place[self.row]]
        self.file.add(Act(self.row, digest, label))
        self._show(self._next())

    def _next(self) -> int | None:
        """Place of the first row in order that nothing was done with."""
        done = {act.row for act in self.file.acts}
        numbers = self._frame["row"].to_numpy()
        return next((int(i) for i in self._order if numbers[i] not in done), None)

    def _show(self, place: int | None) -> None:
        with self.hold_trait_notifications():
            self.set_trait("row", None if place is None else int(self._frame["row"].iloc[place]))
            whole = "" if place is None else self._frame["text"].iloc[place]
            self.set_trait("shown", text.clean(whole, MOST_TEXT, newlines=True))
            self._say_hint()
            self.set_trait("can_undo", bool(self.file.acts))
            self.set_trait("finished", place is None)
            self.set_trait("progress", self._progress())

    def _progress(self) -> str:
        counts = Counter(act.label for act in self.file.acts)
        n_skipped = counts.pop("", 0)
        n_labelled, n_all = sum(counts.values()), len(self._frame)
        said = f"{n_labelled:,} of {n_all:,} rows labelled"
        if n_labelled:
            named = zip(self.labels, self.choices, strict=True)
            said += " (" + ", ".join(f"{shown} {counts[label]:,}" for label, shown in named) + ")"
        said += f", {n_skipped:,} skipped" if n_skipped else ""
        said += f", {n_all - n_labelled - n_skipped:,} left"
        return said + (f"; {self.n_given:,} had a label before" if self.n_given else "")

    def _rank(self, model: Any) -> None:
        """Take a model's probabilities, least sure rows first; `InputError` says what is wrong with them."""
        from slmkit.estimator import check_targets

        given = isinstance(model, np.ndarray)
        proba = model if given else self._asked(model)
        width = proba.shape[1] if proba.ndim == 2 else len(self.labels)
        if width < 2:
            raise InputError(f"probabilities of at least 2 classes are needed; got {width}")
        proba = check_targets(proba, self._n_input if given else len(self._frame), list(range(width)))
        if given:
            proba = proba[self._frame["at"].to_numpy()]
        best = np.sort(proba, axis=1)  # (n_rows, n_classes)
        self._order = np.argsort(best[:, -1] - best[:, -2], kind="stable")
        self._proba = proba
        self._classes = [] if given else [text.clean(name, 60) for name in model.classes_]

    def _asked(self, model: Any) -> np.ndarray:
        """Probabilities by a classifier, shape (n_rows, n_classes)."""
        if not callable(getattr(model, "predict_proba", None)):
            raise InputError(f"model must be a fitted classifier or probabilities; got {type(model).__name__}")
        try:
            return np.asarray(model.predict_proba(self._frame["text"].tolist()))
        except ValueError as error:  # not fitted, among others
            raise InputError(f"{type(model).__name__} gives no probabilities: {error}") from error

    def _say_hint(self) -> None:
        said = ""
        if self.row is not None and self.show_hint:
            said = "no model has said anything of these rows"
            if self._classes:
                proba = self._proba[self._place[self.row]]
                first = proba.argsort(kind="stable")[::-1][:2]
                said = "the model says: " + ", ".join(f"{self._classes[i]} {text.percent(proba[i])}" for i in first)
        self.set_trait("hint", said)

    def _code(self) -> str:
        """Python that gives the labelled rows; what it reads must be this file, or the variable `rows`."""
        rows = "rows" if self._source is None else repr(str(self._source))
        column = "" if self._text_column is None else f", text_column={self._text_column!r}"
        return (
            "import slmkit\nfrom slmkit_widgets import labelled\n\n"
            f"frame = labelled({rows}, {str(self.file.path)!r}{column})\n"
            'model = slmkit.FloorClassifier().fit(frame["text"], frame["label"])'
        )


def _choices(labels: Sequence[str] | None, frame: pd.DataFrame) -> tuple[str, ...]:
    """Labels as they are written down; `InputError` with all that is wrong with them."""
    if isinstance(labels, str):
        raise InputError(f"labels must be a sequence of names; got one text, {labels[:60]!r}")
    if labels is None:
        labels = sorted(set(frame["label"]) - {""}) if "label" in frame else []
    found = tuple(" ".join(tables.as_text(label).strip().splitlines()) for label in labels)
    shown = Counter(text.clean(label, 60) for label in found)
    problems = []
    if not 2 <= len(found) <= MOST_LABELS:
        problems.append(f"2 to {MOST_LABELS} labels are needed, such as ['fraud', 'legitimate']; got {len(found)}")
    if "" in shown:
        problems.append("a label must have a character that can be seen")
    if alike := [label for label, n in shown.items() if n > 1]:
        problems.append(f"labels must differ as they are shown; more than once: {listed(alike)}")
    if problems:
        raise InputError("; ".join(problems))
    return found
