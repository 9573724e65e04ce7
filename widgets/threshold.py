"""The threshold explorer: which messages to flag, when a miss and a false alarm cost differently."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import ipywidgets as w
import pandas as pd

from slmkit.runs import Run
from slmkit_widgets import display
from slmkit_widgets.base import STYLE, View, heading, row
from slmkit_widgets.models.threshold import ThresholdModel
from slmkit_widgets.slider import slider


class ThresholdExplorer(View):
    """Precision and recall against the threshold, what it costs, and who is missed.

    Parameters
    ----------
    given : Run, iterable of Run, DataFrame or None
        Runs whose probabilities lie in `folder`, or a frame as `slmkit.runs.read_probabilities` gives it (columns row,
        label and one `p_<class>` a class). None takes the records in `folder`, or without one those shipped.
    folder : str, Path or None
        A folder of runs.
    validation : float, DataFrame or None
        Rows the threshold is chosen on. A share sets that part of the rows aside, drawn with a fixed seed within each
        class, and the figures are of the others. A frame has its own rows. None chooses where it measures, and says so:
        such figures are too good.
    texts : sequence or Series or None
        Text of each row by its position, shown as examples; None takes those of a task that is on this disk, if its
        rows are those of the record.
    positive : str or None
        The class to catch; None takes the one the task is about.

    Raises
    ------
    InputError
        No record with probabilities, a frame without its columns, an unknown class.
    """

    model: ThresholdModel

    def __init__(
        self,
        given: Run | Iterable[Run] | pd.DataFrame | None = None,
        folder: str | Path | None = None,
        *,
        validation: float | pd.DataFrame | None = 0.5,
        texts: Sequence[str] | pd.Series | None = None,
        positive: str | None = None,
    ) -> None:
        model = ThresholdModel(given, folder, validation=validation, texts=texts, positive=positive)
        super().__init__(model, "Threshold: what to flag")
        number = {"style": STYLE, "layout": w.Layout(width="230px")}
        wide = {"style": STYLE, "layout": w.Layout(width="460px")}
        self.record = self.bind(w.Dropdown(description="Record", **wide), "record", "record_options")
        self.positive = self.bind(w.Dropdown(description="Class to catch", **number), "positive", "positive_options")
        self.miss_cost = self.bind(w.FloatText(description="Cost of a miss", **number), "miss_cost")
        self.false_alarm_cost = self.bind(
            w.FloatText(description="Cost of a false alarm", **number), "false_alarm_cost"
        )
        self.share = self.bind(w.FloatText(description="Share in practice (%)", step=0.1, **number), "share_percent")
        self.budget = self.bind(w.FloatText(description="False-alarm budget (%)", step=0.1, **number), "budget_percent")
        self.threshold = self.bind(w.FloatText(description="Threshold", step=0.01, **number), "threshold")
        self.slider = self.bind(slider("Move the threshold", 0.001, "460px"), "threshold")
        self.by_cost = self.button("Choose the lowest cost", model.choose_lowest_cost)
        self.by_budget = self.button("Choose within the budget", model.choose_within_budget)
        self.kind = self.bind(w.Dropdown(description="Rows shown", **wide), "kind", "kind_options")
        self.next = self.button("Next rows", model.next_page)
        self.verdict = self.said("verdict")
        self.show(
            row(self.record, self.positive),
            row(self.miss_cost, self.false_alarm_cost, self.share),
            row(self.threshold, self.slider),
            row(self.by_cost, self.budget, self.by_budget),
            self.verdict,
            self.drawn("figure", display.picture, "570px"),
            heading("At this threshold"),
            self.drawn("outcomes", display.table),
            heading("At others"),
            self.drawn("steps", display.table),
            self.drawn("matrix", display.picture, "340px"),
            row(self.kind, self.next),
            self.said("rows_said"),
            self.drawn("examples", display.table),
        )
