"""The rows of every seed and size of a study: leak-free splits, nested subsets to learn from, the guard before them.

Smaller portions stand inside larger ones and all of a seed are scored on the same rows, so that along a learning curve
nothing changes but the number of labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from slmkit import data, splits
from slmkit.errors import InputError
from slmkit.splits import Split, leaks
from slmkit.splits.splitfile import GivenSplit

Portion = tuple[int, int | None]  # seed, and train rows where a study has several sizes


def cut(
    frame: pd.DataFrame, wanted: GivenSplit, seeds: Sequence[int], sizes: Sequence[int | None], test: int | None
) -> dict[Portion, Split]:
    """The split of each seed, one of our own or subsets of the given one, and of several sizes each."""
    known = [size for size in sizes if size is not None]
    largest = max(known) if known else None
    found: dict[Portion, Split] = {}
    if wanted.is_asked:
        frame = wanted.applied(frame)
    else:
        frame = frame.drop(columns="part", errors="ignore")
    for seed in seeds:
        draw = data.given if wanted.is_asked else data.split
        whole = draw(frame, seed=seed, train=largest, test=test)
        if len(known) < 2:
            found[seed, None] = whole
        else:
            parts = splits.nested(whole, known, seed=seed)
            found |= {(seed, size): part for size, part in zip(known, parts, strict=True)}
    return found


def guard(splits: Mapping[Portion, Split], *, allow_leaks: bool) -> tuple[dict[Portion, int], list[str]]:
    """Test rows of each seed that stand in its train rows, and what to say of them.

    Raises `InputError`, with the rows named, when a given split leaks and nobody allowed it. A split of our own leaks
    only where the rows leave no other way; that is said, and marked in the records all the same.
    """
    leaked, notes = {}, []
    for portion, split in splits.items():
        report = leaks.check({"train": split.train, "test": split.test}, within=False)
        leaked[portion] = report.n_leaking
        if report.n_leaking and split.given and not allow_leaks:
            told = "\n".join(report.lines(examples=5))
            other = ""
            if "group" in report.across[0].counts:
                other = ". If equal values of the column group mean nothing here, call it something else"
            raise InputError(
                f"the given split leaks, so that its scores would be too good:\n{told}\nTake these rows out of either "
                "part, let slmkit split the rows, or allow it (allow_leaks=True, --allow-leaks): every record made "
                f"from it is marked then{other}"
            )
        if report.n_leaking:
            notes.append(f"{_named(portion)}: {report.across[0].sentence()}; every record says so")
    return leaked, notes


def warnings(splits: Mapping[Portion, Split]) -> list[str]:
    """What was dropped and why, of every split."""
    return [warning for split in splits.values() for warning in split.warnings]


def _named(portion: Portion) -> str:
    seed, rows = portion
    return f"seed {seed}" + (f", {rows} rows" if rows else "")
