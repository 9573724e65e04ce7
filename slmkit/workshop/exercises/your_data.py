"""Exercises of notebook 10: what a leak adds to a score, and the score that costs nothing."""

from __future__ import annotations

from slmkit.splits import Split
from slmkit.workshop.answers import near, number, share
from slmkit.workshop.exercise import Exercise, Hint


def _too_good(answer: object, random: float, guarded: float) -> str:
    found, points = number(answer, "how many points too good the score is"), 100 * (random - guarded)
    if near(found, points, 0.06):
        return "Points that the copies give, and that new messages will not."
    if near(found, -points, 0.06):
        raise Hint("the sign is turned round: how much better does the random split look?")
    if near(found, points / 100, 0.0006):
        raise Hint("that is a share: a point is a hundredth, so multiply by 100")
    if near(found, 100 * random / guarded - 100, 0.06):
        raise Hint("that is how many percent it is better: points are the difference of the two accuracies")
    raise Hint("take the mean of the random splits less the mean of those without leaks")


def _majority(answer: object, split: Split) -> str:
    found = share(answer, "the accuracy of always saying the most frequent class")
    most = split.train["label"].mode()[0]
    learned, wanted = ((part["label"] == most).mean() for part in (split.train, split.test))
    if near(found, wanted):
        return f"Always {most!r} is right so often. A score means something only above it."
    if near(found, learned):
        raise Hint("that is its share among the train rows: a score is counted on the test rows")
    if near(found, 1 - wanted):
        raise Hint("that is the accuracy of always saying another class")
    if near(found, 1 / split.train["label"].nunique()):
        raise Hint("that is what a guess by dice gets; always naming the most frequent class gets more")
    raise Hint("find the most frequent label of split.train, then its share among the labels of split.test")


EXERCISES = (
    Exercise(
        "10.1",
        "how many points of accuracy the random splits are too good by",
        _too_good,
        "random_mean and guarded_mean hold the two means",
    ),
    Exercise(
        "10.2",
        "the accuracy on split.test of always saying the most frequent class of split.train",
        _majority,
        'split.train["label"].mode()[0] is that class; a comparison with split.test["label"] has a mean',
    ),
)
