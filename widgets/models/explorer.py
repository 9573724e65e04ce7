"""What a `DataExplorer` holds and does, without any widget: pages of rows, labels, lengths, leaks, odd rows, the card.

The page is all that is ever shown of the rows, whatever their number. What takes longer (the leak guard, the datasheet,
counting tokens) runs in a thread, one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import traitlets

from slmkit import cards, datasheets, tasks, text
from slmkit.assets import licences
from slmkit.errors import InputError
from slmkit_widgets import display
from slmkit_widgets.models import explored
from slmkit_widgets.models.base import ViewModel

PAGE, MOST_PAGE = 20, 50
MOST_TEXT = 5_000  # characters of the row that is read whole
ALL = "all rows"
ORDERS = ("as read", "longest first", "shortest first")
_VIEW = ("label", "part", "find", "order", "only_odd")


class ExplorerModel(ViewModel):
    """Rows of one source, a page at a time.

    Parameters
    ----------
    source : str, Path, DataFrame, datasets.Dataset or None
        A task's name, a file or a frame; None opens nothing yet.
    text_column, label_column, split_column
        As `slmkit.read` takes them, for files and frames.

    Attributes
    ----------
    asked, text_column, label_column : str
        What `open_asked` opens: a task's name or a file, and of a file its columns ("" guesses them).
    name, licence, card : str
    notes : tuple of str
        What reading had to say.
    n_rows, n_shown : int
        Rows in all, and rows that the filters leave.
    label, part : str or None
        Only rows of this label or part.
    find : str
        Only rows with this in their text, whatever the case.
    order : str
        One of `ORDERS`.
    only_odd : bool
        Only the rows worth a second look, the most doubtful first; there are some once `look` was called.
    page, page_size, n_pages : int
        Pages count from 1; at most 50 rows each.
    rows : tuple of dict
        The page: row (number in the source), text, label, part, length, and reason and suggestion of odd rows.
    summary : str
        Which rows are shown, in words.
    chosen, whole : int and str
        Place of a row on the page, from 0, and its whole text (at most 5,000 characters).
    labels : tuple of dict
        Label, rows and share, the largest first, at most 50.
    lengths, unit, histogram : str, str, go.Figure or None
        How long texts are, in `unit`: "words", or "tokens" once they were counted.
    split, test_file : str
        Which split the leak report is of, see `explored.leak_report`.
    leaks, sheet : tuple of str
        The guard's report and the datasheet, as lines; empty until asked for.
    to_accept : bool
        Whether the data have terms that nobody on this machine accepted yet.
    label_options, part_options, order_options, row_options : list
        What may be chosen.
    busy : str
        What is under way, "" if nothing.

    Raises
    ------
    InputError, AssetError
        As reading raises them.
    """

    asked = traitlets.Unicode("")
    text_column = traitlets.Unicode("")
    label_column = traitlets.Unicode("")
    name = traitlets.Unicode(read_only=True)
    licence = traitlets.Unicode(read_only=True)
    card = traitlets.Unicode(read_only=True)
    notes = traitlets.Tuple(read_only=True)
    n_rows = traitlets.Int(read_only=True)
    n_shown = traitlets.Int(read_only=True)
    label = traitlets.Unicode(None, allow_none=True)
    label_options: traitlets.List[Any] = traitlets.List(read_only=True)
    part = traitlets.Unicode(None, allow_none=True)
    part_options: traitlets.List[Any] = traitlets.List(read_only=True)
    find = traitlets.Unicode("")
    order = traitlets.Enum(ORDERS, ORDERS[0])
    order_options: traitlets.List[Any] = traitlets.List(list(ORDERS), read_only=True)
    only_odd = traitlets.Bool(False)
    page = traitlets.Int(1)
    page_size = traitlets.Int(PAGE)
    n_pages = traitlets.Int(1, read_only=True)
    rows = traitlets.Tuple(read_only=True)
    summary = traitlets.Unicode(read_only=True)
    row_options: traitlets.List[Any] = traitlets.List([("none", 0)], read_only=True)
    to_accept = traitlets.Bool(read_only=True)
    chosen = traitlets.Int(0)
    whole = traitlets.Unicode(read_only=True)
    labels = traitlets.Tuple(read_only=True)
    lengths = traitlets.Unicode(read_only=True)
    unit = traitlets.Unicode("words", read_only=True)
    histogram = traitlets.Any(None, read_only=True)
    split = traitlets.Unicode("")
    test_file = traitlets.Unicode("")
    leaks = traitlets.Tuple(read_only=True)
    sheet = traitlets.Tuple(read_only=True)
    busy = traitlets.Unicode(read_only=True)

    def __init__(
        self,
        source: Any = None,
        text_column: str | Sequence[str] | None = None,
        label_column: str | None = None,
        *,
        split_column: str | None = None,
        page_size: int = PAGE,
    ) -> None:
        super().__init__(page_size=page_size)
        self._opened: explored.Opened | None = None
        self._places = np.zeros(0, np.int64)  # rows that the filters leave, in order
        self._lengths = np.zeros(0, np.int64)
        self._odd: dict[int, Mapping[str, Any]] = {}
        self._open = 0  # counts what was opened
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()  # a result may come while a page is turned
        self.observe(lambda change: self._arrange(), list(_VIEW))
        self.observe(lambda change: self._show(), ["page", "page_size"])
        self.observe(lambda change: self._read_whole(), "chosen")
        self.observe(lambda change: self._tell(), ["split", "test_file"])
        self._tell()
        if source is not None:
            self.open(source, text_column, label_column, split_column)

    @property
    def frame(self) -> pd.DataFrame:
        """All rows, as they were read."""
        if self._opened is None:
            raise InputError("nothing is open: give a task's name, a file or a frame")
        return self._opened.frame

    def open(
        self,
        source: Any,
        text_column: str | Sequence[str] | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
    ) -> None:
        """Show the rows of another source; of a task whose rows cannot be read here at least the card."""
        if isinstance(source, str) and not (source := source.strip()):
            raise InputError("nothing to open: give a task's name or a file")
        self._forget()
        if explored.is_task(source):
            task = tasks.named(source)
            self._say(source, task.licence, task.card, ())
            self.set_trait("to_accept", bool(task.terms) and not licences.accepted(task.gate or source, task.licence))
        opened = explored.read(source, text_column, label_column, split_column)
        self._opened = opened
        self._lengths = opened.frame["text"].str.split().str.len().to_numpy(dtype=np.int64)
        self._say(opened.name, opened.licence, opened.card, opened.notes)
        with self.hold_trait_notifications():
            self.set_trait("n_rows", len(opened.frame))
            self.set_trait("labels", explored.counted(opened.frame))
        self._measure("words")
        self._arrange()

    def open_asked(self) -> None:
        """Open what was typed: `asked`, `text_column` and `label_column`."""
        self.open(self.asked, self.text_column.strip() or None, self.label_column.strip() or None)

    def accept(self) -> None:
        """Accept the terms of the task that is open, once on this machine, and read its rows."""
        tasks.accept_license(self.name)
        self.open(self.name)

    def turn(self, pages: int) -> None:
        """Go on by so many pages, or back; the first and the last page are the ends."""
        self.page = min(max(1, self.page + pages), self.n_pages)

    def check(self, wait: bool = False) -> None:
        """Have the leak guard look at the split; its report is in `leaks`."""
        frame, how = self.frame, (self.split, self.test_file)
        self._work("looking for leaks", lambda: explored.leak_report(frame, *how), self._take_leaks, wait)

    def look(self, wait: bool = False) -> None:
        """Make the datasheet and find the rows worth a second look."""
        frame = self.frame
        self._work("making the datasheet", lambda: datasheets.datasheet(frame, model=None), self._take_sheet, wait)

    def count(self, model: str = datasheets.MODEL, wait: bool = False) -> None:
        """Measure lengths in tokens of a model (its tokenizer is read, no weights)."""
        texts = self.frame["text"].tolist()
        self._work("counting tokens", lambda: (model, *datasheets.token_lengths(texts, model)), self._take_tokens, wait)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for what is under way; whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.busy

    def describe(self) -> str:
        """Size, lengths and the Python, in plain text."""
        return f"{text.clean(self.name, 80)}: {self.n_rows:,} rows. {self.lengths}\n{self.code}"

    def close(self) -> None:
        """As of every view-model; what is still under way changes nothing any more."""
        self._open += 1
        super().close()

    @traitlets.validate("page")
    def _check_page(self, proposal: Mapping[str, Any]) -> int:
        if not 1 <= proposal["value"] <= self.n_pages:
            raise InputError(f"page must be between 1 and {self.n_pages}; got {proposal['value']}")
        return int(proposal["value"])

    @traitlets.validate("page_size")
    def _check_page_size(self, proposal: Mapping[str, Any]) -> int:
        if not 1 <= proposal["value"] <= MOST_PAGE:
            raise InputError(f"page_size must be between 1 and {MOST_PAGE}; got {proposal['value']}")
        return int(proposal["value"])

    @traitlets.validate("label", "part")
    def _check_choice(self, proposal: Mapping[str, Any]) -> str | None:
        name = proposal["trait"].name
        options = self._options(name)
        value: str | None = proposal["value"]
        if value is not None and self._opened is not None and value not in set(self.frame.get(name, ())):
            known = ", ".join(shown for shown, _ in options)
            raise InputError(f"no row has the {name} {text.clean(value, 60)!r}; known: {known}")
        return value

    @traitlets.validate("only_odd")
    def _check_odd(self, proposal: Mapping[str, Any]) -> bool:
        if proposal["value"] and not self.sheet:
            raise InputError("rows worth a second look are known once the datasheet is made")
        return bool(proposal["value"])

    def _forget(self) -> None:
        """Back to nothing open; what is under way for an earlier source will be dropped."""
        self._open += 1
        self._opened, self._odd = None, {}
        self._places = self._lengths = np.zeros(0, np.int64)
        with self.hold_trait_notifications():
            self.label = self.part = None
            self.find, self.order, self.only_odd = "", ORDERS[0], False
            for name, empty in {
                "n_rows": 0,
                "labels": (),
                "lengths": "",
                "histogram": None,
                "leaks": (),
                "sheet": (),
                "to_accept": False,
            }.items():
                self.set_trait(name, empty)
        self._say("", "", "", ())
        self._arrange()

    def _say(self, name: str, licence: str, card: str, notes: tuple[str, ...]) -> None:
        self.set_trait("name", name)
        self.set_trait("licence", text.clean(licence, 300))
        self.set_trait("card", text.clean_document(card, cards.MAX_CHARACTERS))
        self.set_trait("notes", tuple(text.clean(note, 500) for note in notes[: explored.MOST_LINES]))

    def _options(self, column: str) -> list[tuple[str, str | None]]:
        """All, and the commonest values; the one that was chosen among them, however rare."""
        values = list(self.frame[column].value_counts().index) if self._opened and column in self.frame else []
        chosen = getattr(self, column)
        if chosen in values[display.CHOICES - 1 :]:
            values.insert(0, chosen)
        return [(ALL, None), *display.choices(values[: display.CHOICES - 1])]

    def _measure(self, unit: str) -> None:
        said = f"{unit.capitalize()} a text: {datasheets.spread(datasheets.percentiles(self._lengths))}"
        self.set_trait("unit", unit.partition(" ")[0])
        self.set_trait("lengths", text.clean(said, 300))
        self.set_trait("histogram", explored.histogram(self._lengths, self.unit))

    def _arrange(self) -> None:
        """Apply filters and order, and show the first page."""
        with self._lock:
            for name in ("label", "part"):
                self.set_trait(f"{name}_options", self._options(name))
            self._places = self._filtered() if self._opened is not None else np.zeros(0, np.int64)
            self.set_trait("n_shown", len(self._places))
            self.set_trait("n_pages", self._count_pages())
            if self.page == 1:
                self._show()
            self.page = 1
            self._tell()

    def _count_pages(self) -> int:
        return max(1, -(-len(self._places) // self.page_size))

    def _filtered(self) -> np.ndarray:
        kept = explored.kept(self.frame, self.label, self.part, self.find)
        if self.only_odd:
            return np.array([place for place in self._odd if kept[place]], dtype=np.int64)
        places = np.flatnonzero(kept)
        if self.order == ORDERS[0]:
            return places
        lengths = self._lengths[places] * (1 if self.order == ORDERS[2] else -1)
        return places[np.argsort(lengths, kind="stable")]

    def _show(self) -> None:
        with self._lock:
            self.set_trait("n_pages", self._count_pages())
            self.page = min(self.page, self.n_pages)
            start = (self.page - 1) * self.page_size
            self.set_trait("rows", tuple(self._row(int(i)) for i in self._places[start : start + self.page_size]))
            self.chosen = 0  # before its options, among which it always is
            self._read_whole()
            self.set_trait("row_options", [(f"row {r['row']}", i) for i, r in enumerate(self.rows)] or [("none", 0)])
            self.set_trait("summary", self._summary())

    def _summary(self) -> str:
        if self._opened is None:
            return ""
        kept = "" if self.n_shown == self.n_rows else f"{self.n_shown:,} of "
        return f"{kept}{self.n_rows:,} rows, page {self.page:,} of {self.n_pages:,}"

    def _row(self, place: int) -> dict[str, Any]:
        line, odd = self.frame.iloc[place], self._odd.get(place)
        found = {"row": int(line["source_row"]), "text": text.clean(line["text"], display.CELL_LIMIT)}
        found |= {name: text.clean(line[name], 60) for name in ("label", "part") if name in line}
        found |= {self.unit: int(self._lengths[place])}
        if odd is not None:
            found |= {name: text.clean(odd[name], display.CELL_LIMIT) for name in ("reason", "suggestion")}
        return found

    def _read_whole(self) -> None:
        start = (self.page - 1) * self.page_size + self.chosen
        inside = 0 <= self.chosen < len(self.rows)
        whole = self.frame["text"].iloc[self._places[start]] if inside else ""
        self.set_trait("whole", text.clean(whole, MOST_TEXT, newlines=True))

    def _tell(self) -> None:
        """The Python for what is shown."""
        if self._opened is None:
            self.code = "import slmkit"
            return
        lines = ["import slmkit", *self._opened.code, *explored.kept_code(self.label, self.part, self.find)]
        lines += explored.leak_code(self.frame, self.split, self.test_file)
        lines += ["print(*slmkit.datasheet(frame, model=None).lines(), sep='\\n')"] if "label" in self.frame else []
        self.code = "\n".join(lines)

    def _work(self, what: str, function: Callable[[], Any], then: Callable[[Any], None], wait: bool) -> None:
        """Run a function in a thread, one at a time, and take its result unless another source was opened since."""
        if self.busy:
            raise InputError(f"still {self.busy}; what comes next has to wait until that is done")
        opened = self._open
        self.set_trait("busy", what)

        def work() -> None:
            try:
                found = function()
                if opened == self._open:
                    then(found)
            finally:
                self.set_trait("busy", "")

        if wait:
            work()
            return
        self._thread = threading.Thread(target=self.attempt, args=(work,), name=f"slmkit-{what}", daemon=True)
        self._thread.start()

    def _take_leaks(self, lines: Sequence[str]) -> None:
        self.set_trait("leaks", explored.cleaned(lines))

    def _take_sheet(self, sheet: datasheets.Datasheet) -> None:
        suspicious: list[dict[str, Any]] = sheet.suspicious.to_dict("records")  # type: ignore[assignment]
        self._odd = {int(line["row"]): line for line in suspicious}
        self.set_trait("sheet", explored.cleaned(sheet.lines()))
        self._arrange()

    def _take_tokens(self, counted: tuple[str, np.ndarray, Sequence[str]]) -> None:
        model, lengths, uncounted = counted
        if uncounted:
            raise InputError(uncounted[0])
        self._lengths = lengths
        self._measure(f"tokens ({model})")
        self._arrange()
