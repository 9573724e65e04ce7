"""Exercises of notebook 20: what examples in the prompt mended, and how far the model's sureness can be believed."""

from __future__ import annotations

import pandas as pd

from slmkit.runs import Run
from slmkit.workshop.answers import near, number, whole
from slmkit.workshop.exercise import Exercise, Hint


def _mended(answer: object, moved: pd.DataFrame) -> str:
    after, before = (int((moved[name] == moved["label"]).sum()) for name in ("few-shot", "zero-shot"))
    found = whole(answer, "the number of sentences")
    if found == after - before:
        return f"{after} answers became right, {before} stopped being right: of {len(moved)} that changed."
    if found == before - after:
        raise Hint("mended less spoiled, not the other way round: above zero means that the examples helped")
    if found == after:
        raise Hint("that many became right; take off those that were right before and are no more")
    if found == before:
        raise Hint("that many were right before the examples came: subtract them from those that became right")
    if found == len(moved):
        raise Hint("so many answers changed; the question is how many more of them are right now")
    raise Hint('in `moved`, compare the columns "few-shot" and "zero-shot" with "label", and count')


def _too_sure(answer: object, sure: pd.DataFrame, best: Run) -> str:
    found = number(answer, "the difference in points")
    stated = float(sure.filter(like="p_").max(axis=1).mean())
    wanted = 100 * (stated - best.accuracy)
    if near(found, wanted, 0.06 / max(1.0, abs(wanted))):
        word = "promises more than it holds" if wanted > 0 else "is better than it says"
        return f"It says {100 * stated:.0f} % on average and is right in {100 * best.accuracy:.0f} %: it {word}."
    if near(found, -wanted, 0.06 / max(1.0, abs(wanted))):
        raise Hint("the promise less what is held: above zero means too sure")
    if near(found, wanted / 100, 0.0006):
        raise Hint("that is a share: in points it is a hundred times as much")
    if near(found, 100 * stated, 0.001):
        raise Hint("that is what it promises on average: now take off how often it is right")
    raise Hint("take the highest probability of each row, their mean, and subtract best.accuracy, all in percent")


EXERCISES = (
    Exercise(
        "20.1",
        "how many more sentences are right with examples than without, among those whose answer changed",
        _mended,
        '(moved["few-shot"] == moved["label"]).sum() counts those that are right with examples',
    ),
    Exercise(
        "20.2",
        "by how many points the best model promises more than it holds",
        _too_sure,
        'sure.filter(like="p_").max(axis=1) is how sure it is of its answer, row by row',
    ),
)
