"""Picture of estimated memory layer by layer: where the bytes of a model and of its training lie."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from slmkit import text
from slmkit.estimate.layers import PROCESS
from slmkit.estimate.terms import GROUPS
from slmkit.plots.scores import FAINT, NAME_LIMIT, base_layout, check_table

COLUMNS = ("layer", "group", "n_bytes")
COLOURS = {
    "weights": "#0072B2",
    "adapter": "#56B4E9",
    "gradients": "#E69F00",
    "optimizer": "#D55E00",
    "activations": "#009E73",
    "logits": "#CC79A7",
    "cache": "#F0E442",
    "buffers": "#7a7a7a",
    "runtime": "#bdbdbd",
}
PATTERNS = ("", "/", "x", ".", "\\", "-", "|", "+", "")  # so that nothing rests on colour alone


def memory_by_layer(frame: pd.DataFrame, title: str = "Memory layer by layer") -> go.Figure:
    """Estimated megabytes of each layer, stacked by what they are for; the process itself is named and not drawn.

    Parameters
    ----------
    frame : DataFrame
        Of `Estimate.by_layer`: layer, group, n_bytes.
    title : str

    Raises
    ------
    InputError
        A column is missing, or there are no rows.
    """
    check_table(frame, COLUMNS, "the table of layers")
    outside = int(frame.loc[frame["layer"] == PROCESS, "n_bytes"].sum())
    drawn = frame[frame["layer"] != PROCESS]
    layers = list(dict.fromkeys(drawn["layer"]))
    groups = [g for g in GROUPS if g in set(drawn["group"])] + sorted(set(drawn["group"]) - set(GROUPS))
    figure = go.Figure([_bars(drawn[drawn["group"] == group], group, layers) for group in groups])
    inside = int(drawn["n_bytes"].sum())
    subtitle = (
        f"Estimated: {text.megabytes(inside)} in the layers; {text.megabytes(outside)} more for Python, torch and "
        "what else the process holds are not drawn"
    )
    figure.update_layout(base_layout(text.escape(title, 90), subtitle))
    figure.update_layout(
        barmode="stack",
        bargap=0.15,
        height=190 + 19 * len(layers),
        xaxis={"title": {"text": "Memory (MB)"}, "gridcolor": FAINT, "zeroline": False},
        yaxis={"autorange": "reversed", "type": "category", "dtick": 1, "tickfont": {"size": 12}, "automargin": True},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        margin={"l": 8, "r": 24, "t": 118, "b": 64},
    )
    return figure


def _bars(rows: pd.DataFrame, group: str, layers: list[str]) -> go.Bar:
    n_bytes = rows.groupby("layer")["n_bytes"].sum().reindex(layers, fill_value=0)
    name = text.escape(group, NAME_LIMIT)
    place = GROUPS.index(group) if group in GROUPS else len(GROUPS) - 1
    return go.Bar(
        orientation="h",
        y=[text.escape(layer, NAME_LIMIT) for layer in layers],
        x=(n_bytes / 1e6).tolist(),
        name=name,
        marker={"color": COLOURS.get(group, "#7a7a7a"), "pattern": {"shape": PATTERNS[place], "solidity": 0.25}},
        hovertemplate=f"%{{y}}: {name} %{{x:.1f}} MB<extra></extra>",
    )
