"""Picture for an explorer of many runs: some by name on one cost, and behind them the crowd of all others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd
import plotly.graph_objects as go

from slmkit.plots.footprint import accuracy_vs_footprint, axis_range, drop_buttons, is_log
from slmkit.plots.scores import LINE
from slmkit.runs import Run
from slmkit.runs.configurations import as_runs, footprint_of

CELLS = 40  # of the crowd along each axis: one dot a cell, however many runs fall into it


def accuracy_in_a_crowd(
    runs: Iterable[Run] | pd.DataFrame, footprint: str, crowd: Sequence[tuple[float, float]] = ()
) -> go.Figure:
    """`accuracy_vs_footprint` of one cost, without buttons, in front of unnamed points.

    Parameters
    ----------
    runs : iterable of Run, or the frame of `runs.to_frame`
        Of one task; each configuration gets its number and a line of the legend, so a few dozen at most.
    footprint : str
        As in `accuracy_vs_footprint`.
    crowd : sequence of (cost, accuracy)
        Costs in the unit of the footprint, accuracy a share. Drawn as small grey dots, at most one in each of 40 x 40
        cells.

    Returns
    -------
    plotly Figure
        Traces and bytes do not grow with the crowd.
    """
    named = as_runs(runs)
    figure = accuracy_vs_footprint(named, footprint)
    drop_buttons(figure)
    figure.data = tuple(trace for trace in figure.data if trace.visible)
    if not crowd:
        return figure
    view = footprint_of(footprint)
    costs = [x for run in named if (x := view.of(run)) is not None] + [x for x, _ in crowd]
    low, high, ticks = axis_range(costs)
    log = is_log(costs)
    ends = [math.log10(low), math.log10(high)] if log else [low, high]
    dots = _cells([(math.log10(x) if log else x, y) for x, y in crowd])
    figure.add_trace(
        go.Scatter(
            x=[10**x if log else x for x, _ in dots],
            y=[100 * y for _, y in dots],
            mode="markers",
            marker={"size": 5, "color": LINE, "opacity": 0.45},
            name=f"{len(crowd):,} more, without a number",
            hoverinfo="skip",
            zorder=-1,
        )
    )
    shown = [100 * y for _, y in dots]
    bottom, top = figure.layout.yaxis.range
    figure.update_layout(
        xaxis={
            "type": "log" if log else "linear", "range": ends, "tickvals": ticks,
            "ticktext": [f"{tick:,.10g}".replace(",", " ") for tick in ticks],
            "title": {"text": f"{view.title} ({view.unit}){', logarithmic' if log else ''}"},
        },
        yaxis={"range": [min(bottom, min(shown) - 2), max(top, min(max(shown) + 2, 102.5))]},
    )  # fmt: skip
    return figure


def _cells(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """One point of each cell of a grid over the points."""
    spans = [(min(values), max(values)) for values in zip(*points, strict=True)]
    kept: dict[tuple[int, ...], tuple[float, float]] = {}
    for point in points:
        cell = tuple(
            min(CELLS - 1, int(CELLS * (v - low) / (high - low))) if high > low else 0
            for v, (low, high) in zip(point, spans, strict=True)
        )
        kept.setdefault(cell, point)
    return list(kept.values())
