"""The tuner: a model, rows and a way; a tuning that runs in the background, can be stopped and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as w

from slmkit_widgets import display, progress
from slmkit_widgets.base import STYLE, View, heading, row
from slmkit_widgets.models.tuner import TunerModel

OUT = "runs/tuned"


class Tuner(View):
    """Tune a model on your rows, watch it, stop it, go on with it, and see what it bought beside what it cost.

    It runs in a process of its own, so that the notebook stays free and gets all memory back. Closing the widget, or
    running its cell again, stops the tuning; what it had learned is kept, and Resume goes on with it, also after the
    kernel was restarted.

    Parameters
    ----------
    model : str
        As `slmkit.load` takes it.
    data : str, Path or DataFrame
        A task's name or a table with texts and labels; "domain_dialogues" or a table with messages, or with prompt and
        answer. A frame is written beside `out` when the tuning starts.
    out : path
        A new folder, or one in which a tuning stands half done.
    method : {"lora", "qlora", "last-k", "full"}
    **options
        bits, epochs, learning_rate, early_stopping, train, text_column, label_column, and whatever else `slmkit.tune`
        takes.

    Raises
    ------
    InputError
        An unknown method, a learning rate at which nothing good happens, data that are neither name, file nor frame.

    Examples
    --------
    >>> tuner = Tuner("smollm2-135m-instruct", "domain_dialogues", "runs/help-desk", method="last-k", epochs=1)
    >>> tuner.model.start(wait=True)  # what the button does, for a notebook that runs from top to bottom
    >>> tuner.model.result, tuner.model.job.progress
    """

    model: TunerModel

    def __init__(
        self,
        model: str = "smollm2-135m-instruct",
        data: Any = "domain_dialogues",
        out: str | Path = OUT,
        method: str = "lora",
        **options: Any,
    ) -> None:
        super().__init__(TunerModel(model, data, out, method=method, **options), "Tuner: a model, your rows")
        self.show(*self._settings(), *self._course())

    def _settings(self) -> list[w.Widget]:
        """What is tuned on what, and how."""
        text = {"style": STYLE, "continuous_update": False}
        wide, half = w.Layout(width="460px"), w.Layout(width="230px")
        listed = {"style": STYLE, "layout": wide}
        self.base = self.bind(w.Dropdown(description="Model to tune", **listed), "model", "model_options")
        other = w.Text(description="Or a folder, GGUF file or hub id", layout=wide, **text)
        self.other = self.bind(other, "model")
        self.rows = self.bind(w.Dropdown(description="Rows", **listed), "data", "data_options")
        self.file = self.bind(w.Text(description="Or a task or file", layout=wide, **text), "data")
        columns = {"layout": half, "placeholder": "guessed", **text}
        self.texts = self.bind(w.Text(description="Column of texts", **columns), "text_column")
        self.labels = self.bind(w.Text(description="Column of labels", **columns), "label_column")
        self.method = self.bind(w.Dropdown(description="Way", **listed), "method", "method_options")
        small = {"style": STYLE, "layout": half}
        bits = w.Dropdown(description="Bits of the weights", style=STYLE, layout=w.Layout(width="280px"))
        self.bits = self.bind(bits, "bits", "bits_options")
        self.epochs = self.bind(w.FloatText(description="Epochs", step=0.5, **small), "epochs")
        rate = w.Text(description="Learning rate", placeholder="as usual", layout=half, **text)
        self.rate = self.bind(rate, "learning_rate")
        self.train = self.bind(w.IntText(description="Rows to learn, 0 for all", **small), "train")
        early = w.Checkbox(description="Stop early: hold a tenth of the rows back", indent=False)
        self.early = self.bind(early, "early_stopping")
        self.out = self.bind(w.Text(description="Output folder", layout=wide, **text), "out")
        return [
            row(self.base, self.other),
            row(self.rows, self.file),
            row(self.texts, self.labels, self.out),
            self.said("rows_said"),
            row(self.method, self.bits),
            row(self.epochs, self.rate, self.train, self.early),
            self.said("rate_why"),
            self.said("needs"),
        ]

    def _course(self) -> list[w.Widget]:
        """Buttons, how far it is, and what it brought."""
        model = self.model
        self.start = self.button("Start", model.start, tooltip="Tune in the background")
        self.cancel = self.button("Cancel", model.cancel, tooltip="Stop; the last finished step is kept")
        self.resume = self.button("Resume", model.resume, tooltip="Go on with the tuning that stands in this folder")
        self.follow("half_done", lambda: setattr(self.resume.layout, "display", "" if model.half_done else "none"))
        self.bar = progress.box("Progress of the tuning", "Loss")
        self.follow("progress", lambda: progress.show(self.bar, model.progress))
        brought = heading("What it bought, and what it cost")
        self.follow("result", lambda: setattr(brought.layout, "display", "" if model.result else "none"))
        return [
            self.said("half_done"),
            row(self.start, self.cancel, self.resume),
            self.bar,
            brought,
            self.said("result", list),
            self.drawn("figure", display.picture),
        ]
