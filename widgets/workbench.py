"""The workbench: all widgets behind tabs, each built when first looked at; what is picked in one is in the others."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as w

from slmkit_widgets.base import STYLE, View, close_all, heading, label, row
from slmkit_widgets.models.workbench import PARTS, WorkbenchModel


class Workbench(View):
    """Everything in one view: models, data, labels, tuning, trying, comparing, thresholds.

    A part is built when its tab is first opened, so that the first picture takes no second. Nothing depends on cells
    that run later: it works as a page of its own (voila) too.

    Parameters
    ----------
    model : str
        The model picked at first.
    data : str or Path
        The rows opened at first: a task's name or a file.
    folder : str or Path
        Where your runs are.
    out : str or Path
        Where a tuning writes.

    Examples
    --------
    >>> Workbench()
    """

    model: WorkbenchModel

    def __init__(
        self,
        model: str = "smollm2-135m-instruct",
        data: str | Path = "domain_dialogues",
        folder: str | Path = "runs",
        out: str | Path = "runs/tuned",
    ) -> None:
        super().__init__(WorkbenchModel(model, data, folder, out), "slmkit: what a small language model buys you")
        self.parts: dict[str, View] = {}
        self._makers: dict[str, Callable[[], View]] = {
            "Models": lambda: _made("picker", "ModelPicker", name=self.model.name),
            "Data": self._explorer,
            "Tune": lambda: _made("tuner", "Tuner", self.model.name, self.model.rows, self.model.out),
            "Try": self._playground,
            "Costs": lambda: _made("pareto", "ParetoExplorer", folder=self.model.runs),
            "Flag": lambda: _made("threshold", "ThresholdExplorer", folder=self.model.runs),
        }
        self.places = [w.VBox(layout=w.Layout(min_height="200px", padding="8px")) for _ in PARTS]
        self.places[0].children = (self.said("intro", list),)
        self.places[[*PARTS].index("Label")].children = tuple(self._labelling())
        self.tabs = w.Tab(children=self.places, titles=[*PARTS], selected_index=0)
        self.tabs.observe(self._turned, "selected_index")
        self._undo.append(lambda: self.tabs.unobserve(self._turned, "selected_index"))
        self.follow("tab", lambda: self._show_tab())
        self.show(self.tabs)

    def turn_to(self, part: str) -> Any:
        """Show a part, and build it if it is not there; None for those that are none of their own."""
        self.model.tab = [*PARTS].index(part)
        return self.parts.get(part)

    def _turned(self, change: Any) -> None:
        if change["new"] is not None:
            self.model.attempt(setattr, self.model, "tab", change["new"])

    def _show_tab(self) -> None:
        self.tabs.selected_index = self.model.tab
        part = [*PARTS][self.model.tab]
        if part in self._makers and part not in self.parts:
            place = self.places[self.model.tab]
            wait = label(f"{part}: one moment, this part is being built.")
            place.children = (wait,)
            made = self.model.attempt(self._makers[part])
            place.children = () if made is None else (made,)
            close_all([wait])
            if made is not None:
                self.parts[part] = made
                self.model.join(part, made.model)

    def _explorer(self) -> View:
        made = _made("explorer", "DataExplorer")
        made.model.asked = self.model.rows  # type: ignore[attr-defined] # in its field, where another can be named
        made.model.attempt(made.model.open_asked)  # type: ignore[attr-defined]
        return made

    def _playground(self) -> View:
        names = [*dict.fromkeys(filter(None, [self.model.name, self.model.second]))]
        return _made("playground", "Playground", names, self.model.mode)

    def _labelling(self) -> list[w.Widget]:
        """What to label, and the labeller once it was asked for."""
        text = {"style": STYLE, "continuous_update": False}
        self.label_rows = self.bind(w.Text(description="File with texts", **text), "label_rows")
        named = w.Text(description="Labels, between commas", placeholder="fraud, legitimate", **text)
        self.label_names = self.bind(named, "label_names")
        self.label_path = self.bind(w.Text(description="Labels go to", **text), "label_path")
        self.begin = self.button("Label these rows", self.model.label)
        below = w.VBox()

        def begun() -> None:
            if self.model.labelling:
                for old in below.children:
                    old.close()
                rows, names, path = self.model.labelling
                made = self.model.attempt(_made, "labeller", "Labeller", rows, names, path)
                below.children = () if made is None else (made,)

        self.follow("labelling", begun)
        return [heading("Rows of your own"), row(self.label_rows, self.label_names, self.label_path, self.begin), below]


def _made(module: str, widget: str, /, *args: Any, **settings: Any) -> View:
    made: View = getattr(importlib.import_module(f"slmkit_widgets.{module}"), widget)(*args, **settings)
    return made
