"""Reads learning curves off runs: which of them belong together, their errors on shared resamples, and the answers.

All series are resampled together, so that a lead over the floor is a paired difference on the same test rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slmkit.curves import law
from slmkit.curves.words import Answer
from slmkit.plots.curve import COLUMNS
from slmkit.runs import Run, read_probabilities
from slmkit.runs.configurations import configurations

DRAWN = 60  # points of a drawn curve
_NONE: dict[str, Any] = dict.fromkeys(("labels", "labels_low", "labels_high", "measured"))


@dataclass(frozen=True)
class Series:
    """The runs of one method and model at all sizes that every seed has finished."""

    name: str
    phrase: str
    method: str
    runs: dict[tuple[int, int], Run]  # (size, seed)
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    right: dict[tuple[int, int], np.ndarray]  # (n_test,), the same rows in each series of one seed

    @property
    def is_level(self) -> bool:
        return self.method == "prompt"


def series_of(sizes: Sequence[int], found: Sequence[Run], out: Path) -> Iterator[Series]:
    """The floor first, then the most accurate at its largest size."""
    seeds = tuple(sorted({run.seed for run in found}))
    groups: dict[tuple[Any, ...], dict[tuple[int, int], Run]] = {}
    for run in found:
        groups.setdefault((run.method, run.model, run.bits), {})[run.n_train, run.seed] = run
    made = []
    for runs in groups.values():
        whole = tuple(size for size in sizes if all((size, seed) in runs for seed in seeds))
        largest = max(whole or [size for size, _ in runs])
        config, *_ = configurations([run for (size, _), run in runs.items() if size == largest])
        right = {(size, seed): _right(runs[size, seed], out) for size in whole for seed in seeds}
        made.append((config, Series(config.name, config.phrase, config.first.method, runs, whole, seeds, right)))
    made.sort(key=lambda pair: (not pair[0].is_floor, -pair[0].accuracy))
    names = [series.name for _, series in made]
    for i, series in enumerate(series for _, series in made):
        if twins := names[:i].count(series.name):  # models in two folders of one name
            mark = f" #{twins + 1}"
            series = replace(series, name=series.name + mark, phrase=series.phrase + mark)
        yield series


def _right(run: Run, folder: Path) -> np.ndarray:
    frame = read_probabilities(run, folder).sort_values("row")
    return (frame["predicted"] == frame["label"]).to_numpy()


class Curve:
    """Errors of all series on the same draws of seeds and rows: the estimate first, then the resamples."""

    def __init__(self, task: str, series: Sequence[Series]) -> None:
        self.task, self.series = task, [one for one in series if one.sizes]
        self.seeds = self.series[0].seeds
        self.n_seeds = len(self.seeds)
        self.at = [(one.name, size) for one in self.series for size in one.sizes]
        right = [np.stack([one.right[size, seed] for one in self.series for size in one.sizes]) for seed in self.seeds]
        errors = np.vstack([law.errors_of(right)[None], law.resampled(right)])  # (1 + B, Q)
        self.errors = {key: errors[:, i] for i, key in enumerate(self.at)}
        drawn = [one for one in self.series if len(one.sizes) > 1 and not one.is_level]
        self.fits = {one.name: law.fit(one.sizes, self._of(one)) for one in drawn}
        self.floor = next((one for one in self.series if one.method == "floor"), None)

    def _of(self, one: Series) -> np.ndarray:
        return np.stack([self.errors[one.name, size] for size in one.sizes], axis=1)

    def answers(self) -> list[Answer]:
        """One a curve, the most accurate at its largest size first, the floor last."""
        found = [self._answer(one) for one in self.series if not one.is_level]
        return sorted(found, key=lambda answer: (answer.method == "floor", -answer.accuracy[0]))

    def _answer(self, one: Series) -> Answer:
        last = max(one.sizes)
        fit, floor = self.fits.get(one.name), self.floor
        doubling = next_point = crossing = until = parts = None
        leads = {}
        if fit is not None:
            parts = {name: law.interval(getattr(fit, name)) for name in "abc"}
            ends = fit.error(np.array([last, law.BEYOND * last]))
            doubling = law.interval(ends[:, 0] - ends[:, 1])
            next_point = law.bound(fit.labels_until(ends[:, 0] - law.POINT), one.sizes)
        if floor is not None and one is not floor:
            shared = [size for size in one.sizes if size in floor.sizes]
            leads = {n: law.interval(self.errors[floor.name, n] - self.errors[one.name, n]) for n in shared}
            if fit is not None and floor.name in self.fits and len(shared) > 1:
                labels = law.grid(shared)
                ours, theirs = fit.error(labels), self.fits[floor.name].error(labels)
                crossing = law.bound(law.lead_from(ours, theirs, labels, max(shared)), shared)
                until = law.lead_until(ours[0], theirs[0], labels, max(shared))
        accuracy = self._accuracy(one, last)
        return Answer(one.name, one.phrase, one.method, accuracy, parts, doubling, next_point, leads, crossing, until)

    def _accuracy(self, one: Series, size: int) -> tuple[float, float, float]:
        return law.interval(1 - self.errors[one.name, size])

    def levels(self) -> list[dict[str, Any]]:
        """The prompts, for `sentences`."""
        found = []
        for one in self.series:
            if one.is_level:
                accuracy, low, high = self._accuracy(one, one.sizes[0])
                shots = one.runs[one.sizes[0], self.seeds[0]].params.get("shots") or 0
                facts = {"phrase": one.phrase, "shots": shots, "labels": one.sizes[0], "passed": self._passed(one)}
                found.append({**facts, "accuracy": accuracy, "low": low, "high": high})
        return found

    def _passed(self, prompt: Series) -> int | None:
        """The size from which the floor stays ahead of a prompt."""
        level = self.errors[prompt.name, prompt.sizes[0]][0]
        sizes = self.floor.sizes if self.floor else ()
        ahead = [bool(self.floor and self.errors[self.floor.name, size][0] < level) for size in sizes]
        return next((size for i, size in enumerate(sizes) if all(ahead[i:])), None)

    def frame(self) -> pd.DataFrame:
        """What `plots.learning_curve` draws."""
        rows = [row for one in self.series for row in self._rows(one)]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _rows(self, one: Series) -> Iterator[dict[str, Any]]:
        n_test = min(run.n_test for run in one.runs.values())
        head = {**_NONE, "task": self.task, "series": one.name, "method": one.method}
        common = {**head, "n_test": n_test, "seeds": self.n_seeds}
        for size in one.sizes:
            accuracy, low, high = self._accuracy(one, size)
            about = {"accuracy": accuracy, "low": low, "high": high, "labels": size}
            yield {**common, **about, "kind": "level" if one.is_level else "point"}
            for seed in self.seeds if not one.is_level else ():
                run = one.runs[size, seed]
                own = {"accuracy": run.accuracy, "low": run.accuracy_low, "high": run.accuracy_high, "labels": size}
                yield {**head, **own, "kind": "run", "n_test": run.n_test, "seeds": 1}
        if one.name in self.fits:
            spaced = np.geomspace(one.sizes[0], law.BEYOND * one.sizes[-1], DRAWN)
            labels = np.unique(np.concatenate([spaced, one.sizes]))
            errors = self.fits[one.name].error(labels)
            for i, n in enumerate(labels):
                accuracy, low, high = law.interval(1 - errors[:, i])
                drawn = {"labels": float(n), "accuracy": accuracy, "low": low, "high": high}
                yield {**common, **drawn, "kind": "fit", "measured": one.sizes[-1]}
            yield from self._crossing(one, common)

    def _crossing(self, one: Series, common: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Where a lead begins within what is drawn, unless it is there from the start or no lead at all."""
        answer = self._answer(one)
        bound = answer.crossing
        if bound is None or bound.labels is None or bound.labels <= bound.first or answer.overlap:
            return
        ends = {
            "labels": bound.labels,
            "labels_low": bound.low if bound.low is not None else bound.limit,
            "labels_high": bound.high if bound.high is not None else bound.limit,
        }
        at = 1 - float(self.fits[one.name].error(np.array([bound.labels]))[0, 0])
        yield {**common, **ends, "kind": "crossing", "accuracy": at, "measured": bound.measured}
