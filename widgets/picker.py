"""The model picker: what of the catalog fits this machine, one model term by term, and the line that loads it."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import pandas as pd

from slmkit_widgets import display
from slmkit_widgets.base import STYLE, View, heading, row
from slmkit_widgets.models.picker import PickerModel

COLUMNS = {
    "here": "here",
    "name": "name",
    "parameters": "parameters",
    "needs": "needs as asked",
    "fits": "fits",
    "serve": "load and serve, bits",
    "tune": "tune with LoRA, bits",
    "licence": "licence",
    "on_disk": "on disk",
}


class ModelPicker(View):
    """The catalog against this machine, sorted as `slmkit models --fits` does, and one model looked at closely.

    Parameters
    ----------
    **settings
        Traits of the view-model to begin with: name, bits, backend, method, seq, batch, limit ("8GB": another machine
        than this one), find, only_fitting, only_on_disk.

    Raises
    ------
    InputError
        A setting that does not exist, or a limit that is no size.
    """

    model: PickerModel

    def __init__(self, **settings: Any) -> None:
        model = PickerModel(**settings)
        super().__init__(model, "Models: what fits here")
        wide, half = ({"style": STYLE, "layout": w.Layout(width=width)} for width in ("460px", "230px"))
        self.method = self.bind(w.Dropdown(description="To do", **wide), "method", "method_options")
        self.bits = self.bind(w.Dropdown(description="Bits", **half), "bits", "bits_options")
        self.backend = self.bind(w.Dropdown(description="Backend", **half), "backend", "backend_options")
        self.seq = self.bind(w.IntText(description="Tokens of a row", **half), "seq")
        self.batch = self.bind(w.IntText(description="Rows at once", **half), "batch")
        typed = {"continuous_update": False, **half}
        self.limit = self.bind(w.Text(description="Memory, if not this one's", placeholder="8GB", **typed), "limit")
        self.find = self.bind(w.Text(description="Find", placeholder="name or licence", **typed), "find")
        self.fitting = self.bind(w.Checkbox(description="Only what fits", indent=False), "only_fitting")
        self.on_disk = self.bind(w.Checkbox(description="Only what is on this disk", indent=False), "only_on_disk")
        self.name = self.bind(w.Dropdown(description="Model", **wide), "name", "name_options")
        other = w.Text(description="Or a folder, GGUF file or hub id", **{**typed, **wide})
        self.other = self.bind(other, "name")
        self.accept = self.button("Accept the terms of this model", model.accept)
        self.follow("to_accept", lambda: setattr(self.accept.layout, "display", "" if model.to_accept else "none"))
        self.probe = self.button("Try the backends", model.probe, tooltip="See which of them run on this machine")
        self.show(
            self.said("engines", list),
            row(self.method, self.bits, self.backend, self.probe),
            row(self.seq, self.batch, self.limit),
            row(self.find, self.fitting, self.on_disk),
            self.drawn("table", _catalog, "120px"),
            row(self.name, self.other),
            self.said("headline"),
            self.said("licence"),
            self.accept,
            heading("Peak memory, estimated, term by term"),
            self.drawn("terms", lambda terms: display.table(pd.DataFrame(terms))),
            self.drawn("lines", lambda lines: display.table(pd.DataFrame({"also": lines}))),
            self.copied("shell", "On the command line"),
        )


def _catalog(table: tuple[dict[str, Any], ...]) -> tuple[display.Bundle, ...]:
    return display.table(pd.DataFrame(table, columns=list(COLUMNS)).rename(columns=COLUMNS))
