"""What a `Workbench` holds: the model and the rows that were picked, handed on to whatever part of it can use them.

The parts are view-models of their own; none of them knows of the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import traitlets

from slmkit import catalog, footprint
from slmkit.errors import InputError
from slmkit.estimate import gigabytes
from slmkit.finetune import Tuned
from slmkit.tuning import either
from slmkit_widgets.models.base import ViewModel

PARTS = {
    "Start": "where to begin",
    "Models": "what of the catalog fits this machine; the model picked there goes to Tune and Try",
    "Data": "rows, labels, lengths and leaks; the rows opened there go to Tune",
    "Label": "label rows of your own with the keyboard",
    "Tune": "tune the model on the rows, and see what that bought and cost; the result goes to Try",
    "Try": "ask one or two models side by side, or have them sort a text",
    "Costs": "accuracy against bytes, memory, time and energy, of recorded runs and your own",
    "Flag": "what to flag when a miss and a false alarm cost differently",
}


class WorkbenchModel(ViewModel):
    """The parts together.

    Attributes
    ----------
    tab : int
        Position in `PARTS` of the part that is shown.
    name : str
        The model that was picked.
    rows : str
        The rows that were opened: a task's name or a file.
    second, mode : str
        What is tried beside the model, and how: a tuning that ended puts its folder here.
    label_rows, label_names, label_path : str
        Of the rows to label: a file, the labels between commas, and the CSV for them.
    labelling : tuple
        Rows, labels and CSV once they were asked for.
    intro : tuple of str
        What stands where, and what this machine has.
    """

    tab = traitlets.Int(0)
    name = traitlets.Unicode()
    rows = traitlets.Unicode()
    second = traitlets.Unicode()
    mode = traitlets.Unicode("chat")
    label_rows = traitlets.Unicode()
    label_names = traitlets.Unicode()
    label_path = traitlets.Unicode("labels.csv")
    labelling = traitlets.Tuple(read_only=True)
    intro = traitlets.Tuple(read_only=True)

    def __init__(self, model: str, data: str | Path, folder: str | Path, out: str | Path) -> None:
        self.folder, self.out = Path(folder), str(out)
        self._parts: dict[str, Any] = {}
        super().__init__(name=model, rows=str(data))
        allowed, origin = footprint.memory_limit()
        machine = f"This machine: {footprint.usable_cores()} cores, {gigabytes(allowed)} of memory ({origin})."
        self.set_trait("intro", (*(f"{part}: {words}." for part, words in PARTS.items() if part != "Start"), machine))
        self.observe(lambda change: self._hand_on(), ["name", "rows"])
        self.observe(lambda change: self._write(), ["name", "rows"])
        self._write()

    @property
    def runs(self) -> Path | None:
        """The folder of runs, if there is one yet."""
        return self.folder if self.folder.is_dir() else None

    def join(self, part: str, model: Any) -> None:
        """Take a part in: what is picked there is handed on, and what was picked before is there already."""
        self._parts[part] = model
        if part == "Models":
            model.observe(lambda change: setattr(self, "name", change["new"]), "name")
        if part == "Data":
            model.observe(lambda change: self._opened(model), "name")
        if part == "Tune":
            model.observe(lambda change: self._tuned(model), "state")

    def label(self) -> None:
        """Ask for the labeller of the rows that were named."""
        names = [name.strip() for name in self.label_names.split(",") if name.strip()]
        if not self.label_rows.strip():
            raise InputError("name a file with texts first: CSV, JSONL, Parquet or Excel")
        self.set_trait("labelling", (self.label_rows.strip(), tuple(names) or None, self.label_path.strip()))

    def describe(self) -> str:
        """What stands where, in plain text."""
        return "\n".join((*self.intro, self.code))

    def _opened(self, explorer: Any) -> None:
        if explorer.asked:
            self.rows = explorer.asked

    def _tuned(self, tuner: Any) -> None:
        found = either.result(tuner.out) if tuner.state == "done" else None
        if found is None:
            return
        self.second, self.mode = tuner.out, "chat" if isinstance(found[0], Tuned) else "classify"
        if "Try" in self._parts:
            first = tuner.model if self._answers(tuner.model) else tuner.out
            self._parts["Try"].take([*dict.fromkeys([first, tuner.out])], self.mode)

    def _hand_on(self) -> None:
        tuner, tried = self._parts.get("Tune"), self._parts.get("Try")
        if tuner is not None and tuner.state not in ("running", "stopping"):
            tuner.attempt(tuner.take, self.name, self.rows)
        if tried is not None and tried.state == "ready" and self._answers(self.name):
            tried.take([*dict.fromkeys([self.name, *filter(None, [self.second])])], tried.mode)

    @staticmethod
    def _answers(name: str) -> bool:
        """Whether a model of that name can be tried as it is; encoders have to be tuned first."""
        entry = catalog.MODELS.get(name)
        return entry is None or entry.kind == "decoder"

    def _write(self) -> None:
        self.code = f"from slmkit_widgets import Workbench\n\nWorkbench({self.name!r}, {self.rows!r})"
