"""Picture of predicted against measured memory: how far `slmkit.estimate` is off, pair by pair."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from slmkit import text
from slmkit.plots.scores import FAINT, LINE, NAME_LIMIT, base_layout, check_table

COLUMNS = ("part", "model", "bits", "method", "seq", "batch", "measured_bytes", "predicted_bytes")
STYLES = {  # part -> colour, marker
    "calibration": ("#7a7a7a", "x"),
    "held out": ("#0072B2", "circle"),
    "full size": ("#D55E00", "diamond"),
}
_OTHER = ("#009E73", "square")
BAND = 0.2


def predicted_vs_measured(frame: pd.DataFrame) -> go.Figure:
    """Predicted over measured peak memory in GB, logarithmic, with the line of equality and 20 % either side of it.

    Parameters
    ----------
    frame : DataFrame
        The table that `benchmarks/fit_error.py` writes, one row a pair: part, model, bits, method, seq, batch,
        measured_bytes, predicted_bytes.

    Returns
    -------
    plotly Figure

    Raises
    ------
    InputError
        A column is missing, or there are no rows.
    """
    check_table(frame, COLUMNS, "the table of pairs")
    errors = (frame["predicted_bytes"] / frame["measured_bytes"] - 1).abs()
    low, high = _span(frame)
    figure = go.Figure([_line(low, high, 1.0, "equal"), *(_line(low, high, 1 + s * BAND) for s in (-1, 1))])
    for part, rows in frame.groupby("part", sort=False):
        figure.add_trace(_markers(str(part), rows))
    small = f"{len(frame)} pairs; error: median {100 * errors.median():.1f} %, worst {100 * errors.max():.1f} %; "
    figure.update_layout(base_layout("Predicted and measured peak memory", f"{small}dashed: 20 % either way"))
    ticks = [gb for gb in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64) if low <= gb * 1e9 <= high]
    axis = {"type": "log", "tickvals": ticks, "ticktext": [f"{gb:g}" for gb in ticks], "gridcolor": FAINT}
    span = [math.log10(low / 1e9), math.log10(high / 1e9)]
    figure.update_layout(
        height=560,
        xaxis={**axis, "title": {"text": "Measured (GB)"}, "range": span, "zeroline": False},
        yaxis={**axis, "title": {"text": "Predicted (GB)"}, "range": span, "zeroline": False},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        margin={"l": 8, "r": 24, "t": 110, "b": 64},
    )
    return figure


def _span(frame: pd.DataFrame) -> tuple[float, float]:
    both = frame[["measured_bytes", "predicted_bytes"]]
    return 0.85 * float(both.min().min()), 1.15 * float(both.max().max())


def _line(low: float, high: float, times: float, name: str | None = None) -> go.Scatter:
    ends = [low / 1e9, high / 1e9]
    style = {"color": LINE, "width": 1, "dash": "solid" if times == 1 else "dash"}
    return go.Scatter(
        x=ends, y=[times * end for end in ends], mode="lines", line=style, name=name, showlegend=False, hoverinfo="skip"
    )


def _markers(part: str, rows: pd.DataFrame) -> go.Scatter:
    colour, symbol = STYLES.get(part, _OTHER)
    names = [
        f"{text.escape(str(r['model']), NAME_LIMIT)}, {r['bits']} bits, {text.escape(str(r['method']))}, "
        f"{r['batch']} x {r['seq']} tokens: {100 * (r['predicted_bytes'] / r['measured_bytes'] - 1):+.1f} %"
        for r in rows.to_dict("records")
    ]
    return go.Scatter(
        x=rows["measured_bytes"] / 1e9,
        y=rows["predicted_bytes"] / 1e9,
        mode="markers",
        name=f"{text.escape(part, NAME_LIMIT)} ({len(rows)})",
        marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 1, "color": "white"}},
        customdata=names,
        hovertemplate="%{customdata}<br>measured %{x:.2f} GB, predicted %{y:.2f} GB<extra></extra>",
    )
