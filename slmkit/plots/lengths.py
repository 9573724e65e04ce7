"""How long texts are, and how many of them a limit cuts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from slmkit.errors import InputError
from slmkit.plots.scores import MODEBAR


def text_lengths(lengths: Sequence[int] | np.ndarray, limits: Sequence[int], unit: str = "tokens") -> go.Figure:
    """Histogram of lengths, with the limits texts could be cut to.

    Parameters
    ----------
    lengths : array (n,)
        Tokens of each text, as `backends.count_tokens` gives them; at least one.
    limits : sequence of int
        Each is drawn with the share of texts that are longer.
    unit : str
        What was counted.

    Returns
    -------
    plotly Figure
    """
    tokens = np.asarray(lengths)
    if not tokens.size:
        raise InputError("lengths must hold at least one text's tokens; got none")
    counts, edges = np.histogram(tokens, bins=40)
    bars = go.Bar(x=edges[:-1], y=counts, width=np.diff(edges), offset=0, marker_color="#4477aa")
    figure = go.Figure(bars)
    for step, limit in enumerate(limits):  # each label a step higher, so that none covers another
        figure.add_vline(limit, line={"dash": "dash", "width": 1.5, "color": "#333333"}, opacity=1)
        label = {"text": f"at {limit}: {(tokens > limit).mean():.0%} are cut", "yshift": 16 * step}
        figure.add_annotation(x=limit, y=1, yref="paper", yanchor="bottom", showarrow=False, **label)
    figure.update_xaxes(title=f"{unit} of a text", range=[0, max([*limits, int(tokens.max())]) * 1.15])
    figure.update_yaxes(title="texts")
    return figure.update_layout(height=340, template="simple_white", margin={"t": 70}, modebar=MODEBAR)
