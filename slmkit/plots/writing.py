"""Picture of scores side by side: who reaches what at each of several jobs, with intervals."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from slmkit import text
from slmkit.plots.scores import FAINT, NAME_LIMIT, base_layout, check_table

COLUMNS = ("job", "writer", "n", "score", "low", "high")
FLOOR = "floor"
_STYLES = (("#7a7a7a", "x"), ("#0072B2", "circle"), ("#D55E00", "diamond"), ("#009E73", "square"))


def writing_scores(
    frame: pd.DataFrame, title: str = "What a model writes, against a rule without one", unit: str = "Score (%)"
) -> go.Figure:
    """Scores of writers at each job in percent, with their 95 % intervals, one line a job.

    Parameters
    ----------
    frame : DataFrame
        Of `slmkit.writing.table`, several of them with a column job; a writer whose name begins with "floor" is one
        series, whatever its rule. Or of `retention.scores`, where a line is a student.
    title, unit : str

    Raises
    ------
    InputError
        A column is missing, or there are no rows.
    """
    check_table(frame, COLUMNS, "the table of writing jobs")
    jobs = list(dict.fromkeys(frame["job"]))
    series = frame["writer"].map(lambda name: FLOOR if str(name).startswith(FLOOR) else name)
    writers = list(dict.fromkeys(series))
    figure = go.Figure(
        [_markers(frame[series == writer], str(writer), jobs, i, len(writers)) for i, writer in enumerate(writers)]
    )
    sizes = {str(row["job"]): int(row["n"]) for row in frame.to_dict("records")}
    figure.update_layout(base_layout(text.escape(title, 90), "bars are 95 % intervals"))
    figure.update_layout(
        height=190 + 70 * len(jobs),
        xaxis={"title": {"text": text.escape(unit, 60)}, "range": [-2, 102], "gridcolor": FAINT, "zeroline": False},
        yaxis={
            "range": [len(jobs) - 0.5, -0.5],
            "tickvals": list(range(len(jobs))),
            "ticktext": [f"{text.escape(job, NAME_LIMIT)}, n = {sizes[str(job)]}" for job in jobs],
            **{"automargin": True, "gridcolor": FAINT, "zeroline": False, "ticklabelstandoff": 8},
        },
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        margin={"l": 8, "r": 24, "t": 110, "b": 64},
        title={"x": 0.02, "xref": "container"},
    )
    return figure


def _markers(rows: pd.DataFrame, writer: str, jobs: list[str], place: int, total: int) -> go.Scatter:
    colour, symbol = _STYLES[place % len(_STYLES)]
    shift = 0.4 * ((place + 0.5) / total - 0.5)
    records = rows.to_dict("records")
    hover = [
        f"{text.escape(r['writer'], NAME_LIMIT)}: {text.with_interval(r['score'], r['low'], r['high'])}, n = {r['n']}"
        for r in records
    ]
    return go.Scatter(
        x=[100 * r["score"] for r in records],
        y=[jobs.index(r["job"]) + shift for r in records],
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 13},
        error_x={
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": colour,
            "array": [100 * (r["high"] - r["score"]) for r in records],
            "arrayminus": [100 * (r["score"] - r["low"]) for r in records],
        },
        name=text.escape(writer, NAME_LIMIT),
        hovertext=hover,
        hoverinfo="text",
    )  # fmt: skip
