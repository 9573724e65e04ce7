"""Pictures of a decision to flag: what each threshold catches and costs, and who is right and wrong at one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from slmkit import text
from slmkit.plots.scores import FAINT, FONT_SIZE, LINE, base_layout, check_table, wrapped

COLUMNS = ("threshold", "up_to", "recall", "precision", "false_alarm_share", "cost_per_1000")
POINTS = 400  # of a line: more than a screen has room for, whatever the number of rows
EXAMPLES, EXAMPLE_LENGTH, EXAMPLE_WIDTH = 3, 150, 56  # texts behind a cell, characters of each and of a line
_LINES = (  # column, name, colour (Okabe & Ito 2008), dash: nothing rests on colour alone
    ("recall", "recall: caught of all {0}", "#0072B2", "solid"),
    ("precision", "precision: {0} of all flagged", "#009E73", "dash"),
    ("false_alarm_share", "false alarms of all others", "#D55E00", "dot"),
)


def threshold_cost(points: pd.DataFrame, threshold: float, positive: str = "positives", note: str = "") -> go.Figure:
    """Recall, precision and false alarms against the threshold, and below them what it costs.

    Parameters
    ----------
    points : DataFrame
        From `slmkit.thresholds.curve`; of a longer one 400 rows are drawn.
    threshold : float
        Marked by a line.
    positive : str
        Name of the class to catch.
    note : str
        Small title line: which rows these are.

    Returns
    -------
    plotly Figure
        Shares in percent above, cost per 1000 rows below; `InputError` if a column is missing.
    """
    check_table(points, COLUMNS, "the curve of thresholds")
    shown = _thinned(points)
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.62, 0.38], vertical_spacing=0.06)
    name = text.escape(positive, 40)
    for column, words, colour, dash in _LINES:
        figure.add_trace(_line(shown, column, 100, words.format(name), colour, dash), row=1, col=1)
    figure.add_trace(_line(shown, "cost_per_1000", 1, "cost of 1000 rows", "#CC79A7", "dashdot"), row=2, col=1)
    figure.add_vline(x=threshold, line={"color": LINE, "width": 2})
    at_left = threshold > 0.5
    figure.add_annotation(
        text=f"threshold {threshold:.6g}", x=threshold, y=1, yref="paper", showarrow=False, yanchor="bottom",
        xanchor="right" if at_left else "left", font={"size": FONT_SIZE},
    )  # fmt: skip
    axis: dict[str, Any] = {"gridcolor": FAINT, "zeroline": False}
    figure.update_layout(base_layout("What a threshold catches and costs", note))
    figure.update_layout(
        height=560,
        margin={"l": 76, "r": 24, "t": 100, "b": 110},
        legend={"orientation": "h", "x": 0, "y": -0.14, "yanchor": "top"},
        hovermode="x unified",
    )
    figure.update_xaxes(**axis, range=[-0.02, 1.02])
    figure.update_xaxes(title_text=f"Flag a row when its probability of {name} is at least", row=2, col=1)
    figure.update_yaxes(**axis)
    figure.update_yaxes(title_text="Share (%)", range=[-3, 103], row=1, col=1)
    figure.update_yaxes(title_text="Cost of 1000 rows", rangemode="tozero", row=2, col=1)
    return figure


def confusion_matrix(counts: pd.DataFrame, note: str = "", examples: pd.DataFrame | None = None) -> go.Figure:
    """Rows of each true class by what was decided for them, as counts and as shares of the true class.

    Parameters
    ----------
    counts : DataFrame
        Whole numbers; one row a true class, one column a decision. The shade is the share of the row.
    note : str
        Small title line: which rows these are, and how many.
    examples : DataFrame or None
        Columns truth, decided and text, as `slmkit.runs.answers.examples` gives them: a click on a cell shows its first
        three, another click hides them.

    Returns
    -------
    plotly Figure
    """
    check_table(counts, (), "the table of counts")
    if examples is not None and not examples.empty:
        check_table(examples, ("truth", "decided", "text"), "the table of examples")
    totals = counts.sum(axis=1).replace(0, np.nan)
    shares = counts.div(totals, axis=0).fillna(0.0)
    cells = [
        [f"{int(n)}<br>{text.percent(s)}" for n, s in zip(ns, ss, strict=True)]
        for ns, ss in zip(counts.to_numpy(), shares.to_numpy(), strict=True)
    ]
    heat = go.Heatmap(
        z=100 * shares.to_numpy(), x=[text.escape(c, 40) for c in counts.columns],
        y=[text.escape(i, 40) for i in counts.index], text=cells, texttemplate="%{text}", zmin=0, zmax=100,
        colorscale=[[0, "#ffffff"], [1, "#56B4E9"]], showscale=False, xgap=3, ygap=3,
        textfont={"size": 17, "color": "#1a1a1a"}, hoverinfo="skip" if examples is None else "none",
    )  # fmt: skip
    figure = go.Figure(heat)
    if examples is not None:
        figure.update_layout(annotations=_examples_on_click(counts, examples))
        note = f"{note}; click on a cell to read some of its rows" if note else "Click on a cell to read some rows"
    figure.update_layout(base_layout("Who is right, and who is wrong", note))
    figure.update_layout(
        height=180 + 76 * len(counts),
        xaxis={
            "title": {"text": "Decided"},
            "side": "bottom",
            "type": "category",
            "range": [-0.5, len(counts.columns) - 0.5],
        },
        yaxis={
            "title": {"text": "In truth"},
            "type": "category",
            "automargin": True,
            "range": [len(counts) - 0.5, -0.5],
        },
    )
    return figure


def _examples_on_click(counts: pd.DataFrame, examples: pd.DataFrame) -> list[dict[str, Any]]:
    """A note for each cell that has examples, to be shown by a click on it and hidden by the next one."""
    grouped = {key: list(rows) for key, rows in examples.groupby(["truth", "decided"], sort=False)["text"]}
    notes = []
    for i, truth in enumerate(counts.index):
        low = 2 * i >= len(counts)  # the note stands above, else below
        for j, decided in enumerate(counts.columns):
            if some := grouped.get((truth, decided), [])[:EXAMPLES]:
                lines = [wrapped(text.clean(one, EXAMPLE_LENGTH), EXAMPLE_WIDTH) for one in some]
                notes.append(
                    {
                        "text": "<br>".join(f"<b>{n}</b> {line}" for n, line in enumerate(lines, 1)),
                        "x": (len(counts.columns) - 1) / 2, "y": i, "xclick": j, "yclick": i, "clicktoshow": "onout",
                        "visible": False, "showarrow": False, "align": "left",
                        "yshift": 28 if low else -28, "yanchor": "bottom" if low else "top",
                        "bgcolor": "#ffffff", "bordercolor": LINE, "borderpad": 6, "font": {"size": FONT_SIZE - 1},
                    }
                )  # fmt: skip
    return notes


def _thinned(points: pd.DataFrame) -> pd.DataFrame:
    """At most `POINTS` rows, spread evenly along the thresholds, the ends among them."""
    if len(points) <= POINTS:
        return points
    wanted = np.linspace(0, 1, POINTS)
    places = np.searchsorted(points["threshold"].to_numpy(), wanted).clip(0, len(points) - 1)
    return points.iloc[np.unique([0, *places, len(points) - 1])]


def _line(points: pd.DataFrame, column: str, scale: float, name: str, colour: str, dash: str) -> go.Scatter:
    """A line of steps: each value holds up to its threshold, and just there."""
    unit = " %" if scale == 100 else ""
    return go.Scatter(
        x=[0.0, *points["up_to"].clip(upper=1)], y=scale * points[column].iloc[[0, *range(len(points))]],
        mode="lines", name=name,
        line={"color": colour, "width": 2.5, "dash": dash, "shape": "vh"},
        hovertemplate=f"%{{y:.1f}}{unit}",
    )  # fmt: skip
