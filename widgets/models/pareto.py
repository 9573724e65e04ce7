"""View-model of the Pareto explorer: recorded and own runs of one setup, filtered, on a cost the reader picks.

Only runs of one setup (same rows, about as many to learn from) are compared. Of many configurations some get a number:
the floor, the front, the two picked ones, then the most accurate; the others stay in the picture as unnamed dots. So
what goes to the page has a bound, whatever the number of records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import traitlets

from slmkit import plots, tasks, text, verdict
from slmkit.errors import InputError
from slmkit.runs import Run
from slmkit.runs.configurations import (
    FOOTPRINTS,
    Configuration,
    configurations,
    footprint_of,
    is_recorded,
    machine_name,
    model_name,
    setups,
    told_apart,
)
from slmkit_widgets import display
from slmkit_widgets.models import records
from slmkit_widgets.models.base import ViewModel

NUMBERED = 24  # configurations with a number, a row of the table and a line of the legend
FRONT, FLOORS = 10, 3  # of them at most
SEEDS = 8  # runs of one configuration


class ParetoModel(ViewModel):
    """State of a `ParetoExplorer`; see there for the parameters.

    Attributes
    ----------
    setup : str
        Task and size, among `setup_options`.
    footprint : str
        The cost on the axis: "stored_bytes", "peak_ram_bytes", "latency_p50_s" or "energy_j_per_1000_rows".
    models, methods, bits : tuple
        Only these; empty: all. The floor always stays.
    first, second : str
        The two compared, among `pick_options`; "" where there is none.
    figure : go.Figure or None
    table : DataFrame
        The numbered configurations.
    said, comparison : str
        What is shown and what is not; the paired verdict.
    """

    setup = traitlets.Unicode()
    setup_options: traitlets.List[Any] = traitlets.List()
    footprint = traitlets.Unicode("stored_bytes")
    footprint_options = traitlets.List([(f.title, f.key) for f in FOOTPRINTS.values()])
    models = traitlets.Tuple()
    models_options: traitlets.List[Any] = traitlets.List()
    methods = traitlets.Tuple()
    methods_options: traitlets.List[Any] = traitlets.List()
    bits = traitlets.Tuple()
    bits_options: traitlets.List[Any] = traitlets.List()
    first = traitlets.Unicode()
    second = traitlets.Unicode()
    pick_options: traitlets.List[Any] = traitlets.List()
    figure = traitlets.Any()
    table = traitlets.Any()
    said = traitlets.Unicode()
    comparison = traitlets.Unicode()
    found = traitlets.Unicode()

    def __init__(
        self,
        given: Run | Iterable[Run] | None = None,
        folder: str | Path | None = None,
        *,
        recorded: bool = True,
        task: str | None = None,
        footprint: str = "stored_bytes",
    ) -> None:
        super().__init__()
        if given is not None and not isinstance(given, Run):
            given = list(given)
        if given is None and folder is None and Path("runs").is_dir():
            folder = "runs"
        self._given, self._folder, self._recorded = given, folder, recorded
        self._set(footprint=footprint_of(footprint).key)
        self._read()
        self.setup = self._first_setup(task)

    # -- commands

    def read_again(self) -> None:
        """Read the folder again: runs that were added meanwhile appear."""
        chosen = self._title()
        self._read()
        again = next((value for name, value in self.setup_options if name == chosen), "0")
        if again == self.setup:
            self._open()
        else:
            self.setup = again

    def clear_filters(self) -> None:
        """Show all models, methods and bits."""
        self._set(models=(), methods=(), bits=())
        self._refresh()

    # -- what follows from what

    @traitlets.validate("setup", "footprint", "first", "second")
    def _known(self, proposal: Any) -> str:
        name, value = proposal["trait"].name, proposal["value"]
        options = {"first": self.pick_options, "second": self.pick_options, "setup": self.setup_options}
        allowed = [one for _, one in options.get(name, self.footprint_options)]
        if value not in allowed and not (name in ("first", "second") and value == ""):
            raise InputError(f"{name} must be one of {', '.join(map(str, allowed[:10]))}; got {value!r}")
        return str(value)

    @traitlets.validate("models", "methods", "bits")
    def _listed(self, proposal: Any) -> tuple[Any, ...]:
        name = proposal["trait"].name
        allowed = [value for _, value in getattr(self, f"{name}_options")]
        wrong = [value for value in proposal["value"] if value not in allowed]
        if wrong:
            raise InputError(f"{name} must be among {', '.join(map(str, allowed[:10]))}; got {wrong[:10]}")
        return tuple(proposal["value"])

    @traitlets.observe("setup")
    def _setup_changed(self, _change: Any) -> None:
        if not self._busy:
            self._open()

    @traitlets.observe("footprint", "models", "methods", "bits", "first", "second")
    def _changed(self, _change: Any) -> None:
        if not self._busy:
            self._refresh()

    def _set(self, **values: Any) -> None:
        with self.held():
            for name, value in values.items():
                setattr(self, name, value)

    def _read(self) -> None:
        """Gather the records and sort them into setups."""
        found, problems = records.gathered(self._given, self._folder, recorded=self._recorded)
        if not found:
            raise InputError(f"no runs to explore{f' in {self._folder}' if self._folder else ''}")
        self._homes = {id(record.run): record.folder for record in found}
        self._setups = _setups([record.run for record in found])
        titles = told_apart([_setup_title(group) for group in self._setups], self._setups)
        options = display.choices([str(i) for i in range(len(titles))], lambda i: titles[int(i)])
        self._set(setup_options=options)
        self.found = records.summary(found, problems)

    def _first_setup(self, task: str | None) -> str:
        if task is None:
            return "0"
        for place, group in enumerate(self._setups):
            if group[0].task == task:
                return str(place)
        known = ", ".join(sorted({display.plain(group[0].task, 40) for group in self._setups}))
        raise InputError(f"no run of task {task!r}; runs there are of: {known}")

    def _open(self) -> None:
        """Go to a setup: its configurations, what they may be filtered by, the first two to compare."""
        group = self._setups[int(self.setup)]
        whole = configurations(group)
        self._all = [replace(c, runs=c.runs[:SEEDS]) for c in whole]
        self._cut_seeds = any(len(c.runs) > SEEDS for c in whole)
        others = [c.first for c in self._all if not c.is_floor]  # most accurate first, so are the lists
        models = dict.fromkeys(r.model for r in others if r.model)
        self._unlisted = max(0, len(models) - display.CHOICES)
        self._set(
            models=(),
            methods=(),
            bits=(),
            first="",
            second="",
            models_options=display.choices(models, model_name),
            methods_options=display.choices(dict.fromkeys(r.method for r in others)),
            bits_options=display.choices(sorted({r.bits for r in others if r.bits}), lambda b: f"{b} bits"),
        )
        best = [str(i) for i, c in enumerate(self._all) if not c.is_floor]
        floor = [str(i) for i, c in enumerate(self._all) if c.is_floor]
        self._picks = [*best[:1], *floor[:1], *best[1:2]][:2]
        self._refresh(first_pick=True)

    def _refresh(self, *, first_pick: bool = False) -> None:
        if not first_pick:
            self._picks = [self.first, self.second]
        view = footprint_of(self.footprint)
        matching = [i for i, c in enumerate(self._all) if c.is_floor or self._matches(c)]
        known = [i for i in matching if self._all[i].mean(view.of) is not None]
        spots = {i: (self._all[i].mean(view.of) or 0.0, self._all[i].accuracy) for i in known}
        front = [known[place] for place in plots.pareto([spots[i] for i in known])]
        named = self._numbered(matching, front)
        shown = configurations([run for i in named for run in self._all[i].runs])
        place_of = {id(self._all[i].first): i for i in named}  # configurations count anew, runs stay the same
        places = [place_of[id(c.first)] for c in shown]
        options = [(display.plain(f"{c.number} · {c.name}"), str(p)) for c, p in zip(shown, places, strict=True)]
        self._picks = [pick if pick in {p for _, p in options} else "" for pick in [*self._picks, "", ""][:2]]
        self._set(pick_options=[("nothing picked", ""), *options], first=self._picks[0], second=self._picks[1])
        with_number = set(named)
        crowd = [spots[i] for i in known if i not in with_number]
        drawable = any(c.mean(view.of) is not None for c in shown)
        runs_shown = [run for c in shown for run in c.runs]
        self.figure = plots.accuracy_in_a_crowd(runs_shown, view.key, crowd) if drawable else None
        self.table = _table(shown, set(front), places)
        self.said = self._words(len(matching), len(named), len(crowd), drawable, shown)
        self.comparison = self._verdict()
        self.code = self._python()

    def _matches(self, config: Configuration) -> bool:
        run = config.first
        pairs = ((self.models, run.model), (self.methods, run.method), (self.bits, run.bits))
        return all(not wanted or value in wanted for wanted, value in pairs)

    def _numbered(self, matching: Sequence[int], front: Sequence[int]) -> list[int]:
        """Places of the configurations that get a number, most accurate first."""
        floors = [i for i in matching if self._all[i].is_floor][:FLOORS]
        step = max(1, -(-len(front) // FRONT))
        picked = [int(pick) for pick in self._picks if pick]
        wanted = list(dict.fromkeys([*floors, *picked, *front[::-1][::step], *matching]))
        return sorted(wanted[:NUMBERED])

    # -- in words

    def _title(self) -> str:
        return next((name for name, value in self.setup_options if value == self.setup), "")

    def _words(self, n: int, named: int, crowd: int, drawable: bool, shown: Sequence[Configuration]) -> str:
        said = [f"{n:,} configurations match."]
        if named < n:
            said.append(
                f"{named} have a number: the floor, the front, the two picked, then the most accurate. "
                f"{crowd:,} more are grey dots; filter to name them."
            )
        if not drawable:
            title = footprint_of(self.footprint).title.lower()
            said.append(f"No picture: {title} is unknown for all of them; choose another cost.")
        if not any(c.is_floor for c in shown):
            said.append("No floor was run here, so nothing shows that a model is worth its size.")
        if self._unlisted:
            said.append(f"The {display.CHOICES} most accurate models are listed, {self._unlisted:,} are not.")
        if self._cut_seeds:
            said.append(f"Of a configuration with more than {SEEDS} seeds the first {SEEDS} count.")
        if len({machine_name(c.first.machine) for c in shown}) > 1:
            said.append("These were measured on several machines: compare times and energy within one only.")
        return " ".join(said)

    def _pair(self) -> tuple[Configuration, Configuration] | None:
        if not self.first or not self.second:
            return None
        return self._all[int(self.first)], self._all[int(self.second)]

    def _verdict(self) -> str:
        pair = self._pair()
        if pair is None:
            return "Pick two configurations to compare them row by row."
        if pair[0] is pair[1]:
            return "These are one and the same; pick two different ones."
        numbers = {place: name.split(" ")[0] for name, place in self.pick_options}
        sentence = verdict.of_two(*pair, lambda run: self._homes.get(id(run)))
        return f"Number {numbers[self.first]} and number {numbers[self.second]}: {sentence}"

    def describe(self) -> str:
        """Table, words, verdict and Python in plain text."""
        parts = [self._title(), *display.lines(self.said), "", self.table.to_string(index=False), ""]
        return "\n".join([*parts, *display.lines(self.comparison), "", self.code])

    def _python(self) -> str:
        group = self._setups[int(self.setup)]
        run, sizes = group[0], sorted(r.n_train for r in group)
        wanted = [f"r.task == {run.task!r}", f"r.data_sha256 == {run.data_sha256!r}"]
        wanted.append(f"{sizes[0]} <= r.n_train <= {sizes[-1]}")
        filters = [("model", self.models), ("method", self.methods), ("bits", self.bits)]
        kept = " and ".join(f"r.{name} in {list(values)!r}" for name, values in filters if values)
        if kept:
            wanted.append(f"(r.method == 'floor' or ({kept}))")
        tests = ["    if " + wanted[0], *(f"    and {test}" for test in wanted[1:])]
        lines = [*self._python_records(), "chosen = [", "    r", "    for r in records", *tests, "]"]
        picture = f"plots.accuracy_vs_footprint(chosen, {self.footprint!r}).show()"
        return "\n".join([*lines, picture, *self._python_pair()])

    def _python_records(self) -> list[str]:
        folders, read = [], []
        if self._given is not None:
            read.append("list(given)")
            folders += [f"Path({str(self._folder)!r})"] if self._folder is not None else []
        elif self._folder is not None:
            parts = sorted({str(home) for home in self._homes.values() if home not in (None, records.shipped_folder())})
            folders += [f"Path({part!r})" for part in parts[:20]]
            read += [f"runs.read_runs({folder})" for folder in folders]
        if self._recorded:
            folders.append("slmkit_data.path('runs')")
            read.append("runs.read_runs(slmkit_data.path('runs'), recorded=True)")
        first = ["import slmkit_data"] if self._recorded else []
        path = ["from pathlib import Path", ""] if any("Path(" in f for f in folders) else []
        head = [*path, *first, "from slmkit import plots, runs, verdict"]
        head += ["from slmkit.runs.configurations import configurations", ""]
        given = ["given = ...  # the runs you gave"] if self._given is not None else []
        return [*head, *given, f"folders = [{', '.join(folders)}]", f"records = {' + '.join(read)}"]

    def _python_pair(self) -> list[str]:
        pair = self._pair()
        if pair is None or pair[0] is pair[1]:
            return []
        ids = [[run.run_id for run in config.runs] for config in pair]
        return [
            f"ids = {ids!r}",
            "first, second = (configurations([r for r in chosen if r.run_id in part])[0] for part in ids)",
            "home = lambda r: next((f for f in folders if (f / f'{r.stem}.probabilities.csv').is_file()), None)",
            "print(verdict.of_two(first, second, home))",
        ]


def _setups(found: Sequence[Run]) -> list[list[Run]]:
    """Runs that may be compared, the largest group first; split by their rows beforehand, so that many stay quick."""
    buckets: dict[tuple[str, str, bool], list[Run]] = defaultdict(list)
    for run in found:
        buckets[(run.task, run.data_sha256, run.split == "given")].append(run)
    groups = [group for key in buckets for group in setups(buckets[key])]
    return sorted(groups, key=lambda group: (-len(group), group[0].task))


def _setup_title(group: Sequence[Run]) -> str:
    run = group[0]
    title = tasks.named(run.task).title if run.task in tasks.names() else run.task
    return f"{display.plain(title, 60)}, {run.n_train} training rows"


def _table(shown: Sequence[Configuration], front: set[int], places: Sequence[int]) -> pd.DataFrame:
    def row(config: Configuration, place: int) -> dict[str, Any]:
        costs = {f"{f.button} ({f.unit})": config.mean(f.of) for f in FOOTPRINTS.values()}
        return {
            "number": config.number,
            "configuration": config.name,
            "accuracy": config.accuracy_in_words,
            "test rows": config.first.n_test,
            "seeds": len(config.runs),
            **{name: "unknown" if cost is None else text.rounded(cost) for name, cost in costs.items()},
            "on the front": "yes" if place in front else "no",
            "figures": "recorded" if is_recorded(config.first) else "measured",
            "machine": machine_name(config.first.machine),
        }

    return pd.DataFrame([row(config, place) for config, place in zip(shown, places, strict=True)])
