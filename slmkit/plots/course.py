"""Picture of a training: the loss of every step, and of each epoch on held-out rows where there were any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd
import plotly.graph_objects as go

from slmkit.plots.scores import base_layout, check_table

WINDOW = 0.1  # share of the steps that the smoothed line looks at


def training_course(history: Iterable[Mapping[str, float]]) -> go.Figure:
    """Loss of each step, smoothed too, and on rows that were not learned.

    Parameters
    ----------
    history : iterable of mapping
        `Tuned.history`, or `history_` of a classifier: see `Backend.train_lora`.

    Returns
    -------
    plotly Figure
        Loss in nats against the step.

    Raises
    ------
    InputError
        There are no steps.
    """
    frame = pd.DataFrame([dict(entry) for entry in history])
    check_table(frame, ("step", "loss"), "the history of a training")
    figure, window = go.Figure(), max(1, round(WINDOW * len(frame)))
    smoothed = frame["loss"].rolling(window, min_periods=1, center=True).mean()
    dots, line = {"color": "#7a7a7a", "size": 4}, {"color": "#0072B2"}
    figure.add_scatter(x=frame["step"], y=frame["loss"], mode="markers", name="loss of a step", marker=dots)
    figure.add_scatter(x=frame["step"], y=smoothed, mode="lines", name="smoothed", line=line)
    if "held_out_loss" in frame:
        ends, marks = frame.dropna(subset=["held_out_loss"]), {"color": "#D55E00", "size": 9, "symbol": "diamond"}
        name = "rows held back, after each epoch"
        figure.add_scatter(x=ends["step"], y=ends["held_out_loss"], mode="lines+markers", name=name, marker=marks)
    tokens = f", {frame['tokens'].sum():,.0f} tokens learned from" if "tokens" in frame else ""
    figure.update_layout(**base_layout("Loss while tuning", f"{len(frame):,} steps{tokens}"))
    figure.update_yaxes(title="loss (nats)")
    return figure.update_xaxes(title="step")
