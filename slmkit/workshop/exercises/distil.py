"""Exercises of notebook 60: which student owes most to its teacher, and what a pool with the test texts in it adds."""

from __future__ import annotations

from slmkit.workshop.answers import choice, near, number
from slmkit.workshop.exercise import Exercise, Hint

ALPHA = 0.05


def _owes_most(answer: object, students: dict) -> str:
    found = choice(answer, [*students, "none"], "the student")
    figures = {name: made.figures for name, made in students.items()}
    won = {name: f["gain"] for name, f in figures.items() if f["gain"] > 0 and f["p_vs_labels"] < ALPHA}
    wanted = max(won, key=lambda name: won[name]) if won else "none"
    if found == wanted:
        return "Its gain over labels alone is the largest that luck does not explain."
    if found == "none":
        raise Hint("there is one whose gain has a p below 0.05")
    if not figures[found]["gain"] > 0:
        raise Hint("that one did not gain by its teacher: `gain` is not above zero")
    if found not in won:
        raise Hint("its gain may be luck: p is not below 0.05, and the interval holds zero")
    raise Hint("another one gained more: compare `gain`, not the accuracy")


def _flattered(answer: object, right: dict) -> str:
    found = number(answer, "the difference in points")
    guarded, leaking = (100 * float(right[name].mean()) for name in ("guarded", "leaking, with labels"))
    if near(found, leaking - guarded, 0.06):
        return "Points that say nothing of a new ticket."
    if near(found, guarded - leaking, 0.06):
        raise Hint("look at the sign: how much *higher* is the score that leaks?")
    if near(found, (leaking - guarded) / 100, 0.0006):
        raise Hint("that is a share: points are hundredths, multiply by 100")
    if near(found, 100 * float(right["leaking, texts alone"].mean()) - guarded, 0.06):
        raise Hint("that is the pool with the texts alone: the question is about the one with labels")
    if near(found, leaking, 0.06) or near(found, guarded, 0.06):
        raise Hint("that is one of the two scores: take their difference")
    raise Hint("the means of `right` for 'leaking, with labels' and 'guarded', times 100")


EXERCISES = (
    Exercise(
        "60.1",
        "the student that gained most by its teacher, beyond luck",
        _owes_most,
        "students[NAME].figures has 'gain' and 'p_vs_labels'; if no p is below 0.05 the answer is 'none'",
    ),
    Exercise(
        "60.2",
        "the points that a pool with the labelled test rows in it adds to the score",
        _flattered,
        "100 * (right['leaking, with labels'].mean() - ...)",
    ),
)
