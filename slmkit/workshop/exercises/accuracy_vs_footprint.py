"""Exercises of notebook 70: how often overlapping intervals mislead, and what a row costs when two models share it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from slmkit.workshop.answers import near, number, share
from slmkit.workshop.exercise import Exercise, Hint

CALLS = 0.4


def _misled(answer: object, pairs: pd.DataFrame) -> str:
    found = share(answer, "the share of the pairs")
    overlap, differ = pairs["intervals_overlap"], pairs["differ"]
    both = int((overlap & differ).sum())
    if near(found, both / int(overlap.sum()), 0.002):
        return "So often 'the intervals overlap' would have hidden a difference."
    if near(found, both / len(pairs), 0.002):
        raise Hint("divide by the pairs whose intervals overlap, not by all pairs")
    if near(found, both / int(differ.sum()), 0.002):
        raise Hint("that is a share of the pairs that differ: the question begins with those that overlap")
    if near(found, float(differ.mean()), 0.002):
        raise Hint("that counts all pairs that differ: keep those with overlapping intervals first")
    if near(found, float(overlap.mean()), 0.002):
        raise Hint("that is how many overlap: which part of *these* differs?")
    raise Hint("pairs[pairs['intervals_overlap']] are the ones to begin with")


def _shared_cost(answer: object, joules: Sequence[float]) -> str:
    found = number(answer, "the energy of a row")
    small, large = joules
    if near(found, small + CALLS * large, 0.0003):
        return "The small one reads every row, the large one the rest as well."
    if near(found, (1 - CALLS) * small + CALLS * large, 0.0003):
        raise Hint("the small model has read the rows it hands on, too")
    if near(found, CALLS * large, 0.0003):
        raise Hint("the small model costs something as well, if little: it reads every row")
    if near(found, small + large, 0.002):
        raise Hint("the large model is not asked about every row")
    if near(found, 1000 * (small + CALLS * large), 0.002):
        raise Hint("`joules` are of one row: nothing is to be multiplied by 1000")
    raise Hint("joules[0] for every row, joules[1] for four rows in ten")


EXERCISES = (
    Exercise(
        "70.1",
        "the share of the pairs with overlapping intervals that differ row by row",
        _misled,
        "the mean of `differ` over the pairs where `intervals_overlap` is true",
    ),
    Exercise(
        "70.2",
        "the energy of a row, in joules, if the floor hands on 40 % of the rows",
        _shared_cost,
        "joules[0] + 0.4 * ...",
    ),
)
