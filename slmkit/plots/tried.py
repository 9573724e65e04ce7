"""Pictures of one text that was tried: the probability of each label, and what each word counted for."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from slmkit import text
from slmkit.errors import InputError
from slmkit.plots.scores import FAINT, base_layout

COLOURS = ("#0072B2", "#D55E00")
PATTERNS = ("", "/")  # no model by its colour alone
FOR, AGAINST = "#0072B2", "#D55E00"
MOST = 24  # words of one picture, those that count most


def label_probabilities(found: Sequence[tuple[str, Sequence[str], Sequence[float]]]) -> go.Figure:
    """Probability of each label of one text, a bar for each model.

    Parameters
    ----------
    found : sequence of (name, classes, probabilities)
        One or two models.

    Returns
    -------
    plotly Figure
        In percent.
    """
    if not found:
        raise InputError("there is no model whose probabilities could be drawn")
    figure, classes = go.Figure(), list(dict.fromkeys(label for _, labels, _ in found for label in labels))
    for i, (name, labels, shares) in enumerate(found):
        known = dict(zip(labels, shares, strict=True))
        values = [None if label not in known else 100 * known[label] for label in classes]
        figure.add_bar(
            y=[text.escape(label, 40) for label in classes],
            x=values,
            orientation="h",
            name=text.escape(name, 46),
            text=["" if value is None else f"{value:.1f} %" for value in values],
            marker={"color": COLOURS[i % 2], "pattern": {"shape": PATTERNS[i % 2]}},
        )
    figure.update_layout(
        base_layout("Probability of each label", "as each model says it, which need not be calibrated")
    )
    figure.update_layout(height=180 + 34 * len(classes) * len(found), barmode="group", showlegend=len(found) > 1)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}, margin={"t": 110})
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure.update_xaxes(title="probability (%)", range=[0, 112], gridcolor=FAINT)


def word_changes(words: Sequence[tuple[str, float]], label: str, probability: float, name: str = "") -> go.Figure:
    """What each word counted for: how much lower the probability of the label is without it.

    Parameters
    ----------
    words : sequence of (word, change)
        `Occluded.words`; of more than `MOST` those with the largest changes are drawn, in the order of the text.
    label : str
    probability : float
        Of the label, for the whole text.
    name : str
        Of the model.

    Returns
    -------
    plotly Figure
        In percentage points, right of zero for words that speak for the label.
    """
    if not words:
        raise InputError("there are no words to draw")
    largest = sorted(range(len(words)), key=lambda i: -abs(words[i][1]))[:MOST]
    shown = [(i, *words[i]) for i in sorted(largest)]
    changes = [100 * change for _, _, change in shown]
    figure = go.Figure()
    figure.add_bar(
        y=[f"{i + 1} · {text.escape(word, 30)}" for i, word, _ in shown],
        x=changes,
        orientation="h",
        text=[f"{change:+.1f}" for change in changes],
        marker={"color": [FOR if change >= 0 else AGAINST for change in changes]},
    )
    lead = f"{name}: {100 * probability:.1f} % for {label}; each word left out in turn, {len(words)} of them"
    figure.update_layout(base_layout("Which words mattered", text.clean(lead, 160)))
    figure.update_layout(height=190 + 24 * len(shown), showlegend=False)
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure.update_xaxes(title="points of probability lost without the word", gridcolor=FAINT, zeroline=True)
