"""A picture of what fewer bits save and cost: each cost as a multiple of the same model in 16 bits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from slmkit import text
from slmkit.bitcosts import BitsPair, pairs_of
from slmkit.errors import InputError
from slmkit.plots.scores import FAINT, LINE, NAME_LIMIT, base_layout, n_test, one_task
from slmkit.runs import Run
from slmkit.runs.configurations import FOOTPRINTS, as_runs, configurations

_COLOURS = {8: ("#56B4E9", ""), 4: ("#0072B2", "/")}  # bits -> colour, pattern: nothing rests on colour alone


def bits_cost(runs: Iterable[Run] | pd.DataFrame, folder: str | Path | None = None) -> go.Figure:
    """Stored size, memory, time and energy in few bits as multiples of 16 bits; right of the line is paid.

    Parameters
    ----------
    runs : iterable of Run, or the frame of `runs.to_frame`
        Of one task, with some models both in 16 bits and in fewer; `InputError` without any such pair.
    folder : path or None
        Where the per-example probabilities lie; they give the points of accuracy in the hover text their interval.

    Returns
    -------
    plotly Figure
        One bar a configuration and known cost.
    """
    configs = configurations(one_task(as_runs(runs)))
    pairs = pairs_of(configs, Path(folder) if folder is not None else None)
    if not pairs:
        raise InputError("nothing to compare: no model was run with the same method in 16 bits and in fewer")
    figure = go.Figure([_trace(pair) for pair in pairs])
    figure.add_vline(x=1, line={"color": LINE, "dash": "dash"})
    words = f"{n_test(configs)}. Multiples of the same model and method in 16 bits; 1 is the same"
    figure.update_layout(base_layout("What the bits save and cost", words))
    axis = {"gridcolor": FAINT, "zeroline": False, "automargin": True}
    longest = max(1.0, *(x for bar in figure.data for x in bar.x))
    figure.update_layout(
        height=200 + 4 * (26 + 22 * len(pairs)),
        barmode="group",
        xaxis={**axis, "title": {"text": "× 16 bits"}, "range": [0, 1.25 * longest]},  # words end the bars
        yaxis={**axis, "autorange": "reversed", "ticklabelstandoff": 8},
        legend={"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top"},
        margin={"l": 8, "r": 40, "t": 96, "b": 120},
        title={"x": 0.02, "xref": "container"},
    )
    return figure


def _trace(pair: BitsPair) -> go.Bar:
    known = [(f, ratio) for f in FOOTPRINTS.values() if (ratio := pair.ratio(f.key)) is not None]
    bits = pair.few.first.bits or 0
    colour, pattern = _COLOURS.get(bits, ("#7a7a7a", "."))
    interval = pair.interval
    ends = f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})" if interval else ""
    points = f"accuracy {pair.comparison.points:+.1f} points{ends}"
    name = text.escape(f"{pair.few.number} · {pair.few.name}", NAME_LIMIT)
    marker: dict[str, Any] = {"color": colour, "pattern": {"shape": pattern, "fgcolor": "white", "solidity": 0.25}}
    return go.Bar(
        x=[ratio for _, ratio in known],
        y=[f.button for f, _ in known],
        orientation="h",
        name=name,
        marker=marker,
        text=[f"{bits} bits: × {ratio:.2f}" for _, ratio in known],
        textposition="outside",
        cliponaxis=False,
        hovertext=[f"{name}<br>{f.title}: × {ratio:.2f}<br>{text.escape(points)}" for f, ratio in known],
        hoverinfo="text",
    )
