"""What runs trade against each other: which are on the front of each cost, which pairs differ, when a training pays.

A configuration is on the front of a cost if none is at least as accurate for less. The front is drawn through measured
accuracies, so luck puts some on it; whether two differ is a question of its own, asked row by row (`pairs`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from slmkit import metrics, text
from slmkit.errors import InputError
from slmkit.plots.footprint import pareto
from slmkit.runs import Run, read_probabilities
from slmkit.runs.configurations import (
    FOOTPRINTS,
    Configuration,
    Footprint,
    as_runs,
    configurations,
    machine_name,
    setups,
)
from slmkit.runs.pairs import Comparison


def fronts(runs: Iterable[Run] | pd.DataFrame) -> pd.DataFrame:
    """Which configurations are on the front of each cost.

    Parameters
    ----------
    runs : iterable of Run, or the frame of `runs.to_frame`
        Of one task and about one number of rows.

    Returns
    -------
    DataFrame
        One row a configuration, most accurate first: number, configuration, accuracy (in words, with its interval for
        one seed), one column a cost named with its unit, beside it "on the front" ("yes", "no", "unknown"), `fronts`
        (how many costs it is on the front of) and machine.

    Raises
    ------
    InputError
        No runs, or runs that do not compare.
    """
    groups = setups(as_runs(runs))
    if len(groups) > 1:
        raise InputError(f"fronts are of runs that compare, with one task and one size; these are {len(groups)} setups")
    configs = configurations(groups[0])
    table: dict[str, list[Any]] = {
        "number": [c.number for c in configs],
        "configuration": [c.name for c in configs],
        "accuracy": [c.accuracy_in_words for c in configs],
    }
    count = [0] * len(configs)
    for view in FOOTPRINTS.values():
        costs = [c.mean(view.of) for c in configs]
        on = _on_front(configs, view)
        table[f"{view.button} ({view.unit})"] = [
            None if x is None else float(text.rounded(x).replace(" ", "")) for x in costs
        ]
        table[f"front: {view.button.lower()}"] = on
        count = [n + (word == "yes") for n, word in zip(count, on, strict=True)]
    table |= {"fronts": count, "machine": [machine_name(c.first.machine) for c in configs]}
    return pd.DataFrame(table)


def caveats(runs: Iterable[Run] | pd.DataFrame) -> list[str]:
    """What has to be known before the costs of these runs are compared, a sentence each."""
    listed = as_runs(runs)
    machines = sorted({machine_name(run.machine) for run in listed})
    origins = sorted({text.clean(run.energy_origin, 20) for run in listed if run.energy_origin})
    said = []
    if len(machines) > 1:
        said.append(
            f"Measured on {len(machines)} machines ({'; '.join(machines)}): time and energy compare within one."
        )
    if origins == ["modelled"]:
        said.append("All energy here is modelled from time and a table of powers, so it says no more than time does.")
    return said


def pairs(runs: Iterable[Run] | pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Every pair of configurations with a seed in common, row by row, beside what their intervals suggest.

    Parameters
    ----------
    runs : iterable of Run, or the frame of `runs.to_frame`
    folder : Path
        Where the per-example probabilities lie; a pair without them is left out.

    Returns
    -------
    DataFrame
        first (the more accurate), second, n, points (first minus second) with low and high, p (of one seed, None for
        several), `test` in words, `intervals_overlap` (of the two accuracies on the first seed they share) and `differ`
        (p below 0.05 in more than half of the seeds). By chance alone one pair in twenty would.
    """
    rows = []
    for group in setups(as_runs(runs)):
        answers = {run.run_id: _hits(run, folder) for run in group}
        for a, b in combinations(configurations(group), 2):
            row = _pair(a, b, answers)
            rows += [row] if row else []
    return pd.DataFrame(rows)


def _pair(a: Configuration, b: Configuration, answers: Mapping[str, pd.Series | None]) -> dict[str, Any] | None:
    """One row of `pairs`; None where a seed that both have cannot be compared row by row, or there is none."""
    shared = [(a.seeds[seed], b.seeds[seed]) for seed in a.seeds if seed in b.seeds]
    known = [(answers[one.run_id], answers[two.run_id]) for one, two in shared]
    told = [(x, y) for x, y in known if x is not None and y is not None and x.index.equals(y.index)]
    if not told or len(told) < len(shared):
        return None
    tests = [metrics.mcnemar(x.to_numpy(), y.to_numpy()) for x, y in told]
    p_values = tuple(test["p"] for test in tests)
    found = Comparison(fmean(x.mean() for x, _ in told), fmean(y.mean() for _, y in told), p_values)
    one, two = shared[0]
    return {
        "first": a.name,
        "second": b.name,
        "n": one.n_test,
        "points": found.points,
        **{end: 100 * fmean(test[end] for test in tests) for end in ("low", "high")},
        "p": p_values[0] if len(p_values) == 1 else None,
        "test": found.test,
        "intervals_overlap": one.accuracy_low <= two.accuracy_high and two.accuracy_low <= one.accuracy_high,
        "differ": found.significant,
    }


def _hits(run: Run, folder: Path) -> pd.Series | None:
    """Whether each row was right, by the row; None without probabilities."""
    try:
        frame = read_probabilities(run, folder).set_index("row").sort_index()
    except InputError:
        return None
    return frame["predicted"] == frame["label"]


def break_even_rows(quick_to_fit: Run, quick_to_run: Run) -> float | None:
    """Rows to classify until the one that takes longer to fit has caught up with the other, in seconds of both.

    Parameters
    ----------
    quick_to_fit, quick_to_run : Run
        Of one machine, with fit_s and rows_per_s.

    Returns
    -------
    float or None
        0 where the second is no slower to fit either; None where it never catches up.

    Raises
    ------
    InputError
        A figure that is unknown, or two machines.
    """
    both = (quick_to_fit, quick_to_run)
    unknown = [
        f"{run.label} lacks {name}" for run in both for name in ("fit_s", "rows_per_s") if not getattr(run, name)
    ]
    machines = {machine_name(run.machine) for run in both}
    if len(machines) > 1:
        unknown.append(f"they were measured on different machines: {'; '.join(sorted(machines))}")
    if unknown:
        raise InputError(f"no break-even: {'; '.join(unknown)}")
    later = (quick_to_run.fit_s or 0) - (quick_to_fit.fit_s or 0)
    a_row = 1 / (quick_to_fit.rows_per_s or 1) - 1 / (quick_to_run.rows_per_s or 1)
    if later <= 0:
        return 0.0
    return later / a_row if a_row > 0 else None


def _on_front(configs: Sequence[Configuration], view: Footprint) -> list[str]:
    costs = [c.mean(view.of) for c in configs]
    known = [i for i, cost in enumerate(costs) if cost is not None]
    front = {known[place] for place in pareto([(costs[i] or 0.0, configs[i].accuracy) for i in known])}
    return ["unknown" if i not in known else "yes" if i in front else "no" for i in range(len(configs))]
