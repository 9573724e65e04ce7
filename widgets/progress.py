"""A bar with a name and a role, a sentence that is read out, and the curve of a loss; plain without anywidget.

ipywidgets' own IntProgress has no role: a screen reader passes over it.
"""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import traitlets

from slmkit_widgets.base import label
from slmkit_widgets.models.progress import Shown
from slmkit_widgets.scripted import scripted

# The facts of a `Shown`, all of them in one message.
ProgressBox: Any = scripted("progress.js", now=traitlets.Dict(), named=traitlets.Unicode(), curve=traitlets.Unicode())


class PlainProgress(w.VBox):
    """The same in ipywidgets' own controls."""

    def __init__(self, named: str) -> None:
        self.bar = w.IntProgress(description=named, style={"description_width": "initial"}, layout={"width": "100%"})
        self.said, self.figures = label(""), label("")
        super().__init__([self.bar, self.said, self.figures])

    def show(self, now: Shown) -> None:
        """Put a state on the page."""
        self.bar.max, self.bar.value = max(1, now.total), now.done
        self.said.value, self.figures.value = now.said, now.figures


def box(named: str, curve: str) -> w.Widget:
    """The widget for a progress of that name, and of a curve of that name."""
    if ProgressBox is None:
        return PlainProgress(named)
    return ProgressBox(named=named, curve=curve, now=Shown().facts())


def show(made: Any, now: Shown) -> None:
    """Put a state on the page."""
    if isinstance(made, PlainProgress):
        made.show(now)
    else:
        made.now = now.facts()
