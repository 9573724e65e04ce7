"""What a `Tuner` holds and does, without any widget: settings, a tuning in a child process, its course and its result.

The child is a choice: the kernel stays free of torch and of the model, its memory comes back whole, a training that
runs out of memory does not take the notebook with it, and it can be stopped whatever it is at. It costs the seconds in
which a process starts.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import traitlets

import slmkit
from slmkit import assets, catalog, dialogues, tasks, text
from slmkit.commands import fit
from slmkit.errors import InputError
from slmkit.estimate import estimate
from slmkit.jobs.background import Job, Snapshot
from slmkit.plots.course import training_course
from slmkit.training import ways
from slmkit.tuning import either, labels
from slmkit_widgets import display
from slmkit_widgets.models import tuned
from slmkit_widgets.models.base import ViewModel
from slmkit_widgets.models.progress import Curve, Shown, figures

USUAL: dict[str, Any] = {
    "method": "lora", "bits": None, "epochs": 3.0, "learning_rate": None, "early_stopping": False, "train": None,
    "text_column": None, "label_column": None, "seed": 0,
}  # fmt: skip
BITS = (16, 8, 4)
ROWS_AT_ONCE = {True: 4, False: 2}  # of 256 tokens, in a pass over dialogues and over labels
SEQ = 256
RUNNING = ("running", "stopping")


class TunerModel(ViewModel):
    """A tuning: what of which model on which rows, and how it goes.

    Attributes
    ----------
    model, data, out : str
        A model and rows as `slmkit.tune` takes them, and a new folder.
    text_column, label_column : str
        Of a table with labels; "" guesses them.
    method, bits, epochs, early_stopping
        As `slmkit.tune` takes them.
    learning_rate : str
        A number; "" takes the method's own, as `rate_why` explains.
    train : int
        Rows to learn; 0 takes all that are not held out.
    state : str
        "ready", "running", "stopping", "done", "cancelled" or "failed".
    progress : Shown
        How far it is.
    half_done : str
        What stands of an earlier tuning in this folder and can be gone on with; "" for nothing.
    rows_said, needs, rate_why : str
        What the rows are good for, the memory this takes (estimated), and why this learning rate.
    result : tuple of str
        What the tuning bought on held-out rows, beside what there was without it, and what it cost.
    figure : go.Figure or None
        The loss of every step.
    job : slmkit.Job or None
        The newest one: `job.wait()`, `job.result()`, `job.log`.
    """

    model = traitlets.Unicode()
    data = traitlets.Unicode()
    out = traitlets.Unicode()
    text_column = traitlets.Unicode()
    label_column = traitlets.Unicode()
    method = traitlets.Unicode("lora")
    bits = traitlets.Int(None, allow_none=True)
    epochs = traitlets.Float(3.0)
    learning_rate = traitlets.Unicode()
    early_stopping = traitlets.Bool(False)
    train = traitlets.Int(0)
    state = traitlets.Unicode("ready", read_only=True)
    progress = traitlets.Instance(Shown, (), read_only=True)
    half_done = traitlets.Unicode(read_only=True)
    rows_said = traitlets.Unicode(read_only=True)
    needs = traitlets.Unicode(read_only=True)
    rate_why = traitlets.Unicode(read_only=True)
    result = traitlets.Tuple(read_only=True)
    figure = traitlets.Any(None, read_only=True)
    model_options: traitlets.List[Any] = traitlets.List(read_only=True)
    data_options: traitlets.List[Any] = traitlets.List(read_only=True)
    method_options: traitlets.List[Any] = traitlets.List(
        [(f"{n}: {words}", n) for n, words in tuned.METHOD_WORDS.items()], read_only=True
    )
    bits_options: traitlets.List[Any] = traitlets.List(read_only=True)

    def __init__(self, model: str, data: Any, out: str | Path, **options: Any) -> None:
        self.job: Job | None = None
        self._rows: pd.DataFrame | None = None
        self._name = ""
        if isinstance(data, pd.DataFrame):
            self._rows, self._name = data, f"your frame, {len(data):,} rows"
            data = self._name
        elif not isinstance(data, str | Path):
            raise InputError(f"data must be a task's name, a file or a frame; got {type(data).__name__}")
        own = {name: options.pop(name) for name in list(options) if name in self._own()}
        self._more = options
        rate = own.pop("learning_rate", None)
        own = {name: value for name, value in own.items() if value is not None}
        super().__init__(model=model, data=str(data), out=str(out), learning_rate=tuned.rate(rate), **own)
        self._lock, self._curve, self._closed = threading.RLock(), Curve(), False
        self._offer()
        self._look()
        self.observe(lambda change: self._offer(), ["model", "data", "method", "bits"])
        self.observe(lambda change: self._look(), "out")
        self.observe(lambda change: self._write(), [*self._own(), "model", "data", "out"])

    @staticmethod
    def _own() -> tuple[str, ...]:
        return tuple(name for name in USUAL if name != "seed")

    @traitlets.validate("method")
    def _check_method(self, proposal: Mapping[str, Any]) -> str:
        ways.get(proposal["value"])
        return str(proposal["value"])

    @traitlets.validate("learning_rate")
    def _check_rate(self, proposal: Mapping[str, Any]) -> str:
        given = str(proposal["value"]).strip()
        try:
            value = float(given) if given else None
        except ValueError:
            raise InputError(f"learning_rate must be a number such as 5e-4; got {text.clean(given, 40)!r}") from None
        ways.rate(self.method, value)
        return given

    @traitlets.validate("epochs", "train")
    def _check_count(self, proposal: Mapping[str, Any]) -> float:
        name, value = proposal["trait"].name, proposal["value"]
        if value < 0 or (name == "epochs" and not value):
            raise InputError(f"{name} must be {'above 0' if name == 'epochs' else '0 (all) or more'}; got {value!r}")
        return float(value) if name == "epochs" else int(value)

    def describe(self) -> str:
        """State, result and the Python, in plain text."""
        return "\n".join(part for part in (self.progress.said, self.half_done, *self.result, self.code) if part)

    # -- commands

    def start(self, *, wait: bool = False) -> None:
        """Begin in a child process; a half-done tuning of the same settings goes on.

        Parameters
        ----------
        wait : bool
            Come back when it has ended, for a notebook that is run from top to bottom. Interrupting the cell stops the
            tuning as `cancel` does.

        Raises
        ------
        InputError
            One runs already, or the folder holds something else.
        """
        self._refuse_second()
        left = either.left(self.out)
        if left is not None and (other := self._differences(left.asked)):
            raise InputError(
                f"{self.out} holds a half-done tuning with other settings ({'; '.join(other)}). Resume goes on with "
                "it as it was; for a new one name another folder"
            )
        labels.new_folder(self.out)
        self._begin(wait)

    def resume(self, *, wait: bool = False) -> None:
        """Go on with the tuning that stands half done in this folder, with the settings it was begun with."""
        self._refuse_second()
        left = either.left(self.out)
        if left is None:
            raise InputError(f"nothing stands half done in {self.out or 'a folder without a name'}: Start begins anew")
        self._take(left.asked)
        self._begin(wait)

    def cancel(self) -> None:
        """Stop at once; the last step that was finished is kept, and `resume` goes on from there."""
        with self._lock:
            if self.state not in RUNNING or self.job is None:
                raise InputError("nothing runs here that could be cancelled")
            self.set_trait("state", "stopping")
        self._show(busy=True, said="Stopping: the last finished step is being kept.")
        self.job.cancel()

    def take(self, model: str, data: str) -> None:
        """Have another model and other rows."""
        self.model, self.data = model, data

    def close(self) -> None:
        """Stop what runs, and let go of every observer."""
        self._closed = True
        if self.job is not None and self.state in RUNNING:
            self.job.cancel()
        super().close()

    def _refuse_second(self) -> None:
        if self.state in RUNNING:
            at = (
                f"at step {self.progress.done:,} of {self.progress.total:,}" if self.progress.total else "getting ready"
            )
            raise InputError(f"a tuning runs here already, {at}: let it end, or press Cancel first")

    def _begin(self, wait: bool) -> None:
        call = self.call()
        if self._rows is not None and self.data == self._name:
            call["data"] = str(tuned.kept(self._rows, Path(self.out)))
        self._curve = Curve()
        self.set_trait("state", "running")
        self.set_trait("result", ())
        self.set_trait("figure", None)
        self.set_trait("half_done", "")
        self.set_trait("progress", Shown(busy=True, said="Getting ready: the model is read and the rows are checked."))
        self.job = Job(slmkit.tune, **call).watch(self._heard)
        try:
            self.job.start(in_child=True)
        except BaseException:
            self.set_trait("state", "failed")
            raise
        if wait:
            try:
                self.job.wait()
            except KeyboardInterrupt:
                self.cancel()
                raise
            if self.state == "failed":
                self.job.result()

    # -- settings

    def call(self) -> dict[str, Any]:
        """Arguments of `slmkit.tune`; those that are as usual are left out."""
        told = {"bits": self.bits, "epochs": self.epochs, "early_stopping": self.early_stopping, "method": self.method}
        told["learning_rate"] = float(self.learning_rate) if self.learning_rate else None
        told |= {"train": self.train or None, "text_column": self.text_column or None}
        told |= {"label_column": self.label_column or None, **self._more}
        changed = {name: value for name, value in told.items() if name not in USUAL or value != USUAL[name]}
        return {"model": self.model, "data": self.data, "out": self.out, **changed}

    def _differences(self, asked: Mapping[str, Any]) -> list[str]:
        """In what the present settings are not those of a tuning that stands half done; nothing if nobody knows."""
        if not asked:
            return []
        now = {**USUAL, **self.call(), "data": self._where()}
        then = {**USUAL, **asked}
        return [
            f"{name} was {then.get(name)!r} and is {now.get(name)!r}"
            for name in then
            if name != "out" and then.get(name) != now.get(name) and not (now.get(name) is None and not then[name])
        ]

    def _where(self) -> str:
        if self._rows is not None and self.data == self._name:
            return either.where(tuned.rows_file(Path(self.out)))
        return either.where(self.data)

    def _take(self, asked: Mapping[str, Any]) -> None:
        """Have the settings of a tuning that stands half done."""
        own = {name: asked.get(name, USUAL[name]) for name in self._own()}
        own |= {"learning_rate": tuned.rate(own["learning_rate"]), "train": own["train"] or 0}
        own |= {name: own[name] or "" for name in ("text_column", "label_column")}
        for name in ("model", "data"):
            own[name] = asked.get(name, getattr(self, name))
        if self._rows is not None and own["data"] == self._where():
            own["data"] = self.data
        with self.held():
            for name, value in own.items():
                setattr(self, name, value)
        self._more = {n: v for n, v in asked.items() if n not in own and (n not in USUAL or v != USUAL[n])}

    def _offer(self) -> None:
        """What may be chosen, and what is known of what was."""
        if self._busy:
            return
        here = [name for name in catalog.MODELS if assets.on_disk(name)]
        self.set_trait("model_options", display.choices(dict.fromkeys([*([self.model] if self.model else []), *here])))
        shipped = [dialogues.SHIPPED, *(n for n in tasks.names() if tasks.named(n).on_disk and tasks.named(n).labels)]
        self.set_trait("data_options", display.choices(dict.fromkeys([*([self.data] if self.data else []), *shipped])))
        allowed = ways.get(self.method).bits
        usual = f"as usual ({allowed[0]})"
        self.set_trait("bits_options", [(usual, None), *((str(b), b) for b in BITS if b in allowed)])
        if self.bits is not None and self.bits not in allowed:
            self.bits = None
        self.set_trait("rate_why", tuned.rate_words(self.method))
        told = self._dialogues()
        self.set_trait("rows_said", tuned.ROWS_SAID[told])
        self.set_trait("needs", self._needs(bool(told)))
        self._write()

    def _dialogues(self) -> bool | None:
        """Whether the rows are dialogues; None where nobody can tell yet."""
        rows = self._rows if self._rows is not None and self.data == self._name else self.data
        try:
            return either.hold_dialogues(rows) if isinstance(rows, pd.DataFrame) or rows else None
        except (ValueError, OSError):
            return None

    def _needs(self, told: bool) -> str:
        how: dict[str, Any] = {"method": self.method, "bits": self.bits, "seq": SEQ, "batch": ROWS_AT_ONCE[told]}
        try:
            return f"Estimated: {fit.headline(estimate(self.model, **how))}"
        except (ValueError, OSError) as error:  # InputError and AssetError, and names that no file can have
            return text.clean(error, 400)

    def _write(self) -> None:
        call = self.call()
        told = [repr(call.pop("model")), "frame" if self.data == self._name and self._name else repr(call["data"])]
        call.pop("data")
        arguments = ", ".join([*told, *(f"{name}={value!r}" for name, value in call.items())])
        self.code = f"import slmkit\n\njob = slmkit.Job(slmkit.tune, {arguments})\njob.start(in_child=True).result()"

    # -- how it goes

    def _heard(self, now: Snapshot) -> None:
        """Take a report of the job, in its thread."""
        if self._closed:
            return
        if now.step is not None and now.loss is not None:
            self._curve.add(now.step, now.loss)
        if now.state == "running":
            said = self.progress.said
            if now.steps and self.state != "stopping":
                said = f"Tuning: {10 * (10 * (now.step or 0) // now.steps)} % of the steps are done."
            self._show(done=now.step or 0, total=now.steps or 0, busy=True, said=said, figures=figures(now))
            return
        self._show(busy=False, figures=figures(now))
        self._look(now)

    def _look(self, now: Snapshot | None = None) -> None:
        """See what stands in the folder: a result, a half-done tuning, or nothing; `now` is of a job that ended."""
        if now is None and self.state in RUNNING:
            return
        found = left = None
        try:
            found = either.result(self.out) if self.out else None
            left = either.left(self.out) if self.out and found is None else None
        except (ValueError, OSError) as error:
            self.error = text.clean(error, 600)
        ended = "ready" if now is None else now.state
        state = "done" if found is not None and ended != "failed" else ended
        self.set_trait("half_done", tuned.half_done(self.out, left))
        if found is not None:
            self._take_result(*found, now)
        elif now is None:
            self.set_trait("result", ())
            self.set_trait("figure", None)
        if now is not None and state == "failed":
            self.error = text.clean(now.message, 600)
        self._show(said=tuned.SAID[state])
        with self._lock:  # last, for whoever waits for it
            self.set_trait("state", state)

    def _take_result(self, told: Any, facts: Mapping[str, Any], now: Snapshot | None) -> None:
        lines = either.lines(told, facts["model"], facts["bits"])
        self.set_trait("result", (*lines, *tuned.spent(told.folder, now)))
        self.set_trait("figure", training_course(facts["history"]))
        if now is not None:  # the last steps were not told: reports are rationed
            last = facts["history"][-1]
            self._curve.add(last["step"], last["loss"])
            self._show(done=last["step"], total=last["step"])

    def _show(self, **changes: Any) -> None:
        with self._lock:
            known = {"points": self._curve.points, **changes}
            self.set_trait("progress", Shown(**{**self.progress.facts(), **known}))
