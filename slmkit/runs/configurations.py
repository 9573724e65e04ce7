"""Runs gathered by configuration: the seeds of one model, method and bit width together, numbered best first.

The picture, the table and the words all use these numbers, so that "number 3" means the same in each of them.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePath
from statistics import fmean
from typing import Any

import pandas as pd

from slmkit import text
from slmkit.catalog import MODELS
from slmkit.errors import InputError, unknown
from slmkit.runs import Run

_WHOLE = {"bits", "seed", "n_train", "n_test", "leaked_test_rows"}
METHOD_WORDS = {"floor": "TF-IDF floor", "embedding": "embedding", "prompt": "prompt", "lora": "LoRA"}
_METHOD_PHRASES = {"embedding": "an embedding head", "prompt": "a prompt", "lora": "LoRA"}
SAME_SETUP = 0.05  # grouped splits of another seed differ by a few rows; more than 5 % is another experiment


@dataclass(frozen=True)
class Footprint:
    """One cost that a model has: its Run key, what a reader calls it, the unit it is shown in."""

    key: str
    title: str
    button: str
    unit: str
    scale: float
    read: Callable[[Run], float | None]

    def of(self, run: Run) -> float | None:
        """The run's figure in `unit`, None where it is unknown."""
        value = self.read(run)
        return None if value is None else value * self.scale


def _peak(run: Run) -> float | None:
    return run.peak_ram_bytes if run.peak_device_bytes is None else run.peak_device_bytes


FOOTPRINTS = {
    f.key: f
    for f in (
        Footprint("stored_bytes", "Stored size of the model", "Stored size", "MB", 1e-6, lambda r: r.stored_bytes),
        Footprint("peak_ram_bytes", "Peak memory while classifying", "Peak memory", "MB", 1e-6, _peak),
        Footprint("latency_p50_s", "Median time for one row", "Latency", "ms", 1e3, lambda r: r.latency_p50_s),
        Footprint(
            "energy_j_per_1000_rows", "Energy for 1000 rows", "Energy", "J", 1.0, lambda r: r.energy_j_per_1000_rows
        ),
    )
}


def footprint_of(key: str) -> Footprint:
    """The footprint of that name; `InputError` lists the names."""
    if key not in FOOTPRINTS:
        raise unknown("footprint", key, FOOTPRINTS)
    return FOOTPRINTS[key]


@dataclass(frozen=True)
class Configuration:
    """One model, method and bit width with one run a seed; `number` counts from 1, the most accurate first."""

    number: int
    name: str
    phrase: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def is_floor(self) -> bool:
        return self.first.method == "floor"

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return fmean(run.accuracy for run in self.runs)

    @property
    def accuracy_in_words(self) -> str:
        """Percent with the interval of a single run, or the mean with the range over the seeds."""
        if len(self.runs) == 1:
            return text.with_interval(self.first.accuracy, self.first.accuracy_low, self.first.accuracy_high)
        shares = [100 * run.accuracy for run in self.runs]
        return f"{text.percent(self.accuracy)} (seeds: {min(shares):.1f} to {max(shares):.1f})"

    @property
    def seeds(self) -> dict[int, Run]:
        return {run.seed: run for run in self.runs}

    def mean(self, read: Callable[[Run], float | None]) -> float | None:
        """Mean of a figure over the runs that know it, None if none does."""
        known = [value for value in map(read, self.runs) if value is not None]
        return fmean(known) if known else None


def as_runs(runs: Iterable[Run] | pd.DataFrame) -> list[Run]:
    """Runs from a list of them or from the frame that `runs.to_frame` makes; `InputError` if there is none."""
    if isinstance(runs, pd.DataFrame):
        names = [f.name for f in fields(Run)]
        missing = [name for name in names if name not in runs.columns]
        if missing:
            raise InputError(f"the frame of runs lacks the columns {', '.join(missing[:5])}")
        runs = [Run(**{name: _value(name, row[name]) for name in names}) for row in runs.to_dict("records")]
    listed = list(runs)
    if not listed:
        raise InputError("no run to show: the list of runs is empty")
    return listed


def _value(name: str, value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    return int(value) if name in _WHOLE and value is not None else value


def is_recorded(run: Run) -> bool:
    """Whether the run was measured earlier, elsewhere."""
    return run.origins.get("accuracy") == "recorded"


def machine_name(machine: dict[str, Any]) -> str:
    """One line that names a machine: its processor, cores and accelerator, as far as the record knows them."""
    names = [machine.get(key) for key in ("cpu", "gpu")]
    parts = list(dict.fromkeys(text.clean(name, 60) for name in names if isinstance(name, str) and name.strip()))
    cores = machine.get("cores")
    return ", ".join([*parts, *([f"{cores} cores"] if cores else [])]) or "machine not named"


def model_name(model: str | None) -> str:
    """A model as a reader calls it: its title in the catalog, its hub id, or the last part of a path."""
    if model is None:
        return ""
    if model in MODELS:
        return MODELS[model].title
    local = model.startswith(("/", ".", "~")) or "\\" in model or ":" in model
    return text.clean(PurePath(model.replace("\\", "/")).name if local else model, 48)


def setups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that may be compared with each other: same task, rows and kind of split, about the same number of rows."""
    groups: list[list[Run]] = []
    for run in runs:
        home = next((group for group in groups if _comparable(group[0], run)), None)
        if home is None:
            groups.append(home := [])
        home.append(run)
    return groups


def told_apart(titles: Sequence[str], groups: Sequence[Sequence[Run]]) -> list[str]:
    """Titles of setups; equal ones get the test rows, then the start of the data's hash, where that differs."""
    told = list(titles)
    for words in (lambda run: f"{run.n_test} test rows", lambda run: f"data {text.clean(run.data_sha256, 80)[:8]}"):
        extras = [words(group[0]) for group in groups]
        pairs = set(zip(told, extras, strict=True))
        several = Counter(title for title, _ in pairs)
        told = [f"{t}, {extra}" if several[t] > 1 else t for t, extra in zip(told, extras, strict=True)]
    return told


def _comparable(a: Run, b: Run) -> bool:
    same = (a.task, a.data_sha256, a.split == "given") == (b.task, b.data_sha256, b.split == "given")
    sizes = ((a.n_train, b.n_train), (a.n_test, b.n_test))
    return same and all(abs(m - n) <= SAME_SETUP * max(m, n) for m, n in sizes)


def configurations(runs: Sequence[Run]) -> list[Configuration]:
    """Gather runs by configuration, best mean accuracy first; of two runs with one seed the newer counts."""
    groups: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in sorted(runs, key=lambda r: r.created_utc):
        groups[json.dumps(_facts(run), sort_keys=True, default=str)][run.seed] = run
    members = [tuple(group[seed] for seed in sorted(group)) for group in groups.values()]
    members.sort(key=lambda group: (-fmean(run.accuracy for run in group), group[0].stored_bytes or 0, group[0].label))
    names = _unique([_base_name(group[0]) for group in members], members)
    phrases = _unique([_base_phrase(group[0]) for group in members], members)
    return [Configuration(i + 1, names[i], phrases[i], group) for i, group in enumerate(members)]


def _facts(run: Run) -> dict[str, Any]:
    """What makes two runs the same configuration: everything chosen but the seed."""
    params = {key: value for key, value in run.params.items() if key != "seed"}
    return {
        **params, "method": run.method, "model": run.model, "bits": run.bits, "backend": run.backend,
        "scheme": run.scheme, "revision": run.revision, "origin": "recorded" if is_recorded(run) else "",
        "machine": machine_name(run.machine), "rows": run.n_train,
    }  # fmt: skip


def _base_name(run: Run) -> str:
    word = METHOD_WORDS.get(run.method) or text.clean(run.method, 30)
    bits = f"{run.bits} bits" if run.bits else ""
    recorded = "recorded" if is_recorded(run) else ""
    return ", ".join(part for part in (model_name(run.model), word, bits, recorded) if part)


def _base_phrase(run: Run) -> str:
    word = METHOD_WORDS.get(run.method, text.clean(run.method, 30))
    if run.model is None:
        return f"the {word}" if run.method == "floor" else word
    method = _METHOD_PHRASES.get(run.method, word)
    return f"{model_name(run.model)} with {method}" + (f" at {run.bits} bits" if run.bits else "")


def _unique(names: list[str], members: Sequence[tuple[Run, ...]]) -> list[str]:
    """Names told apart by the settings in which same-named configurations differ, then by a number."""
    told, places = list(names), defaultdict(list)
    for i, name in enumerate(names):
        places[name].append(i)
    for name, alike in places.items():
        facts = [_facts(members[i][0]) for i in alike] if len(alike) > 1 else []
        differs = {key for key in set().union(*facts) if len({str(twin.get(key)) for twin in facts}) > 1}
        for i, mine in zip(alike, facts, strict=False):
            keys = [key for key in mine if key in differs]
            extra = ", ".join(f"{text.clean(key, 20)} {text.clean(mine[key], 30)}" for key in keys[:3])
            told[i] = f"{name} ({extra})" if extra else name
    total, seen = Counter(told), Counter[str]()
    for i, name in enumerate(told):
        seen[name] += 1
        told[i] = name if total[name] == 1 else f"{name} #{seen[name]}"
    return told
