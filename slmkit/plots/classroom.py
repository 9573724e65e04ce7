"""A class in one picture: what everybody measured of the same configurations, on machines that differ."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from slmkit import text
from slmkit.errors import InputError, unknown
from slmkit.plots.footprint import STYLES, axis_range, is_log
from slmkit.plots.scores import FAINT, base_layout

COSTS = {
    "latency_ms": "Median time for one row (ms)",
    "stored_MB": "Stored size of the model (MB)",
    "peak_memory_MB": "Peak memory while classifying (MB)",
    "J_per_1000_rows": "Energy for 1000 rows (J)",
}
_OTHER = ("#CC79A7", "triangle-up")
_FILLINGS = {8: "-open-dot", 4: "-open"}
NEEDED = (
    "student",
    "task",
    "configuration",
    "method",
    "bits",
    "n_test",
    "accuracy",
    "low",
    "high",
    "origin",
    "machine",
)


def class_results(runs: pd.DataFrame, cost: str = "latency_ms") -> go.Figure:
    """Accuracy against a cost, one marker a student and configuration.

    Parameters
    ----------
    runs : DataFrame
        As `workshop.gather` gives them, of one task.
    cost : str
        "latency_ms", "stored_MB", "peak_memory_MB" or "J_per_1000_rows"; rows that do not know it are left out.

    Returns
    -------
    plotly Figure
        Accuracy in percent, a legend entry a configuration. What was recorded on another machine is drawn fainter and
        says so.

    Raises
    ------
    InputError
        No row, several tasks, a missing column, or a cost that is unknown or in no row.
    """
    if cost not in COSTS:
        raise unknown("cost", cost, COSTS)
    if missing := [name for name in (*NEEDED, cost) if name not in runs.columns]:
        raise InputError(f"the table of a class lacks the columns {', '.join(missing)}")
    tasks = sorted(runs["task"].unique())
    if len(tasks) != 1:
        raise InputError(f"a picture of a class shows one task; got {', '.join(map(repr, tasks)) or 'no run'}")
    known = runs[runs[cost].notna()]
    if known.empty:
        raise InputError(f"no run of the class has the cost {cost!r}")
    means = known.groupby("configuration")["accuracy"].mean().sort_values(ascending=False, kind="stable")
    figure = go.Figure([_trace(known[known["configuration"] == name], name, cost) for name in means.index])
    n_students, sizes = known["student"].nunique(), sorted(known["n_test"].unique())
    n = f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}"
    subtitle = (
        f"{text.clean(tasks[0], 60)}: {n_students} students, {n} test rows each; point at a marker for its interval"
    )
    figure.update_layout(base_layout("What the class measured", subtitle))
    figure.update_layout(height=620, xaxis=_axis(known[cost].tolist(), cost), legend={"orientation": "h", "y": -0.16})
    return figure.update_yaxes(title="Accuracy (%)", gridcolor=FAINT, zeroline=False)


def _trace(rows: pd.DataFrame, name: str, cost: str) -> go.Scatter:
    colour, marker = STYLES.get(rows["method"].iloc[0], _OTHER)
    bits = rows["bits"].iloc[0]
    marker += _FILLINGS.get(0 if pd.isna(bits) else int(bits), "")
    return go.Scatter(
        x=rows[cost].tolist(),
        y=(100 * rows["accuracy"]).tolist(),
        mode="markers",
        marker={
            "symbol": marker, "size": 13, "color": colour, "line": {"width": 2 if "open" in marker else 0},
            "opacity": [0.45 if origin == "recorded" else 0.95 for origin in rows["origin"]],
        },
        name=text.escape(name, 60),
        hovertext=[_hover(row, cost) for row in rows.to_dict("records")],
        hoverinfo="text",
    )  # fmt: skip


def _hover(row: dict, cost: str) -> str:
    lines = [
        f"{row['student']}: {row['configuration']}",
        f"Accuracy {text.with_interval(row['accuracy'], row['low'], row['high'])}, n = {row['n_test']}",
        f"{COSTS[cost]}: {text.rounded(row[cost])}",
        f"{'Recorded' if row['origin'] == 'recorded' else 'Measured'} on {row['machine']}",
    ]
    return "<br>".join(text.escape(line, 160) for line in lines)


def _axis(values: list[float], cost: str) -> dict:
    low, high, ticks = axis_range(values)
    log = is_log(values)
    ends = [math.log10(low), math.log10(high)] if log else [low, high]
    title = COSTS[cost] + (", logarithmic" if log else "")
    return {"title": title, "type": "log" if log else "linear", "range": ends, "tickvals": ticks, "gridcolor": FAINT}
