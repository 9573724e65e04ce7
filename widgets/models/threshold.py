"""View-model of the threshold explorer: which rows to flag, by the cost of a miss and of a false alarm.

The threshold is chosen on rows set aside for it and measured on the others, or the widget says that it was not. The
figures come from `slmkit.thresholds`, the picture from `slmkit.plots`; here they are only asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import traitlets

from slmkit import plots, runs, text, thresholds
from slmkit.errors import InputError
from slmkit.plots.threshold import EXAMPLES
from slmkit.runs import Run
from slmkit_widgets import display
from slmkit_widgets.models import records, rows
from slmkit_widgets.models.base import ViewModel

PAGE = 8  # example rows shown at once
TEXT_LIMIT = 200
KINDS = ("missed", "false_alarms", "caught", "let_through")
KINDS_BY_CELL = ("caught", "missed", "false_alarms", "let_through")  # of the matrix, line by line


class ThresholdModel(ViewModel):
    """State of a `ThresholdExplorer`; see there for the parameters.

    Attributes
    ----------
    record, positive : str
        The record looked at and the class to catch, among `record_options` and `positive_options`.
    miss_cost, false_alarm_cost : float
        In one unit of your choice, from 0.
    budget_percent : float
        Share of the other class that may be flagged, in percent.
    share_percent : float
        Share of the class to catch in practice, in percent; first that of the rows.
    threshold : float
        0 to 1; `thresholds.NOTHING` flags nothing.
    origin : str
        How the threshold came about, and on which rows.
    kind : str
        Which rows are shown: "missed", "false_alarms", "caught" or "let_through".
    figure, matrix : go.Figure
    outcomes, steps, examples : DataFrame
        Figures at the threshold, at eleven others, and rows.
    verdict : str
    """

    record = traitlets.Unicode()
    record_options: traitlets.List[Any] = traitlets.List()
    positive = traitlets.Unicode()
    positive_options: traitlets.List[Any] = traitlets.List()
    miss_cost = traitlets.Float(20.0)
    false_alarm_cost = traitlets.Float(1.0)
    budget_percent = traitlets.Float(1.0)
    share_percent = traitlets.Float(50.0)
    threshold = traitlets.Float(0.5)
    origin = traitlets.Unicode()
    kind = traitlets.Unicode(KINDS[0])
    kind_options: traitlets.List[Any] = traitlets.List()
    page = traitlets.Int(0)
    figure = traitlets.Any()
    matrix = traitlets.Any()
    outcomes = traitlets.Any()
    steps = traitlets.Any()
    examples = traitlets.Any()
    verdict = traitlets.Unicode()
    rows_said = traitlets.Unicode()

    def __init__(
        self,
        given: Run | Iterable[Run] | pd.DataFrame | None = None,
        folder: str | Path | None = None,
        *,
        validation: float | pd.DataFrame | None = 0.5,
        texts: Sequence[str] | pd.Series | None = None,
        positive: str | None = None,
    ) -> None:
        super().__init__()
        self._validation, self._given_texts, self._wanted = validation, texts, positive
        self._chosen = ""
        self._frame: pd.DataFrame | None = given if isinstance(given, pd.DataFrame) else None
        self._records: dict[str, records.Record] = {}
        if self._frame is None:
            found, _ = records.gathered(given, folder, recorded=given is None and folder is None)
            usable = [r for r in found if r.has_probabilities]
            if not usable:
                raise InputError(f"no record with per-example probabilities among {len(found)} records")
            self._records = {str(i): r for i, r in enumerate(rows.most_telling_first(usable))}
        names = {key: r.name for key, r in self._records.items()} or {"frame": "your frame"}
        self.record_options = display.choices(names, names.get)
        with self.held():
            self.record = self.record_options[0][1]
        self._load()

    # -- commands

    def choose_lowest_cost(self) -> None:
        """Take the threshold that costs least on the rows for choosing."""
        found = thresholds.cheapest(self._points())
        self._chosen = "thresholds.cheapest(points)"
        self._choose(found, f"lowest cost, {self.miss_cost:g} a miss and {self.false_alarm_cost:g} a false alarm")

    def choose_within_budget(self) -> None:
        """Take the threshold that catches most with no more false alarms than the budget, on the rows for choosing."""
        found = thresholds.within_budget(self._points(), self.budget_percent / 100)
        self._chosen = f"thresholds.within_budget(points, {self.budget_percent / 100:.6g})"
        self._choose(found, f"highest recall with at most {self.budget_percent:g} % false alarms")

    def next_page(self) -> None:
        """Show the next example rows, after the last ones the first again."""
        n = len(self._rows_of(self.kind))
        self.page = (self.page + 1) % max(1, -(-n // PAGE))

    def _choose(self, threshold: float, how: str) -> None:
        with self.held():
            self.threshold = threshold
            self.origin = f"chosen: {how}, on the {len(self._choosing)} {self._where()}"
        self._refresh()

    # -- what follows from what

    @traitlets.validate("miss_cost", "false_alarm_cost", "budget_percent", "share_percent", "threshold")
    def _in_range(self, proposal: Any) -> float:
        name, value = proposal["trait"].name, float(proposal["value"])
        low, high = {"budget_percent": (0, 100), "share_percent": (0, 100), "threshold": (0, thresholds.NOTHING)}.get(
            name, (0, float("inf"))
        )
        if not low <= value <= high or (name == "share_percent" and value in (0, 100)):
            inside = "between 0 and 100" if name == "share_percent" else f"from {low:g} to {high:g}"
            raise InputError(f"{name} must be {inside}; got {value:g}")
        return value

    @traitlets.validate("record", "positive", "kind")
    def _known(self, proposal: Any) -> str:
        name = proposal["trait"].name
        allowed = list(KINDS) if name == "kind" else [value for _, value in getattr(self, f"{name}_options")]
        if proposal["value"] not in allowed:
            raise InputError(f"{name} must be one of {', '.join(allowed[:10])}; got {proposal['value']!r}")
        return str(proposal["value"])

    @traitlets.observe("record", "positive")
    def _other_rows(self, change: Any) -> None:
        """Go to another record or class; if that fails, back to the one before."""
        if self._busy:
            return
        go = self._load if change["name"] == "record" else self._restart
        try:
            go()
        except Exception:
            with self.held():
                setattr(self, change["name"], change["old"])
            go()
            raise

    @traitlets.observe("threshold", "miss_cost", "false_alarm_cost", "share_percent", "kind", "page")
    def _changed(self, change: Any) -> None:
        if self._busy:
            return
        if change["name"] == "threshold":
            self.origin, self._chosen = "set by hand", ""
        elif change["name"].endswith("cost") or change["name"] == "share_percent":
            self._chosen = ""  # the threshold stays, and with other costs it would not be the one found
        if change["name"] != "page":
            with self.held():
                self.page = 0
        self._refresh()

    def _load(self) -> None:
        """Read the probabilities of the record, set rows aside, find the texts."""
        record = self._records.get(self.record)
        run = None if record is None else record.run
        frame = self._frame if record is None else runs.read_probabilities(record.run, record.folder or Path())
        classes = rows.classes_of(frame)
        choosing, measured = rows.parted(frame, self._validation, classes)
        texts, said = rows.texts_of(run, frame, self._given_texts)
        positive = rows.positive_of(run, classes, self._wanted)
        self._choosing, self._measured, self._texts, self._texts_said = choosing, measured, texts, said
        with self.held():
            self.positive_options = display.choices(classes)
            self.positive = positive
        self._restart()

    def _restart(self) -> None:
        """Begin anew with another record or class: the share of its rows, threshold one half."""
        own = self._own_share()
        if not 0 < own < 1:
            raise InputError(f"rows of {display.plain(self.positive)!r} and of others are needed; got one kind only")
        with self.held():
            self.share_percent = round(100 * own, 2)
            self.threshold, self.origin, self._chosen, self.page = 0.5, "one half, where nobody chose", "", 0
        self._refresh()

    def _refresh(self) -> None:
        settings = self._settings()
        points = self._points()
        measured = self._at(self._measured, settings)
        n = f"n = {len(self._choosing)} {self._where()}"
        self.figure = plots.threshold_cost(points, self.threshold, display.plain(self.positive), n)
        counts = self._counts(measured)
        self.matrix = plots.confusion_matrix(counts, self._measured_said(), self._behind_cells(counts))
        columns = {f"{len(self._measured)} rows measured on": measured}
        if self._choosing is not self._measured:
            columns[f"{len(self._choosing)} {self._where()}"] = self._at(self._choosing, settings)
        self.outcomes = _outcome_table(columns, self.share_percent)
        steps = [self._at(self._choosing, settings, threshold=step / 10) for step in range(11)]
        self.steps = _step_table(steps)
        self.kind_options = [(f"{self._kind_word(kind)} ({measured[kind]})", kind) for kind in KINDS]
        self.examples = self._example_rows()
        self.rows_said = self._page_said()
        self.verdict = self._words(measured)
        self.code = self._python()

    # -- the rows

    def _own_share(self) -> float:
        return float((self._measured["label"] == self.positive).mean())

    def _settings(self) -> dict[str, Any]:
        own = abs(self.share_percent - round(100 * self._own_share(), 2)) < 0.005
        share = None if own else self.share_percent / 100
        return {"miss_cost": self.miss_cost, "false_alarm_cost": self.false_alarm_cost, "share": share}

    def _columns(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        return (frame["label"] == self.positive).to_numpy(), frame[f"p_{self.positive}"].to_numpy(dtype=float)

    def _points(self) -> pd.DataFrame:
        return thresholds.curve(*self._columns(self._choosing), **self._settings())

    def _at(self, frame: pd.DataFrame, settings: dict[str, Any], threshold: float | None = None) -> dict[str, Any]:
        chosen = self.threshold if threshold is None else threshold
        return thresholds.at(*self._columns(frame), chosen, **settings)

    def _counts(self, outcome: dict[str, Any]) -> pd.DataFrame:
        name = display.plain(self.positive)
        cells = np.reshape([outcome[kind] for kind in KINDS_BY_CELL], (2, 2))
        return pd.DataFrame(cells, index=[name, f"not {name}"], columns=["flagged", "let through"])

    def _behind_cells(self, counts: pd.DataFrame) -> pd.DataFrame | None:
        """The first texts of each cell of the matrix, where the texts are known."""
        if self._texts is None:
            return None
        cells = zip(KINDS_BY_CELL, itertools.product(counts.index, counts.columns), strict=True)
        found = [
            (truth, decided, self._texts[int(row)])
            for kind, (truth, decided) in cells
            for row in self._rows_of(kind)["row"].head(EXAMPLES)
        ]
        return pd.DataFrame(found, columns=["truth", "decided", "text"])

    def _rows_of(self, kind: str) -> pd.DataFrame:
        """Rows of one cell of the matrix; the surest mistakes first, of the right ones the closest calls first."""
        is_positive, p = self._columns(self._measured)
        wanted_positive, wanted_flagged = kind in ("caught", "missed"), kind in ("caught", "false_alarms")
        found = self._measured[(is_positive == wanted_positive) & ((p >= self.threshold) == wanted_flagged)]
        return found.sort_values(f"p_{self.positive}", ascending=kind in ("missed", "caught"), kind="stable")

    def _example_rows(self) -> pd.DataFrame:
        page = self._rows_of(self.kind).iloc[PAGE * self.page : PAGE * (self.page + 1)]
        shown = pd.DataFrame({"row": page["row"], "label": page["label"]})
        shown[f"probability of {display.plain(self.positive)}"] = page[f"p_{self.positive}"].map("{:.3f}".format)
        if self._texts is not None:
            shown["text"] = [display.plain(self._texts[int(row)], TEXT_LIMIT) for row in page["row"]]
        return shown

    # -- in words

    def _where(self) -> str:
        return "rows it is measured on" if self._choosing is self._measured else "rows set aside for choosing"

    def _measured_said(self) -> str:
        return f"n = {len(self._measured)} rows measured on"

    def _kind_word(self, kind: str) -> str:
        name = display.plain(self.positive, 40)
        words = {"missed": f"Missed {name}", "false_alarms": "False alarms", "caught": f"Caught {name}"}
        return words.get(kind, "Rightly let through")

    def _page_said(self) -> str:
        n, start = len(self._rows_of(self.kind)), PAGE * self.page
        if not n:
            return f"No row: {self._kind_word(self.kind).lower()} does not occur."
        said = f"Rows {start + 1} to {min(n, start + PAGE)} of {n}. {self._texts_said}"
        order = "surest mistakes" if self.kind in ("missed", "false_alarms") else "closest calls"
        return f"{said} The {order} come first.".replace("  ", " ")

    def _words(self, outcome: dict[str, Any]) -> str:
        name = display.plain(self.positive, 40)
        recall = text.with_interval(outcome["recall"], *outcome["intervals"]["recall"])
        alarms = text.with_interval(outcome["false_alarm_share"], *outcome["intervals"]["false_alarm_share"])
        costs = {key: outcome[f"{key}cost_per_1000"] for key in ("", "flag_all_", "flag_none_")}
        rule = min(costs["flag_all_"], costs["flag_none_"])
        which = "flagging every row" if rule == costs["flag_all_"] else "flagging no row"
        worth = "less than" if costs[""] < rule else "no less than"
        lead = (
            f"At {self.threshold:.6g}" if self.threshold <= 1 else f"Above 1 ({self.threshold:g}: nothing is flagged)"
        )
        said = (
            f"{lead} ({self.origin}) {recall} of {name} is caught and {alarms} of the others flagged, "
            f"n = {outcome['n']}. 1000 rows cost {text.rounded(costs[''])}, {worth} the {text.rounded(rule)} that "
            f"{which} costs."
        )
        return said + self._warning()

    def _warning(self) -> str:
        if self._choosing is self._measured:
            return (
                " No validation rows were given: the threshold is chosen on the rows it is measured on, "
                "so these figures are too good."
            )
        return ""

    def describe(self) -> str:
        """Verdict, figures and Python in plain text."""
        return "\n".join([*display.lines(self.verdict), "", self.outcomes.to_string(index=False), "", self.code])

    def _python(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in self._settings().items() if value is not None)
        parts = [*self._python_rows(), f"settings = dict({settings})"]
        if self._chosen:
            parts += ["points = thresholds.curve(*columns(choosing), **settings)"]
        parts += [
            f"threshold = {self._chosen or repr(self.threshold)}  # {self.threshold:.6g}, {self.origin}",
            "print(thresholds.at(*columns(measured), threshold, **settings))",
            "flagged = columns(measured)[1] >= threshold",
        ]
        return "\n".join(parts)

    def _python_rows(self) -> list[str]:
        """The lines that read the rows and set some aside, as was done here."""
        record, aside = self._records.get(self.record), self._validation
        read = ["frame = ...  # the frame you gave"]
        shipped = record is not None and record.folder == records.shipped_folder()
        if record is not None and record.folder is not None:
            name = f"{record.run.stem}{runs.PROBABILITIES}"
            path = f"slmkit_data.path('runs') / {name!r}" if shipped else repr(str(record.folder / name))
            read = [f"frame = runs.read_probability_file({path})"]
        parted = "choosing = measured = frame  # too good: chosen where it is measured"
        if isinstance(aside, pd.DataFrame):
            parted = "choosing, measured = validation, frame  # validation: the rows you gave"
        elif aside is not None:
            mask = f"aside = thresholds.set_aside(frame['label'], {aside!r})"
            parted = f"{mask}\nchoosing, measured = frame[aside], frame[~aside]"
        return [
            *(["import slmkit_data"] if shipped else []),
            "from slmkit import runs, thresholds",
            "",
            *read,
            parted,
            f"columns = lambda rows: (rows['label'].astype(str) == {self.positive!r}, rows[{f'p_{self.positive}'!r}])",
        ]


def _outcome_table(columns: dict[str, dict[str, Any]], share_percent: float) -> pd.DataFrame:
    def share(outcome: dict[str, Any], key: str) -> str:
        if outcome[key] is None:
            return "nothing flagged"
        interval = outcome["intervals"].get(key)
        return text.with_interval(outcome[key], *interval) if interval else text.percent(outcome[key])

    def cells(o: dict[str, Any]) -> list[str]:
        counts = [str(o[kind]) for kind in ("caught", "missed", "false_alarms", "let_through")]
        shares = [share(o, key) for key in ("recall", "false_alarm_share", "precision")]
        costs = [text.rounded(o[f"{key}cost_per_1000"]) for key in ("", "flag_all_", "flag_none_")]
        return [*counts, *shares, *costs]

    at_share = f"at {share_percent:g} % in practice"
    names = ["caught", "missed", "false alarms", "rightly let through", "recall", "false alarms of all others",
             f"precision {at_share}", f"cost of 1000 rows {at_share}", "cost, flagging every row",
             "cost, flagging no row"]  # fmt: skip
    return pd.DataFrame({"figure": names, **{name: cells(outcome) for name, outcome in columns.items()}})


def _step_table(outcomes: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The picture as a table, a row a threshold."""
    table = pd.DataFrame({"threshold": [f"{o['threshold']:g}" for o in outcomes]})
    for key in ("recall", "false_alarm_share", "precision"):
        shares = [o[key] for o in outcomes]
        table[key.replace("_", " ")] = ["nothing flagged" if s is None else text.percent(s) for s in shares]
    return table.assign(**{"cost of 1000 rows": [text.rounded(o["cost_per_1000"]) for o in outcomes]})
