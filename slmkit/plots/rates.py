"""Picture of a learning-rate range test: the loss against the rate, and the rate that is suggested."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from slmkit.plots.scores import base_layout, check_table

COLUMNS = ("learning_rate", "loss", "smoothed")


def learning_rates(frame: pd.DataFrame, suggestion: float | None = None) -> go.Figure:
    """Loss against the learning rate of a range test, as measured and smoothed.

    Parameters
    ----------
    frame : DataFrame
        `Rates.frame` of `slmkit.find_lr`: columns learning_rate, loss and smoothed.
    suggestion : float or None
        Drawn as a line: `Rates.suggestion`.

    Returns
    -------
    plotly Figure
        Rates on a logarithmic axis.

    Raises
    ------
    InputError
        A column is missing, or there are no rows.
    """
    check_table(frame, COLUMNS, "the table of a range test")
    figure, rates = go.Figure(), frame["learning_rate"]
    dots = {"color": "#7a7a7a", "size": 5}
    figure.add_scatter(x=rates, y=frame["loss"], mode="markers", name="loss of a step", marker=dots)
    figure.add_scatter(x=rates, y=frame["smoothed"], mode="lines", name="smoothed", line={"color": "#0072B2"})
    if suggestion is not None:
        ends = [frame["smoothed"].min(), frame["smoothed"].max()]
        dashed = {"color": "#D55E00", "dash": "dash"}
        name = f"suggested: {suggestion:.1e}"
        figure.add_scatter(x=[suggestion] * 2, y=ends, mode="lines", name=name, line=dashed)
    lead = f"{len(frame):,} steps, each at a higher rate; beyond the lowest loss a training diverges"
    figure.update_layout(**base_layout("Learning-rate range test", lead))
    figure.update_yaxes(title="loss (nats)")
    return figure.update_xaxes(title="learning rate (logarithmic)", type="log")
