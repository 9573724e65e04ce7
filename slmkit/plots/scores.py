"""Pictures of the scores behind an accuracy: recall by class and calibration, and the layout all pictures share."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from slmkit import metrics, text
from slmkit.errors import InputError
from slmkit.runs import Run, read_probabilities
from slmkit.runs.configurations import Configuration, as_runs, configurations

FAINT = "rgba(127,127,127,0.28)"
LINE = "#8a8a8a"
FONT_SIZE = 15
MODEBAR = {"remove": ["sendChartToCloud"]}  # plotly's button that uploads a picture to its own cloud
CALIBRATION_BINS = 10
NAME_LIMIT = 46  # characters of a configuration in a legend
_WRAP = 64  # characters of the small title line that fit the 616 pixels which JupyterLab leaves of 800
_CLASS_MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star", "pentagon")
_CLASS_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7a7a7a")


def per_class_recall(runs: Iterable[Run] | pd.DataFrame) -> go.Figure:
    """Recall of each class, one line a configuration: which class a model pays for its accuracy with.

    Parameters
    ----------
    runs : iterable of Run, or the frame of `runs.to_frame`
        Of one task. With several seeds the mean is drawn, without an interval.

    Returns
    -------
    plotly Figure
        Recall in percent with its 95 % interval where one run stands behind it.
    """
    groups = configurations(one_task(as_runs(runs)))
    classes = sorted({name for c in groups for run in c.runs for name in run.recall_by_class})
    figure = go.Figure([_recall_trace(groups, i, name, len(classes)) for i, name in enumerate(classes)])
    figure.update_layout(base_layout("Recall by class", f"{n_test(groups)}; bars are 95 % intervals"))
    figure.update_layout(
        height=190 + len(groups) * max(34, 18 * len(classes)),
        xaxis={"title": {"text": "Recall (%)"}, "range": _share_range(groups), "gridcolor": FAINT, "zeroline": False},
        yaxis={
            "range": [len(groups) - 0.4, -0.6],
            "tickvals": list(range(len(groups))),
            "ticktext": [text.escape(f"{c.number} · {c.name}", NAME_LIMIT) for c in groups],
            **{"automargin": True, "gridcolor": FAINT, "zeroline": False, "ticklabelstandoff": 8},
        },
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        margin={"l": 8, "r": 24, "t": 110, "b": 64},
        title={"x": 0.02, "xref": "container"},
    )
    return figure


def _share_range(groups: Sequence[Configuration]) -> list[float]:
    """From the ten below the lowest recall or interval to a little above 100."""
    runs = [run for c in groups for run in c.runs]
    shares = [share for run in runs for share in run.recall_by_class.values() if share is not None]
    shares += [low for run in runs for name, (low, _) in run.intervals.items() if name.startswith("recall:")]
    return [10 * math.floor(10 * min(shares, default=0)) - 1, 101.5]


def calibration(run: Run, folder: Path) -> go.Figure:
    """How often the model is right against how sure it says it is, in ten equal-width bins.

    Parameters
    ----------
    run : Run
    folder : Path
        Where its per-example probabilities lie; `InputError` if they do not.

    Returns
    -------
    plotly Figure
        Share of right answers in percent with Wilson's interval, against the mean probability of the predicted class;
        the size of a marker follows the number of rows in its bin.
    """
    frame = read_probabilities(run, folder)
    columns = [name for name in frame.columns if name.startswith("p_")]
    top = frame[columns].to_numpy(dtype=float).max(axis=1)  # (n,)
    right = (frame["predicted"] == frame["label"]).to_numpy()
    bins = np.clip(np.ceil(top * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    cells = [(top[bins == b].mean(), right[bins == b].sum(), (bins == b).sum()) for b in np.unique(bins)]
    figure = go.Figure([_diagonal(), _calibration_trace(cells)])
    error = f"expected calibration error {100 * run.ece:.1f} points"
    subtitle = f"n = {len(frame)}, {error}; {configurations([run])[0].name}"
    figure.update_layout(base_layout("Can the probabilities be believed?", subtitle))
    axis = {"range": [-2, 104], "gridcolor": FAINT, "zeroline": False, "dtick": 20}
    figure.update_layout(
        height=460,
        showlegend=False,
        xaxis={**axis, "title": {"text": "How sure the model says it is (%)"}},
        yaxis={**axis, "title": {"text": "How often it is right (%)"}},
    )
    return figure


def one_task(runs: list[Run]) -> list[Run]:
    tasks = sorted({run.task for run in runs})
    if len(tasks) > 1:
        names = ", ".join(text.clean(task, 40) for task in tasks)
        raise InputError(f"a picture shows the runs of one task; these are of {len(tasks)}: {names}")
    return runs


def check_table(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Refuse a table without rows, or that lacks one of the columns, as an `InputError` that names them all."""
    missing = [name for name in columns if name not in frame]
    if missing or frame.empty:
        raise InputError(f"{what} must have rows and the columns {', '.join(columns)}; lacks {missing or 'rows'}")


def base_layout(title: str, subtitle: str) -> dict[str, Any]:
    return {
        "template": "plotly_white",
        "font": {"size": FONT_SIZE, "family": "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"},
        "title": {
            "text": title, "x": 0, "xref": "paper", "xanchor": "left", "y": 0.98, "yref": "container", "yanchor": "top",
            "automargin": True,
            "font": {"size": 20}, "subtitle": {"text": wrapped(subtitle), "font": {"size": 14}},
        },
        "margin": {"l": 76, "r": 24, "t": 84, "b": 72},
        "hoverlabel": {"font": {"size": 14}, "align": "left"},
        "modebar": MODEBAR,
    }  # fmt: skip


def n_test(groups: Sequence[Configuration]) -> str:
    sizes = sorted({run.n_test for c in groups for run in c.runs})
    n = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    seeds = sorted({run.seed for c in groups for run in c.runs})
    return f"n = {n} test rows" + (f", {len(seeds)} seeds" if len(seeds) > 1 else "")


def wrapped(line: str, width: int = _WRAP) -> str:
    return "<br>".join(text.escape(part) for part in textwrap.wrap(line, width))


def _recall_trace(groups: Sequence[Configuration], i: int, name: str, n_classes: int) -> go.Scatter:
    means = [c.mean(lambda run: run.recall_by_class.get(name)) for c in groups]
    spans = [c.first.intervals.get(f"recall:{name}") if len(c.runs) == 1 else None for c in groups]
    shift = 0.6 * ((i + 0.5) / n_classes - 0.5)  # classes side by side within a configuration's row
    places = [row + shift for row in range(len(groups))]
    known = [(m, s, row) for m, s, row in zip(means, spans, places, strict=True) if m is not None]
    shown = text.escape(name, 40)
    return go.Scatter(
        x=[100 * m for m, _, _ in known],
        y=[row for _, _, row in known],
        mode="markers",
        marker={"symbol": _CLASS_MARKERS[i % 7], "size": 13, "color": _CLASS_COLOURS[i % 7]},
        error_x={
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 0, "color": _CLASS_COLOURS[i % 7],
            "array": [100 * (s[1] - m) if s else 0 for m, s, _ in known],
            "arrayminus": [100 * (m - s[0]) if s else 0 for m, s, _ in known],
        },
        name=shown,
        hovertext=[f"{shown}: {text.with_interval(m, *s) if s else text.percent(m)}" for m, s, _ in known],
        hoverinfo="text",
    )  # fmt: skip


def _diagonal() -> go.Scatter:
    return go.Scatter(x=[0, 100], y=[0, 100], mode="lines", line={"color": LINE, "dash": "dash"}, hoverinfo="skip")


def _calibration_trace(cells: Sequence[tuple[float, int, int]]) -> go.Scatter:
    spans = [metrics.wilson(int(k), int(n)) for _, k, n in cells]
    total = sum(n for _, _, n in cells)
    colour = _CLASS_COLOURS[0]
    return go.Scatter(
        x=[100 * float(mean) for mean, _, _ in cells],
        y=[100 * float(k / n) for _, k, n in cells],
        mode="markers",
        marker={"size": [10 + 22 * float(math.sqrt(n / total)) for _, _, n in cells], "color": colour},
        error_y={
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 5, "color": colour,
            "array": [100 * (high - k / n) for (_, k, n), (_, high) in zip(cells, spans, strict=True)],
            "arrayminus": [100 * (k / n - low) for (_, k, n), (low, _) in zip(cells, spans, strict=True)],
        },
        hovertext=[f"{n} rows: says {text.percent(m)}, right {text.percent(k / n)}" for m, k, n in cells],
        hoverinfo="text",
    )  # fmt: skip
