"""The labeller: rows one after the other, a key or a button each, and every label in a file before the next row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as w

from slmkit_widgets import display, keys
from slmkit_widgets.base import View, label, row
from slmkit_widgets.models.labeller import KEYS, SKIP, UNDO, LabellerModel


class Labeller(View):
    """Label rows with the keys 1 to 9, u to undo and s to skip; buttons of the same names do the same.

    Parameters
    ----------
    rows : str, Path, DataFrame, datasets.Dataset or sequence of str
        A file, a frame or texts. Rows that have a label already (in a column called so) are not asked.
    labels : sequence of str or None
        The choices, in the order of the keys; None takes the labels that some rows have already, sorted.
    path : str or Path
        The CSV of the labels (row, hash of the text, label), replaced as a whole after every act, so that a kill costs
        nothing; one that is there is gone on with. `slmkit_widgets.labelled(rows, path)` gives the labelled rows.
    text_column : str, sequence of str or None
        As `slmkit.data.rows` takes it.
    model : fitted classifier, ndarray (n_rows, n_classes) or None
        Anything with `predict_proba`, or the probabilities: the rows it is least sure of come first. None keeps the
        order of the rows.

    Raises
    ------
    InputError
        Unusable rows, labels or probabilities, or a CSV that was made of other rows, with the difference.
    """

    model: LabellerModel

    def __init__(
        self,
        rows: Any,
        labels: Sequence[str] | None = None,
        path: str | Path = "labels.csv",
        *,
        text_column: str | Sequence[str] | None = None,
        model: Any = None,
    ) -> None:
        made = LabellerModel(rows, labels, path, text_column=text_column, model=model)
        super().__init__(made, f"Labels in {Path(path).name}")
        self.choices = [self.button(_named(i, name), made.choose, i) for i, name in enumerate(made.choices)]
        self.undo = self.button(f"Undo ({UNDO})", made.undo)
        self.skip = self.button(f"Skip ({SKIP})", made.skip)
        self.again = self.button("Show skipped rows again", made.again)
        self.learn = self.button("Learn and put unsure rows first", made.learn)
        self.hints = self.bind(w.Checkbox(description="Show what the model says", indent=False), "show_hint")
        self.key_box = None if keys.KeyBox is None else self._key_box()
        self.show(
            *(
                [self.key_box]
                if self.key_box
                else [self.said("row", _row_said), self.said("shown"), self.said("progress")]
            ),
            self.said("hint"),
            row(*self.choices, self.skip, self.undo),
            row(self.learn, self.again, self.hints),
            label("What is shown of the model may sway you; labels given without it are more your own."),
        )

    def _key_box(self) -> w.Widget:
        """The box that hears the keys; what it shows follows the view-model."""
        n = min(len(self.model.choices), len(KEYS))
        named = ", ".join(f"{KEYS[i]} {self.model.choices[i]}" for i in range(n))
        said = f"Keys: {named}, {UNDO} undo, {SKIP} skip. Press Tab to leave."
        box = keys.KeyBox(heard=[*KEYS[:n], UNDO, SKIP], help=said, named="Row to label: press a key")
        self.follow(["row", "shown", "progress"], lambda: self._to_box(box))
        box.on_msg(self._pressed)
        self._undo.append(lambda: box.on_msg(self._pressed, remove=True))
        return box

    def _to_box(self, box: Any) -> None:
        with box.hold_sync():
            box.row, box.shown, box.progress = self.model.row, self.model.shown, self.model.progress

    def _pressed(self, _box: Any, content: Mapping[str, Any], _buffers: Any) -> None:
        self.model.attempt(self.model.press, str(content.get("key")), content.get("row"))


def _named(place: int, name: str) -> str:
    return f"{KEYS[place]} {name}" if place < len(KEYS) else display.plain(name)


def _row_said(number: int | None) -> str:
    return "All rows are done." if number is None else f"Row {number}:"
