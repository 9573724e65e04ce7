"""Splits without leaks: duplicates are dropped first, and rows that belong together stay on one side.

In a random 80/20 split of SMS Spam 11 % of the test rows also stand in train; a model that remembers looks like one
that understands. Rows belong together when they share a value of the column `group`, or when their texts are
near-duplicates (`slmkit.splits.alike`): one campaign with many phone numbers, one press release with new figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from slmkit.errors import InputError, listed, short
from slmkit.splits import alike, stratify
from slmkit.splits.alike import normalise

ENOUGH = 0.9  # share of the test rows wished for below which it is said that there are fewer
WHOLE = "groups and near-duplicates are kept whole"


@dataclass(frozen=True)
class Split:
    """Rows to learn from and rows to score.

    Attributes
    ----------
    train, test : DataFrame
        Columns of the frame that was split; the index, named `row`, is the position in the de-duplicated frame (of a
        given split: in the frame).
    warnings : tuple of str
        What was dropped and why, in words.
    given : bool
        Whether somebody else decided which rows are for testing.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    warnings: tuple[str, ...]
    given: bool = False


def deduplicate(frame: pd.DataFrame) -> tuple[pd.DataFrame, int, int]:
    """Keep the first row of every normalised text; drop all rows of a text that stands under two labels.

    Parameters
    ----------
    frame : DataFrame
        Columns text and label.

    Returns
    -------
    frame : DataFrame
        In the old order, with a fresh index from 0.
    n_dropped : int
        Rows dropped because an equal one with the same label stays.
    n_conflicting : int
        Rows dropped because the same text has another label elsewhere.
    """
    kept, n_dropped, n_conflicting, _ = _deduplicate(frame)
    return kept, n_dropped, n_conflicting


def _deduplicate(frame: pd.DataFrame) -> tuple[pd.DataFrame, int, int, pd.Series]:
    """As `deduplicate`, and the normalised texts of the rows that stay."""
    keys = frame["text"].map(normalise)
    conflict = frame["label"].groupby(keys.to_numpy()).transform("nunique").to_numpy() > 1
    repeated = keys.duplicated().to_numpy() & ~conflict
    stays = ~(conflict | repeated)
    return frame[stays].reset_index(drop=True), int(repeated.sum()), int(conflict.sum()), keys[stays]


def split(
    frame: pd.DataFrame, *, seed: int, train: int | None = None, test: int | None = None, test_share: float = 0.2
) -> Split:
    """Cut a frame into train and test rows: de-duplicated, grouped, stratified and seeded.

    Parameters
    ----------
    frame : DataFrame
        Columns text and label, and group where rows belong together.
    seed : int
        Equal seeds give equal rows on every machine. The test rows do not depend on `train`.
    train : int or None
        A stratified subset of that many of the remaining rows; None takes all of them.
    test : int or None
        Exactly that many test rows; rows left over from a group that was cut are used nowhere. None takes `test_share`.
    test_share : float
        Share of the rows, between 0 and 1; whole groups, so the count may differ by a few rows.

    Returns
    -------
    Split

    Raises
    ------
    InputError
        More rows asked than exist after de-duplication, fewer than classes, or a class that cannot be on both sides.
    """
    if seed < 0:
        raise InputError(f"seed must be a whole number from 0; got {seed}")
    check_labelled(frame)
    rows, n_dropped, n_conflicting, keys = _deduplicate(frame)
    notes = _duplicate_notes(n_dropped, n_conflicting)
    _check_classes(rows, notes)
    n_test = _n_test(rows, train, test, test_share)
    codes = np.asarray(pd.factorize(rows["label"], sort=True)[0])
    groups, near_notes = _groups(rows, codes, keys)
    counts = np.bincount(codes)
    quota = stratify.shares(counts, n_test, counts - 1)
    chosen = stratify.draw(codes, groups, quota, np.random.default_rng(seed), exact=test is not None)
    remaining = np.flatnonzero(~np.isin(groups, groups[chosen]))
    if unused := len(rows) - len(remaining) - len(chosen):
        near_notes = (*near_notes, f"{unused:,} rows used nowhere: they belong to groups that gave test rows")
    if len(chosen) < ENOUGH * n_test:
        near_notes = (*near_notes, f"{len(chosen):,} test rows instead of {n_test:,}: {WHOLE} and were too large")
    if train is not None:
        remaining = stratify.subset(remaining, codes, train, len(chosen), np.random.default_rng([seed, 1]))
    rows.index.name = "row"
    return Split(rows.iloc[remaining], rows.iloc[chosen], (*notes, *near_notes))


def given(frame: pd.DataFrame, *, seed: int, train: int | None = None, test: int | None = None) -> Split:
    """The parts that came with the data, as they are; whether they leak is for `slmkit.splits.leaks` to say.

    Parameters
    ----------
    frame : DataFrame
        Columns text, label and part ("train", "test"; rows of any other part are used nowhere, but that without any
        test row those of "validation" are tested).
    seed : int
        For drawing subsets.
    train, test : int or None
        Stratified subsets of that many rows of each part; None takes all of them.

    Raises
    ------
    InputError
        A part without rows, a class among the test rows that no train row has, or more rows asked than exist.
    """
    check_labelled(frame)
    rows = frame.reset_index(drop=True).rename_axis("row")
    scored = "test" if (rows["part"] == "test").any() else "validation"  # some publish no test rows
    parts = {"train": np.flatnonzero(rows["part"] == "train"), "test": np.flatnonzero(rows["part"] == scored)}
    for name, positions in parts.items():
        if not len(positions):
            raise InputError(f"the given split has no {name} rows")
    unseen = sorted(set(rows["label"].iloc[parts["test"]]) - set(rows["label"].iloc[parts["train"]]))
    if unseen:
        raise InputError(f"the given split has classes among its test rows that no train row has: {listed(unseen)}")
    codes = np.asarray(pd.factorize(rows["label"], sort=True)[0])
    drawn = {}
    for i, (name, asked) in enumerate((("train", train), ("test", test))):
        if asked is not None and not rows["label"].nunique() <= asked <= len(parts[name]):
            raise InputError(
                f"{asked:,} {name} rows were asked for; the given split has {len(parts[name]):,}, and at least "
                f"{rows['label'].nunique()} are needed, one a class"
            )
        rng = np.random.default_rng([seed, i])
        drawn[name] = parts[name] if asked is None else stratify.subset(parts[name], codes, asked, 0, rng)
    unused = len(rows) - len(parts["train"]) - len(parts["test"])
    notes: tuple[str, ...] = ()
    if unused:
        notes += (f"{unused:,} rows of the given split are neither train nor test and are not used",)
    if scored != "test":
        notes += ("the given split has no test rows; those for validation are scored",)
    return Split(rows.iloc[drawn["train"]], rows.iloc[drawn["test"]], notes, given=True)


def nested(whole: Split, sizes: Sequence[int], *, seed: int) -> list[Split]:
    """Splits with fewer rows to learn from, each inside the next larger one, and the same test rows.

    Parameters
    ----------
    whole : Split
    sizes : sequence of int
        Train rows, each at least one a class; stratified by label.

    Returns
    -------
    list of Split
        In the order of `sizes`.
    """
    found, rows = {}, whole.train
    for size in sorted(set(sizes), reverse=True):
        codes, names = pd.factorize(rows["label"], sort=True)
        if size < len(names):
            raise InputError(f"train must be at least {len(names)}, one row a class; got {size}")
        rng = np.random.default_rng([seed, 2, size])
        rows = rows.iloc[stratify.subset(np.arange(len(rows)), np.asarray(codes), size, len(whole.test), rng)]
        found[size] = replace(whole, train=rows)
    return [found[size] for size in sizes]


def hold_out(frame: pd.DataFrame, *, seed: int, train: int | None = None, test_share: float = 0.2) -> Split:
    """Cut rows without labels: copies and near-copies of a text, and rows of one group, stay on one side.

    Parameters
    ----------
    frame : DataFrame
        Column text, and group where rows belong together.
    seed, train, test_share
        As `split` takes them.

    Raises
    ------
    InputError
        Rows that all belong together, so that none can be held out, or more rows asked for than exist.
    """
    rows = frame.reset_index(drop=True).rename_axis("row")
    if not 0 < test_share < 1:
        raise InputError(f"test_share must be between 0 and 1; got {test_share!r}")
    keys, codes = rows["text"].map(normalise), np.zeros(len(rows), dtype=np.int64)
    same = np.asarray(pd.factorize(keys)[0])
    groups = _join(_join(_links(rows), same), alike.clusters(len(rows), alike.pairs(keys)[0]))
    if len(np.unique(groups)) < 2:
        raise InputError(f"{len(rows):,} rows that belong together (one group, or near-copies): none can be held out")
    quota = np.array([max(1, round(len(rows) * test_share))])
    chosen = stratify.draw(codes, groups, quota, np.random.default_rng(seed), exact=False)
    remaining = np.flatnonzero(~np.isin(groups, groups[chosen]))
    if train is not None:
        remaining = stratify.subset(remaining, codes, train, len(chosen), np.random.default_rng([seed, 1]))
    return Split(rows.iloc[remaining], rows.iloc[chosen], ())


def check_labelled(frame: pd.DataFrame) -> None:
    """Raise `InputError` when the columns text and label are not there."""
    if missing := [name for name in ("text", "label") if name not in frame]:
        raise InputError(
            f"a split needs the columns text and label; no {' and no '.join(missing)} among {listed(frame.columns)}"
        )


def _duplicate_notes(n_dropped: int, n_conflicting: int) -> tuple[str, ...]:
    notes = []
    if n_dropped:
        notes.append(f"{n_dropped:,} duplicate rows dropped (same text after normalisation, first one kept)")
    if n_conflicting:
        notes.append(f"{n_conflicting:,} rows dropped because the same text stands under two labels")
    return tuple(notes)


def _check_classes(rows: pd.DataFrame, notes: tuple[str, ...]) -> None:
    counts = rows["label"].value_counts()
    after = f" after de-duplication ({'; '.join(notes)})" if notes else ""
    if len(counts) < 2:
        raise InputError(f"two classes are needed; left{after}: {listed(counts.index) or 'none'}")
    single = sorted(counts.index[counts < 2])
    if single:
        raise InputError(
            f"class {listed(single[:5])} has one row{after}; it cannot be in train "
            "and in test. Merge it into another class or drop it"
        )


def _n_test(rows: pd.DataFrame, train: int | None, test: int | None, test_share: float) -> int:
    """Test rows to draw, after checking that what was asked for exists."""
    n, n_classes, problems = len(rows), rows["label"].nunique(), []
    if not 0 < test_share < 1:
        problems.append(f"test_share must be between 0 and 1; got {test_share!r}")
    for name, asked in (("train", train), ("test", test)):
        if asked is not None and asked < n_classes:
            problems.append(f"{name} must be at least {n_classes}, one row a class; got {asked}")
    n_test = max(n_classes, round(n * test_share)) if test is None else test
    needed = n_test + (n_classes if train is None else train)
    if not problems and needed > n:
        what = f"{n_test:,} test rows" + ("" if test is not None else f" ({test_share:.0%})")
        also = f"at least {n_classes} train rows, one a class," if train is None else f"{train:,} train rows"
        problems.append(f"{what} and {also} were asked for; there are {n:,} rows after de-duplication")
    if problems:
        raise InputError("; ".join(problems))
    return n_test


def _groups(rows: pd.DataFrame, codes: np.ndarray, keys: pd.Series) -> tuple[np.ndarray, tuple[str, ...]]:
    """Group number of every row, shape (n_rows,): rows linked by `group` or because their texts are near-duplicates."""
    given, alone = _links(rows), len(rows) + np.arange(len(rows))
    if (code := _one_sided(codes, given)) is not None:
        raise InputError(
            f"class {_name(rows, codes, code)} has all its rows in one group, so it cannot be in train and in test. "
            "Regroup the rows or leave the group column out"
        )
    near, notes = alike.clusters(len(rows), alike.pairs(keys)[0]), []
    while (code := _one_sided(codes, joined := _join(given, near))) is not None:
        loose = np.isin(near, near[codes == code])
        if len(np.unique(near[loose])) == loose.sum():  # its groups are linked by near-duplicates of other classes
            loose[:] = True
        near = np.where(loose, alone, near)
        notes.append(f"class {_name(rows, codes, code)} is near-duplicates only; such rows may stand on both sides")
    return joined, tuple(notes)


def _name(rows: pd.DataFrame, codes: np.ndarray, code: int) -> str:
    return repr(short(rows["label"].to_numpy()[codes == code][0]))


def _links(rows: pd.DataFrame) -> np.ndarray:
    """Group numbers from the column `group`; a row without a value is a group of its own."""
    alone = np.arange(len(rows))
    if "group" not in rows:
        return alone
    values = rows["group"].fillna("").astype(str).to_numpy()
    return np.asarray(np.where(values == "", alone, len(rows) + pd.factorize(values)[0]))


def _join(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Connected components of rows that share a number in either array, shape (n_rows,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(first)
    nodes = np.concatenate([n + pd.factorize(first)[0], 2 * n + pd.factorize(second)[0]])
    edges = coo_array((np.ones(2 * n, dtype=np.int8), (np.tile(np.arange(n), 2), nodes)), shape=(3 * n, 3 * n))
    return np.asarray(connected_components(edges, directed=False)[1][:n])


def _one_sided(codes: np.ndarray, groups: np.ndarray) -> int | None:
    """A class whose rows are all in one group, or None."""
    per_class = np.bincount(np.unique(np.stack([codes, groups]), axis=1)[0])
    return None if per_class.min() > 1 else int(per_class.argmin())
