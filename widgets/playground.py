"""The playground: one or two models side by side that answer or sort a text, and what that took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as w
import pandas as pd

from slmkit_widgets import display, progress
from slmkit_widgets.base import STYLE, View, row
from slmkit_widgets.models.playground import PlaygroundModel

SIDES = ("first", "second")


class Playground(View):
    """Try one or two models: answers as they are written, or labels with probabilities and the words that mattered.

    Models are loaded when they are first asked, after slmkit's check of the memory, and freed when the widget is closed
    or its cell runs again.

    Parameters
    ----------
    names : str or sequence of str
        One or two catalog names, folders, folders that `slmkit.tune` wrote, or saved classifiers.
    mode : {"chat", "classify"}
    labels : sequence of str, str or None
        Of plain models that classify: the labels, or a task's name. None takes those of a saved classifier.
    **settings
        bits, text, max_new_tokens, temperature.

    Raises
    ------
    InputError
        More than two models, an unknown mode or setting. What is wrong with a model is said in the widget.

    Examples
    --------
    >>> tried = Playground(["smollm2-135m-instruct", "runs/help-desk"], mode="chat", text="How do I close my account?")
    >>> tried.model.ask(wait=True)  # what the button does, for a notebook that runs from top to bottom
    >>> [reply.text for reply in tried.model.replies]
    """

    model: PlaygroundModel

    def __init__(
        self,
        names: str | Sequence[str] = "smollm2-135m-instruct",
        mode: str = "chat",
        labels: str | Sequence[str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(PlaygroundModel(names, mode, labels, **settings), "Playground: try models side by side")
        self.show(*self._settings(), *self._asking(), *self._answers(), *self._sorting())

    def _settings(self) -> list[w.Widget]:
        """Which models, and what for."""
        text = {"style": STYLE, "continuous_update": False}
        wide = {"width": "460px"}  # no layout of one control is another's: some of them are hidden
        small = {"style": STYLE, "layout": {"width": "230px"}}
        listed = {"style": STYLE, "layout": wide}
        self.mode = self.bind(w.Dropdown(description="Mode", **small), "mode", "mode_options")
        self.bits = self.bind(w.Dropdown(description="Bits", **small), "bits", "bits_options")
        named = w.Text(description="Labels, or a task", placeholder="fraud, legitimate", layout=wide, **text)
        self.labels = self.bind(named, "labels")
        first = w.Dropdown(description="First model", **listed)
        second = w.Dropdown(description="Second model", **listed)
        self.first = self.bind(first, "first", "first_options")
        self.second = self.bind(second, "second", "second_options")
        others = [w.Text(description=f"Or a folder, {side}", layout=wide, **text) for side in SIDES]
        self.others = [self.bind(other, side) for other, side in zip(others, SIDES, strict=True)]
        self.tokens = self.bind(w.IntText(description="Tokens at most", **small), "max_new_tokens")
        self.temperature = self.bind(w.FloatText(description="Temperature", step=0.1, **small), "temperature")
        chat, classify = [self.tokens, self.temperature], [self.labels]
        self.follow("mode", lambda: _only(self.model.mode, chat=chat, classify=classify))
        return [
            row(self.mode, self.bits, self.labels, self.tokens, self.temperature),
            row(self.first, self.others[0]),
            row(self.second, self.others[1]),
            self.said("about", list),
        ]

    def _asking(self) -> list[w.Widget]:
        """The text, and what to do with it."""
        model = self.model
        box = w.Textarea(description="Your text", rows=3, style=STYLE, layout=w.Layout(width="100%"))
        self.text = self.bind(box, "text")
        self.ask = self.button("Ask", model.ask, tooltip="Have the models answer or sort the text")
        self.stop = self.button("Stop", model.stop, tooltip="Stop at the next token; what was written stays")
        self.forget = self.button("Begin anew", model.forget, tooltip="Forget the dialogue so far")
        self.explain = self.button("Which words mattered", model.explain, tooltip="To the first model, word by word")
        self.follow("mode", lambda: _only(model.mode, chat=[self.forget], classify=[self.explain]))
        self.bar = progress.box("Progress of the answer", "")
        self.follow("progress", lambda: progress.show(self.bar, model.progress))
        return [self.text, row(self.ask, self.stop, self.forget, self.explain), self.bar]

    def _answers(self) -> list[w.Widget]:
        """What each model said and what it took, side by side."""
        columns = []
        for i, side in enumerate(SIDES):
            hidden = {"description_width": "0px"}  # it names the box for who cannot see it; the model's name is above
            named = f"Dialogue, {side} model"
            said = w.Textarea(description=named, rows=12, style=hidden, layout=w.Layout(width="100%"))
            self.readonly(said, "said", i)
            name = self.said(side, lambda name: [name] if name else [])
            figures = self.said("figures", lambda both, i=i: [both[i]] if both[i] else [])
            self.follow("mode", lambda said=said: _only(self.model.mode, chat=[said], classify=[]))
            column = w.VBox([name, said, figures], layout=w.Layout(flex="1 1 340px", min_width="0", margin="0 8px 0 0"))
            columns.append(column)
        self.follow("second", lambda: setattr(columns[1].layout, "display", "" if self.model.second else "none"))
        return [row(*columns)]

    def _sorting(self) -> list[w.Widget]:
        """Labels with their probabilities, and the words that mattered."""
        return [
            self.drawn("probabilities", display.picture),
            self.drawn("table", lambda rows: display.table(pd.DataFrame(rows))),
            self.drawn("words", display.picture),
            self.said("word_said"),
            self.drawn("word_table", lambda rows: display.table(pd.DataFrame(rows))),
        ]


def _only(mode: str, **shown: list[w.Widget]) -> None:
    """Show what belongs to a mode, and nothing of the other."""
    for name, controls in shown.items():
        for control in controls:
            control.layout.display = "" if name == mode else "none"
