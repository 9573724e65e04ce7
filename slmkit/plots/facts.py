"""Picture of what assistants know against what an answer takes: facts right over memory and over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from slmkit import text
from slmkit.plots.scores import FAINT, NAME_LIMIT, base_layout, check_table

COLUMNS = ("way", "recall", "low", "high", "n_facts", "latency_p50_s", "peak_ram_bytes")
_PANELS = {"latency_p50_s": ("Seconds an answer (median)", 1.0), "peak_ram_bytes": ("Peak memory (GB)", 1e9)}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7a7a7a")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "pentagon")


def facts_vs_cost(frame: pd.DataFrame) -> go.Figure:
    """Share of facts right, with its 95 % interval, over seconds an answer and over peak memory; up and left is better.

    Parameters
    ----------
    frame : DataFrame
        One row a way of answering: way (its name), recall, low and high (shares), n_facts, latency_p50_s,
        peak_ram_bytes.

    Returns
    -------
    plotly Figure

    Raises
    ------
    InputError
        A column is missing, or there are no rows.
    """
    check_table(frame, COLUMNS, "the table of ways")
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for i, row in enumerate(frame.to_dict("records")):
        for column, (cost, (_, unit)) in enumerate(_PANELS.items(), 1):
            figure.add_trace(_marker(row, row[cost] / unit, i, legend=column == 1), row=1, col=column)
    n_facts = sorted({int(n) for n in frame["n_facts"]})
    n = str(n_facts[0]) if len(n_facts) == 1 else f"{n_facts[0]} to {n_facts[-1]}"
    figure.update_layout(
        base_layout("What it knows and what an answer takes", f"n = {n} facts; bars are 95 % intervals")
    )
    for column, (name, _) in enumerate(_PANELS.values(), 1):
        figure.update_xaxes(title_text=name, rangemode="tozero", gridcolor=FAINT, zeroline=False, row=1, col=column)
    figure.update_yaxes(range=[-2, 102], gridcolor=FAINT, zeroline=False)
    figure.update_yaxes(title_text="Facts right (%)", row=1, col=1)
    rows = (len(frame) + 1) // 2
    figure.update_layout(
        height=480 + 26 * rows,
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
        margin={"l": 76, "r": 24, "t": 84, "b": 90 + 26 * rows},
    )
    return figure


def _marker(row: Mapping[Any, Any], cost: float, i: int, *, legend: bool) -> go.Scatter:
    recall, low, high = (100 * float(row[name]) for name in ("recall", "low", "high"))
    colour = _COLOURS[i % len(_COLOURS)]
    name = text.escape(str(row["way"]), NAME_LIMIT)
    return go.Scatter(
        x=[cost],
        y=[recall],
        error_y={"type": "data", "symmetric": False, "array": [high - recall], "arrayminus": [recall - low]}
        | {"thickness": 1.5, "width": 4},
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=legend,
        marker={"color": colour, "symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 13},
        hovertemplate=f"{name}<br>facts right %{{y:.1f}} % ({low:.1f} to {high:.1f})<br>%{{x:.2f}}<extra></extra>",
    )
