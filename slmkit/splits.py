"""Splits without leaks: duplicates are dropped first, and rows that belong together stay on one side.

In a random 80/20 split of SMS Spam 11 % of the test rows also stand in train; a model that remembers looks like one
that understands. Rows belong together when they share a value of the column `group`, or when their texts differ only in
digits (one campaign with many phone numbers).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from slmkit.errors import InputError

_DIGITS = re.compile(r"\d+")


class _Fold(dict[int, str]):
    """Translation table for `str.translate`, filled as characters occur: letters, marks, digits and symbols stay."""

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        keep = category[0] in "LMNS"
        self[code] = chr(code) if keep else "" if category == "Cf" else " "
        return self[code]


_FOLD = _Fold()


@dataclass(frozen=True)
class Split:
    """Rows to learn from and rows to score.

    Attributes
    ----------
    train, test : DataFrame
        Columns of the frame that was split; the index, named `row`, is the position in the de-duplicated frame.
    warnings : tuple of str
        What was dropped and why, in words.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    warnings: tuple[str, ...]


def normalise(text: str) -> str:
    """Bring texts that a reader would call the same to one form.

    NFKC, case folded, punctuation and runs of spaces to one space, invisible characters dropped; letters, digits and
    symbols (currency, emoji) stay. A text of nothing but punctuation keeps it.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_FOLD).split()) or " ".join(folded.split())


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
    rows, n_dropped, n_conflicting, keys = _deduplicate(frame)
    notes = _duplicate_notes(n_dropped, n_conflicting)
    _check_classes(rows, notes)
    n_test = _n_test(rows, train, test, test_share)
    codes = np.asarray(pd.factorize(rows["label"], sort=True)[0])
    groups, near_notes = _groups(rows, codes, keys)
    counts = np.bincount(codes)
    quota = _shares(counts, n_test, counts - 1)
    chosen = _draw(codes, groups, quota, np.random.default_rng(seed), exact=test is not None)
    remaining = np.flatnonzero(~np.isin(groups, groups[chosen]))
    if unused := len(rows) - len(remaining) - len(chosen):
        near_notes = (*near_notes, f"{unused:,} rows used nowhere: they belong to groups that gave test rows")
    if train is not None:
        remaining = _subset(remaining, codes, train, len(chosen), np.random.default_rng([seed, 1]))
    rows.index.name = "row"
    return Split(rows.iloc[remaining], rows.iloc[chosen], (*notes, *near_notes))


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
        raise InputError(f"two classes are needed; left{after}: {', '.join(map(repr, counts.index)) or 'none'}")
    single = sorted(counts.index[counts < 2])
    if single:
        raise InputError(
            f"class {', '.join(map(repr, single[:5]))} has one row{after}; it cannot be in train "
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
    """Group number of every row, shape (n_rows,): rows linked by `group` or by a text equal but for digits."""
    given = _links(rows)
    if problem := _one_sided(codes, given, rows):
        raise InputError(problem)
    near = np.asarray(pd.factorize(keys.map(lambda key: _DIGITS.sub("0", key)))[0])
    joined = _join(given, near)
    if _one_sided(codes, joined, rows) or _is_template(codes, near):
        return given, ("many rows of a class differ only in digits; such rows may stand on both sides",)
    return joined, ()


def _is_template(codes: np.ndarray, near: np.ndarray) -> bool:
    """Whether one text, digits aside, makes up more than a tenth of a class (and more than 5 rows)."""
    pairs, counts = np.unique(np.stack([codes, near]), axis=1, return_counts=True)
    return bool((counts > np.maximum(5, np.bincount(codes)[pairs[0]] / 10)).any())


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


def _one_sided(codes: np.ndarray, groups: np.ndarray, rows: pd.DataFrame) -> str | None:
    pairs = np.unique(np.stack([codes, groups]), axis=1)
    per_class = np.bincount(pairs[0])
    if per_class.min() > 1:
        return None
    label = rows["label"].to_numpy()[codes == per_class.argmin()][0]
    return (
        f"class {label!r} has all its rows in one group, so it cannot be in train and in test. "
        "Regroup the rows or leave the group column out"
    )


def _shares(counts: np.ndarray, n: int, most: np.ndarray) -> np.ndarray:
    """Cut `n` by class in proportion to `counts` (largest remainder), between 1 and `most` a class."""
    exact = counts * n / counts.sum()
    shares = np.clip(np.floor(exact).astype(int), 1, most)
    while shares.sum() != n:
        step = 1 if shares.sum() < n else -1
        free = shares < most if step == 1 else shares > 1
        shares[int(np.where(free, (exact - shares) * step, -np.inf).argmax())] += step
    return np.asarray(shares)


class _Draw:
    """Test rows under way: how many each class still needs, and how many of its groups are left for train."""

    def __init__(self, codes: np.ndarray, groups: np.ndarray, quota: np.ndarray, *, exact: bool) -> None:
        order = np.argsort(groups, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
        self.members: list[list[int]] = [m.tolist() for m in members]
        self.codes: list[int] = codes.tolist()
        self.needs = [Counter(self.codes[row] for row in rows) for rows in self.members]
        self.left = Counter(code for need in self.needs for code in need)
        self.quota: list[int] = quota.tolist()
        self.room = list(self.quota)
        self.exact = exact
        self.taken: set[int] = set()
        self.chosen: list[int] = []

    def fits(self, group: int, *, within_quota: bool) -> bool:
        """Whether every class in the group keeps a group for train and, if asked, stays within its quota."""
        needs = self.needs[group].items()
        return all(self.left[c] > 1 and (self.room[c] >= k or not within_quota) for c, k in needs)

    def take(self, group: int) -> None:
        """Put a group's rows among the test rows; with `exact`, only as many as are still needed."""
        self.taken.add(group)
        self.left.subtract(self.needs[group].keys())
        for row in self.members[group]:
            if self.room[self.codes[row]] > 0 or not self.exact:
                self.chosen.append(row)
            self.room[self.codes[row]] -= 1

    def fill(self, code: int, groups: list[int]) -> None:
        """Draw for one class from its groups, in the order given: those that fit, then the smallest if need be."""
        for group in groups:
            if self.room[code] <= 0:
                return
            if group not in self.taken and self.fits(group, within_quota=True):
                self.take(group)
        for group in sorted(groups, key=lambda g: len(self.members[g])):
            if self.room[code] <= 0 or (self.room[code] < self.quota[code] and not self.exact):
                return
            if group not in self.taken and self.fits(group, within_quota=False):
                self.take(group)

    def rows(self) -> np.ndarray:
        """Positions drawn, sorted; `InputError` when a class got none or `exact` was not reached."""
        asked, drawn = sum(self.quota), len(self.chosen)
        if any(room >= quota for room, quota in zip(self.room, self.quota, strict=True)) or (
            self.exact and drawn != asked
        ):
            raise InputError(
                f"{asked:,} test rows cannot be drawn with every class on both sides and groups kept "
                f"whole; {drawn:,} can. Ask for fewer test rows or regroup the rows"
            )
        return np.sort(np.asarray(self.chosen))


def _draw(
    codes: np.ndarray, groups: np.ndarray, quota: np.ndarray, rng: np.random.Generator, *, exact: bool
) -> np.ndarray:
    """Positions of the test rows, sorted: whole groups in random order, for the rarest class first."""
    draw = _Draw(codes, groups, quota, exact=exact)
    of_class: list[list[int]] = [[] for _ in quota]
    for group in rng.random(len(draw.members)).argsort(kind="stable").tolist():
        for code in draw.needs[group]:
            of_class[code].append(group)
    for code in np.argsort(np.bincount(codes), kind="stable").tolist():
        draw.fill(code, of_class[code])
    return draw.rows()


def _subset(rows: np.ndarray, codes: np.ndarray, n: int, n_test: int, rng: np.random.Generator) -> np.ndarray:
    """A stratified random subset of `n` positions, sorted."""
    if n > len(rows):
        raise InputError(
            f"{n:,} train rows were asked for; {len(rows):,} remain beside {n_test:,} test rows "
            "(groups of rows that belong together are never cut)"
        )
    of_class = np.unique(codes[rows], return_inverse=True)[1]
    counts = np.bincount(of_class)
    shares = _shares(counts, n, counts)
    shuffled = rng.random(len(rows)).argsort(kind="stable")
    picked = [shuffled[of_class[shuffled] == c][:share] for c, share in enumerate(shares)]
    return np.asarray(np.sort(rows[np.concatenate(picked)]))
