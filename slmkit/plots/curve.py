"""Picture of a learning curve: accuracy against the number of labels, floor and prompt on it, where a lead begins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from slmkit import text
from slmkit.errors import InputError
from slmkit.plots.scores import FAINT, LINE, NAME_LIMIT, base_layout, check_table

COLUMNS = (
    "task", "series", "method", "kind", "labels", "labels_low", "labels_high", "accuracy", "low", "high", "n_test",
    "seeds", "measured",
)  # fmt: skip
KINDS = ("point", "run", "fit", "level", "crossing")
APART = 1.02  # factor between the markers of two curves at one size
FLOOR = ("#7a7a7a", "x")
STYLES = (  # Okabe & Ito (2008); the marker tells them apart without colour
    ("#0072B2", "circle"),
    ("#009E73", "square"),
    ("#D55E00", "diamond"),
    ("#CC79A7", "triangle-up"),
    ("#E69F00", "triangle-down"),
    ("#56B4E9", "pentagon"),
)


def learning_curve(frame: pd.DataFrame) -> go.Figure:
    """Accuracy against the number of labels, with 95 % intervals, fitted curves, and the crossing with the floor.

    Parameters
    ----------
    frame : DataFrame
        `LearningCurve.frame`, or the rows of "frame" in learning_curve.json. Each row is of one `kind`: "point" (mean
        over seeds at a number of labels), "run" (one seed), "fit" (the fitted curve), "level" (a prompt, for which the
        number of labels hardly matters) or "crossing" (where a lead over the floor begins). Shares between 0 and 1.

    Returns
    -------
    plotly Figure
        Labels on a logarithmic axis, accuracy in percent; what lies beyond the largest size measured is dashed.

    Raises
    ------
    InputError
        A column is missing, or no points.
    """
    check_table(frame, COLUMNS, "the table of a learning curve")
    if not (frame["kind"] == "point").any():
        raise InputError(f"the table of a learning curve has no row of kind 'point'; got {sorted(set(frame['kind']))}")
    names = list(dict.fromkeys(frame.loc[frame["method"] != "floor", "series"]))
    floor = set(frame.loc[frame["method"] == "floor", "series"])
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(names)} | dict.fromkeys(floor, FLOOR)
    place = {name: i for i, name in enumerate(dict.fromkeys(frame.loc[frame["kind"] == "point", "series"]))}
    parts = {kind: frame[frame["kind"] == kind] for kind in KINDS}
    figure = go.Figure()
    for kind, draw in (("fit", _curves), ("run", _runs), ("point", _points)):
        for name, rows in parts[kind].groupby("series", sort=False):
            if kind != "fit":  # side by side, so that no bar hides another
                rows = rows.assign(x=rows["labels"] * APART ** (place[str(name)] - (len(place) - 1) / 2))
            figure.add_traces(draw(str(name), rows, *styles[str(name)]))
    for row in _each(parts["level"]):
        _level(figure, row, styles[row.series][0])
    for number, row in enumerate(_each(parts["crossing"])):
        _crossing(figure, row, styles[row.series][0], number)
    figure.update_layout(_layout(frame, parts))
    return figure


def _curves(name: str, rows: pd.DataFrame, colour: str, symbol: str) -> list[go.Scatter]:
    """The band, and the curve: solid as far as was measured, dashed beyond."""
    rows = rows.sort_values("labels")
    end = float(rows["measured"].iloc[0])
    common = {"legendgroup": text.escape(name, NAME_LIMIT), "showlegend": False, "hoverinfo": "skip", "mode": "lines"}
    band = go.Scatter(
        x=[*rows["labels"], *rows["labels"][::-1]],
        y=[*(100 * rows["high"]), *(100 * rows["low"])[::-1]],
        fill="toself",
        fillcolor=colour,
        opacity=0.14,
        line={"width": 0},
        **common,
    )
    inside = rows[rows["labels"] <= end]
    beyond = rows[rows["labels"] >= inside["labels"].max()]
    lines = [
        go.Scatter(
            x=part["labels"], y=100 * part["accuracy"], line={"color": colour, "width": 2.5, "dash": dash}, **common
        )
        for part, dash in ((inside, "solid"), (beyond, "dash"))
    ]
    return [band, *lines]


def _runs(name: str, rows: pd.DataFrame, colour: str, symbol: str) -> list[go.Scatter]:
    told = [
        f"{text.escape(name, NAME_LIMIT)}<br>{int(r.labels)} labels, one seed: "
        f"{text.with_interval(r.accuracy, r.low, r.high)}, n = {int(r.n_test)}"
        for r in _each(rows)
    ]
    marker = {"color": colour, "symbol": symbol, "size": 6}
    return [_dots(name, rows, told, marker=marker, opacity=0.4, showlegend=False)]


def _points(name: str, rows: pd.DataFrame, colour: str, symbol: str) -> list[go.Scatter]:
    told = [
        f"<b>{text.escape(name, NAME_LIMIT)}</b><br>{int(r.labels)} labels: "
        f"{text.with_interval(r.accuracy, r.low, r.high)}<br>n = {int(r.n_test)} test rows, {_seeds(int(r.seeds))}"
        for r in _each(rows)
    ]
    ends = {"array": 100 * (rows["high"] - rows["accuracy"]), "arrayminus": 100 * (rows["accuracy"] - rows["low"])}
    bars = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 5, "color": colour, **ends}
    marker = {"color": colour, "symbol": symbol, "size": 12}
    return [_dots(name, rows, told, marker=marker, error_y=bars, name=text.escape(name, NAME_LIMIT))]


def _dots(series: str, rows: pd.DataFrame, told: list[str], **drawn: Any) -> go.Scatter:
    """Accuracies as markers, in the series' group of the legend, with what is told of each."""
    group = text.escape(series, NAME_LIMIT)
    shared = {"mode": "markers", "legendgroup": group, "hovertext": told, "hoverinfo": "text"}
    return go.Scatter(x=rows["x"], y=100 * rows["accuracy"], **shared, **drawn)


def _level(figure: go.Figure, row: Any, colour: str) -> None:
    """A prompt as a line over the whole width; its label stands in the right margin, as the floor's does elsewhere."""
    accuracy, low, high = (100 * getattr(row, name) for name in ("accuracy", "low", "high"))
    figure.add_hrect(y0=low, y1=high, fillcolor=colour, opacity=0.1, line_width=0, layer="below")
    figure.add_hline(y=accuracy, line={"color": colour, "width": 2, "dash": "dot"}, layer="below")
    place = {
        "x": 1,
        "xref": "paper",
        "xanchor": "left",
        "y": accuracy,
        "yanchor": "middle",
        "xshift": 6,
        "align": "left",
    }
    shown = text.escape(row.series, 40).replace(", ", "<br>")
    figure.add_annotation(
        text=f"{shown}<br>{accuracy:.1f} %", showarrow=False, font={"size": 13, "color": colour}, **place
    )


def _crossing(figure: go.Figure, row: Any, colour: str, number: int) -> None:
    """An open star where the lead begins, with its interval along the axis of labels, and its words below."""
    labels, low, high = (float(getattr(row, name)) for name in ("labels", "labels_low", "labels_high"))
    figure.add_trace(
        go.Scatter(
            x=[labels],
            y=[100 * row.accuracy],
            mode="markers",
            marker={"symbol": "star-open", "size": 17, "color": colour, "line": {"width": 2.5}},
            error_x={
                "type": "data", "symmetric": False, "thickness": 2, "width": 7, "color": colour,
                "array": [high - labels], "arrayminus": [labels - low],
            },
            showlegend=False,
            hovertext=[f"{text.escape(row.series, NAME_LIMIT)}<br>ahead of the floor from {about(labels)} on"],
            hoverinfo="text",
        )
    )  # fmt: skip
    figure.add_vline(x=labels, line={"color": colour, "width": 1.5, "dash": "dot"}, layer="below")
    figure.add_annotation(
        text=f"ahead of the floor<br>from {about(labels)}", showarrow=False, font={"size": 13, "color": colour},
        x=math.log10(labels), xanchor="left", xshift=6, align="left",
        y=0.02 + 0.1 * number, yref="paper", yanchor="bottom",
    )  # fmt: skip


def about(labels: float) -> str:
    """A number of labels read off a curve: "about 140 labels"."""
    return f"about {number(labels)} labels"


def number(labels: float) -> str:
    """A number of labels no finer than a curve tells it: whole below 100, tens below 1000, then two digits."""
    step = 1 if labels < 100 else max(10, 10 ** (math.floor(math.log10(labels)) - 1))
    return f"{step * round(labels / step):,}"


def _each(rows: pd.DataFrame) -> Iterator[Any]:
    return rows.itertuples()


def _seeds(n: int) -> str:
    return f"{n} seed{'s' * (n != 1)}"


def _layout(frame: pd.DataFrame, parts: dict[str, pd.DataFrame]) -> dict[str, object]:
    points = parts["point"]
    sizes = sorted({int(n) for n in points["labels"]})
    ends = [*sizes, *parts["fit"]["labels"]]
    ticks = [*sizes, *([2 * sizes[-1]] if max(ends) > sizes[-1] else [])]
    shown = pd.concat([points, parts["level"], parts["fit"][parts["fit"]["labels"] >= sizes[0]]])
    low, high = 100 * float(points["low"].min()), 100 * float(shown["high"].max())
    low = min([low, *(100 * parts["level"]["low"])])
    room = 0.06 * max(high - low, 2.0)
    n_test = sorted({int(n) for n in points["n_test"]})
    rows = f"{n_test[0]}" if len(n_test) == 1 else f"{n_test[0]} to {n_test[-1]}"
    small = (
        f"{text.clean(frame['task'].iloc[0], 60)}: n = {rows} test rows, {_seeds(int(points['seeds'].max()))}; bars "
        "and bands: 95 % intervals; small markers: single seeds; lines: fitted, dashed where not measured"
    )
    n_rows = -(-len(set(points["series"])) // 2)
    return {
        **base_layout("Is it worth labelling more?", small),
        "height": 560 + 24 * n_rows,
        "xaxis": {
            "type": "log", "title": {"text": "Labels learned from, logarithmic"}, "tickvals": ticks,
            "ticktext": [f"{tick:,}".replace(",", " ") for tick in ticks], "gridcolor": FAINT, "zeroline": False,
            "range": [math.log10(sizes[0] / 1.12), math.log10(max(ends) * 1.06)],
        },
        "yaxis": {
            "title": {"text": "Accuracy (%)"}, "range": [max(low - room, -2.0), min(high + room, 102.5)],
            "gridcolor": FAINT, "zeroline": False, "linecolor": LINE,
        },
        "legend": {"orientation": "h", "x": 0, "y": -0.16, "yanchor": "top"},
        "margin": {"l": 76, "r": 24 if parts["level"].empty else 150, "t": 120, "b": 90 + 24 * n_rows},
    }  # fmt: skip
