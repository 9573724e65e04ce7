"""What goes to the browser: texts cleaned and capped, and MIME bundles of tables and pictures. Nothing else makes any.

Rows, labels, names of models and of files come from outside. They reach the page as text of a control, as a cell that
pandas escapes, or as text of plotly, which are the ways in which no markup runs; each passes `plain` first, so that no
row can turn the reading direction or fill the page. Links in rows are not made clickable, and `$` is no formula.
"""

from __future__ import annotations

import itertools
import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from slmkit import text

LINE_WIDTH = 74  # characters of the widgets' font in the 564 pixels that a workbench has in a window of 800
NAME_LIMIT = 80
CELL_LIMIT = 200
CHOICES = 200  # options of one list; a longer one serves nobody and costs the page
TABLE_ROWS = 60
NUMBER = re.compile(r"[-+]?[\d,.]*\d[\d,.]*( ?%)?|-|")  # a missing one is "-" or nothing
CELL = re.compile(r"<(t[dh])>")
PLAIN = ("mathjax_ignore", "tex2jax_ignore")  # classes that keep MathJax off: two prices are not a formula

Bundle = dict[str, Any]  # one output of a cell, as nbformat writes it


def plain(value: object, limit: int = NAME_LIMIT) -> str:
    """A text from outside as a control may show it: printable, one line, at most `limit` characters."""
    raw = "" if value is None else str(value)
    head = raw[: 4 * limit]  # a message of a megabyte is not cleaned for its first line
    shown = text.clean(head, limit)
    return shown if len(raw) == len(head) or shown.endswith("...") else f"{shown[: limit - 3].rstrip()}..."


def lines(said: str, width: int = LINE_WIDTH, limit: int = 2000) -> list[str]:
    """A sentence cut into lines, since a label does not wrap."""
    return textwrap.wrap(text.clean(said, limit), width)


def choices(values: Iterable[Any], name: Any = str) -> list[tuple[str, Any]]:
    """Options of a list as (shown, value), at most `CHOICES`; two that look alike are told apart by a number.

    Only what is shown goes to the browser; it answers with a position.
    """
    shown: list[tuple[str, Any]] = []
    taken: set[str] = set()
    for value in values:
        if len(shown) == CHOICES:
            break
        label = own = plain(name(value)) or "(empty)"
        number = 1
        while label in taken:
            number += 1
            label = f"{own} #{number}"
        taken.add(label)
        shown.append((label, value))
    return shown


def table(frame: pd.DataFrame) -> tuple[Bundle, ...]:
    """The first rows of a frame as a real table, with a plain one for places that show no markup."""
    if frame.empty:
        return ()
    cells = frame.head(TABLE_ROWS).map(lambda cell: plain(cell, CELL_LIMIT))
    cells.columns = pd.Index([plain(column) for column in cells.columns])
    with pd.option_context("display.max_colwidth", CELL_LIMIT + 1):  # pandas cuts cells at 50 otherwise
        markup = cells.to_html(index=False, escape=True, border=0, classes=list(PLAIN))
    numbers = [all(map(NUMBER.fullmatch, column)) for _, column in cells.items()]
    return (_output({"text/plain": cells.to_string(index=False), "text/html": _aligned(markup, numbers)}),)


def _aligned(markup: str, numbers: Sequence[bool]) -> str:
    """Texts on the left; numbers stay on the right, their digits below each other. pandas escaped each "<" in cells."""
    turn = itertools.cycle(numbers)
    return CELL.sub(lambda found: found[0] if next(turn) else f'<{found[1]} style="text-align: left">', markup)


def picture(figure: go.Figure | None) -> tuple[Bundle, ...]:
    """A figure as plotly's own MIME type: drawn where it is known, its title where not."""
    if figure is None:
        return ()
    title = figure.layout.title.text or "picture"
    document = {"application/vnd.plotly.v1+json": json.loads(figure.to_json()), "text/plain": f"Picture: {title}"}
    return (_output(document),)


def _output(data: Bundle) -> Bundle:
    return {"output_type": "display_data", "data": data, "metadata": {}}
