"""Picture of a cascade: accuracy against the share of rows for which the larger model is called."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from slmkit import text
from slmkit.plots.scores import FAINT, LINE, base_layout, check_table

COLUMNS = ("threshold", "calls", "accuracy", "low", "high", "at_random", "n")
COLOUR, BAND = "#0072B2", "rgba(0,114,178,0.15)"


def cascade_curve(frame: pd.DataFrame, small: str = "small model", large: str = "large model") -> go.Figure:
    """Accuracy in percent against the share of calls, beside as many calls at random.

    Parameters
    ----------
    frame : DataFrame
        Of `slmkit.cascade.curve`.
    small, large : str
        What a reader calls the two models.

    Raises
    ------
    InputError
        A column is missing, or there are no rows.
    """
    check_table(frame, COLUMNS, "the curve of a cascade")
    x, y = 100 * frame["calls"], 100 * frame["accuracy"]
    hover = [
        f"below {row['threshold']:.3f} a row is sent on: {text.percent(row['calls'])} calls, accuracy "
        f"{text.with_interval(row['accuracy'], row['low'], row['high'])}"
        for row in frame.to_dict("records")
    ]
    line = {"color": COLOUR, "width": 3}
    ends = frame.iloc[[0, -1]]
    names = [text.escape(f"{name} alone", 50) for name in (small, large)]
    figure = go.Figure(
        [
            go.Scatter(
                x=[*x, *x[::-1]],
                y=[*(100 * frame["high"]), *(100 * frame["low"])[::-1]],
                fill="toself",
                fillcolor=BAND,
                line={"width": 0},
                name="95 % interval of each threshold",
                hoverinfo="skip",
            ),
            go.Scatter(
                x=x,
                y=100 * frame["at_random"],
                mode="lines",
                line={"color": LINE, "dash": "dash"},
                name="as many calls at random",
                hoverinfo="skip",
            ),
            go.Scatter(x=x, y=y, mode="lines", line=line, name="least sure rows first", text=hover, hoverinfo="text"),
            go.Scatter(
                x=100 * ends["calls"],
                y=100 * ends["accuracy"],
                mode="markers+text",
                marker={"size": 13, "color": COLOUR, "symbol": ["square", "diamond"]},
                text=names,
                textposition=["bottom right", "top left"],
                showlegend=False,
                hoverinfo="skip",
            ),
        ]
    )
    small_line = f"n = {int(frame['n'].iloc[0])} rows; to read a threshold off is to choose it on these rows"
    figure.update_layout(base_layout("Calling a larger model where the small one is unsure", small_line))
    figure.update_layout(
        height=460,
        xaxis={"title": {"text": "Rows sent to the larger model (%)"}, "range": [-2, 102], "gridcolor": FAINT},
        yaxis={"title": {"text": "Accuracy (%)"}, "gridcolor": FAINT, "zeroline": False},
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
    )
    return figure
