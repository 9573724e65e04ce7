"""The Pareto explorer: what accuracy costs in bytes, memory, time and energy, over recorded runs and your own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import ipywidgets as w

from slmkit.runs import Run
from slmkit_widgets import display
from slmkit_widgets.base import STYLE, View, heading, row
from slmkit_widgets.models.pareto import ParetoModel


class ParetoExplorer(View):
    """Accuracy against a cost, with the Pareto front, the floor, filters, and the paired verdict of two picked ones.

    Parameters
    ----------
    given : Run, iterable of Run or None
        Runs whose probabilities lie in `folder`. None reads the records in `folder` and in the folders right below it.
    folder : str, Path or None
        A folder of runs; None takes `runs` where there is one.
    recorded : bool
        Show the runs shipped with slmkit as well; they were measured on the machine each of them names.
    task : str or None
        The task shown first; None takes the setup with most runs.
    footprint : str
        The cost shown first: "stored_bytes", "peak_ram_bytes", "latency_p50_s" or "energy_j_per_1000_rows".

    Raises
    ------
    InputError
        No run, no run of that task, or an unknown footprint.
    """

    model: ParetoModel

    def __init__(
        self,
        given: Run | Iterable[Run] | None = None,
        folder: str | Path | None = None,
        *,
        recorded: bool = True,
        task: str | None = None,
        footprint: str = "stored_bytes",
    ) -> None:
        model = ParetoModel(given, folder, recorded=recorded, task=task, footprint=footprint)
        super().__init__(model, "Accuracy against footprint")
        wide = {"style": STYLE, "layout": w.Layout(width="480px")}
        several = {"style": STYLE, "layout": w.Layout(width="300px"), "rows": 4}
        self.setup = self.bind(w.Dropdown(description="Task and size", **wide), "setup", "setup_options")
        self.footprint = self.bind(w.Dropdown(description="Cost", **wide), "footprint", "footprint_options")
        self.models = self.bind(w.SelectMultiple(description="Models", **several), "models", "models_options")
        self.methods = self.bind(w.SelectMultiple(description="Methods", **several), "methods", "methods_options")
        self.bits = self.bind(w.SelectMultiple(description="Bits", **several), "bits", "bits_options")
        self.clear = self.button("Show all", model.clear_filters, tooltip="All models, methods and bits")
        self.again = self.button("Read the folder again", model.read_again)
        self.first = self.bind(w.Dropdown(description="First", **wide), "first", "pick_options")
        self.second = self.bind(w.Dropdown(description="Second", **wide), "second", "pick_options")
        self.show(
            self.said("found"),
            row(self.setup, self.footprint),
            row(self.models, self.methods, self.bits, w.VBox([self.clear, self.again])),
            self.said("said"),
            self.drawn("figure", display.picture, "700px"),
            heading("Two of them, compared row by row"),
            row(self.first, self.second),
            self.said("comparison"),
            heading("The figures as a table"),
            self.drawn("table", display.table),
        )
