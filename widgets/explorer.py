"""The data explorer: rows page by page, labels, lengths, leaks, rows worth a second look, and the card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as w
import pandas as pd

from slmkit_widgets import display
from slmkit_widgets.base import STYLE, View, heading, row
from slmkit_widgets.models.explorer import PAGE, ExplorerModel


class DataExplorer(View):
    """Look at rows before anybody is scored on them.

    Parameters
    ----------
    source : str, Path, DataFrame, datasets.Dataset or None
        A task's name, a file or a frame; what is wrong with it is said in the widget. None begins with nothing open.
    text_column, label_column : str or None
        Of a file or a frame; None guesses them, and says so.
    split_column : str or None
        A column that says train, validation or test.
    page_size : int
        Rows of a page, at most 50; no more ever go to the browser.
    """

    model: ExplorerModel

    def __init__(
        self,
        source: Any = None,
        text_column: str | Sequence[str] | None = None,
        label_column: str | None = None,
        *,
        split_column: str | None = None,
        page_size: int = PAGE,
    ) -> None:
        model = ExplorerModel(page_size=page_size)
        super().__init__(model, "Data: rows, labels, lengths, leaks")
        self.show(*self._opening(), *self._rows(), *self._reports())
        if source is not None:
            model.attempt(model.open, source, text_column, label_column, split_column)

    def _opening(self) -> list[w.Widget]:
        """What to open, and what is known of it."""
        text = {"style": STYLE, "continuous_update": False}
        wide, half = w.Layout(width="460px"), w.Layout(width="230px")
        self.source = self.bind(w.Text(description="Task or file", layout=wide, **text), "asked")
        self.texts = self.bind(w.Text(description="Text column", layout=half, **text), "text_column")
        self.labels = self.bind(w.Text(description="Label column", layout=half, **text), "label_column")
        self.open_button = self.button("Open", self.model.open_asked)
        self.accept = self.button("Accept the terms of these data", self.model.accept)
        shown = {True: "", False: "none"}
        self.follow("to_accept", lambda: setattr(self.accept.layout, "display", shown[self.model.to_accept]))
        return [
            row(self.source, self.texts, self.labels, self.open_button),
            self.said("licence", lambda licence: f"Licence: {licence}" if licence else ""),
            self.accept,
            self.drawn("notes", lambda notes: _lines("noticed while reading", notes)),
            self.said("lengths"),
            self.drawn("histogram", display.picture),
            self.drawn("labels", lambda labels: display.table(pd.DataFrame(labels))),
        ]

    def _rows(self) -> list[w.Widget]:
        """A page, how to turn it, what is on it, and one of its rows."""
        half = {"style": STYLE, "layout": w.Layout(width="230px")}
        self.label = self.bind(w.Dropdown(description="Label", **half), "label", "label_options")
        self.part = self.bind(w.Dropdown(description="Part", **half), "part", "part_options")
        self.find = self.bind(w.Text(description="Find in texts", continuous_update=False, **half), "find")
        self.order = self.bind(w.Dropdown(description="Order", **half), "order", "order_options")
        odd = w.Checkbox(description="Only rows worth a second look", indent=False)
        self.only_odd = self.bind(odd, "only_odd")
        self.page = self.bind(w.IntText(description="Page", **half), "page")
        self.before = self.button("Previous page", self.model.turn, -1)
        self.next = self.button("Next page", self.model.turn, 1)
        self.chosen = self.bind(w.Dropdown(description="Read whole", **half), "chosen", "row_options")
        return [
            heading("Rows"),
            row(self.label, self.part, self.find, self.order, self.only_odd),
            row(self.before, self.next, self.page),
            self.said("summary"),
            self.drawn("rows", lambda rows: display.table(pd.DataFrame(rows)), "120px"),
            self.chosen,
            self.copied("whole", "Whole text"),
        ]

    def _reports(self) -> list[w.Widget]:
        """Leaks, datasheet, tokens and card, each when asked for."""
        text = {"style": STYLE, "continuous_update": False, "layout": w.Layout(width="460px")}
        named = w.Text(description="Split file, if not slmkit's own split", placeholder="split.json", **text)
        self.split = self.bind(named, "split")
        self.test_file = self.bind(w.Text(description="Or a second table to test on", **text), "test_file")
        self.check = self.button("Look for leaks", self.model.check)
        self.look = self.button("Make the datasheet", self.model.look)
        self.count = self.button("Count tokens", self.model.count)
        return [
            heading("Reports"),
            row(self.split, self.test_file),
            row(self.check, self.look, self.count),
            self.said("busy", lambda busy: f"{busy.capitalize()}..." if busy else ""),
            self.drawn("leaks", lambda leaks: _lines("leak report", leaks)),
            self.drawn("sheet", lambda sheet: _lines("datasheet", sheet)),
            self.copied("card", "Card"),
        ]


def _lines(title: str, said: Sequence[str]) -> tuple[display.Bundle, ...]:
    return display.table(pd.DataFrame({title: list(said)}))
