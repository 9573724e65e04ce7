"""Draws test rows in whole groups: stratified by class, seeded, every class with rows on both sides."""

from __future__ import annotations

from collections import Counter

import numpy as np

from slmkit.errors import InputError


def shares(counts: np.ndarray, n: int, most: np.ndarray) -> np.ndarray:
    """Cut `n` by class in proportion to `counts` (largest remainder), between 1 and `most` a class."""
    exact = counts * n / counts.sum()
    quota = np.clip(np.floor(exact).astype(int), 1, most)
    while quota.sum() != n:
        step = 1 if quota.sum() < n else -1
        free = quota < most if step == 1 else quota > 1
        quota[int(np.where(free, (exact - quota) * step, -np.inf).argmax())] += step
    return np.asarray(quota)


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
                f"{asked:,} test rows cannot be drawn with every class on both sides and groups and near-duplicates "
                f"kept whole; {drawn:,} can. Ask for fewer test rows or regroup the rows"
            )
        return np.sort(np.asarray(self.chosen))


def draw(
    codes: np.ndarray, groups: np.ndarray, quota: np.ndarray, rng: np.random.Generator, *, exact: bool
) -> np.ndarray:
    """Positions of the test rows, sorted: whole groups in random order, for the rarest class first."""
    under_way = _Draw(codes, groups, quota, exact=exact)
    of_class: list[list[int]] = [[] for _ in quota]
    for group in rng.random(len(under_way.members)).argsort(kind="stable").tolist():
        for code in under_way.needs[group]:
            of_class[code].append(group)
    for code in np.argsort(np.bincount(codes), kind="stable").tolist():
        under_way.fill(code, of_class[code])
    return under_way.rows()


def subset(rows: np.ndarray, codes: np.ndarray, n: int, n_test: int, rng: np.random.Generator) -> np.ndarray:
    """A stratified random subset of `n` positions, sorted."""
    if n > len(rows):
        raise InputError(
            f"{n:,} train rows were asked for; {len(rows):,} remain beside {n_test:,} test rows "
            "(groups of rows that belong together are never cut)"
        )
    of_class = np.unique(codes[rows], return_inverse=True)[1]
    counts = np.bincount(of_class)
    quota = shares(counts, n, counts)
    shuffled = rng.random(len(rows)).argsort(kind="stable")
    picked = [shuffled[of_class[shuffled] == c][:share] for c, share in enumerate(quota)]
    return np.asarray(np.sort(rows[np.concatenate(picked)]))
