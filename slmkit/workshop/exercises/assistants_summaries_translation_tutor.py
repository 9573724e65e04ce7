"""Exercises of notebook 80: translations that are no better than the German, and how much four bits shrink a 7B."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from slmkit.workshop.answers import near, number, share
from slmkit.workshop.exercise import Exercise, Hint

LARGE = "Mistral"


def _better_than_german(answer: object, chrf: Sequence[float], of_german: Sequence[float]) -> str:
    found = share(answer, "the share of the sentences")
    model, german = np.asarray(chrf, dtype=float), np.asarray(of_german, dtype=float)
    if near(found, float((model > german).mean()), 0.002):
        return "The others are no nearer to the English than the German that nobody touched."
    if near(found, float((model < german).mean()), 0.002) or near(found, float((model <= german).mean()), 0.002):
        raise Hint("that is the other side: count the sentences where the model is nearer")
    if near(found, float(model.mean()), 0.002):
        raise Hint("that is the mean score: the question counts sentences")
    if near(found, float(model.mean() - german.mean()), 0.002):
        raise Hint("that is the difference of the means: compare sentence by sentence")
    raise Hint("`chrf` and `of_german` hold a number for each sentence, in the same order")


def _times_as_much(answer: object, larger: pd.DataFrame) -> str:
    found = number(answer, "how many times as much")
    rows = larger[larger["model"].str.startswith(LARGE)].set_index("bits")
    peaks, stored = rows["peak_GB"], rows["stored_GB"]
    if near(found, peaks[16] / peaks[4], 0.02):
        if found < 4:
            return "Less than four: scales, the process and what is computed weigh the same in 4 bits."
        return "More than four: this machine computes in 32 bits, to which the weights of 16 are opened for good."
    if near(found, peaks[4] / peaks[16], 0.005):
        raise Hint("that is the share that 4 bits take: the other way round")
    if near(found, stored[16] / stored[4], 0.005):
        raise Hint("that is the size on the disk: the question is about memory, `peak_GB`")
    if near(found, 4, 0.001):
        raise Hint("16 / 4 is what the names promise: divide the two peaks")
    if near(found, peaks[16] - peaks[4], 0.005):
        raise Hint("that is the difference in GB: divide instead")
    raise Hint("divide peak_GB of Mistral at 16 bits by that at 4 bits")


EXERCISES = (
    Exercise(
        "80.1",
        "the share of the sentences where the model is nearer to the English than the German as it is",
        _better_than_german,
        "(chrf > of_german).mean()",
    ),
    Exercise(
        "80.2",
        "how many times as much memory a Mistral takes in 16 bits as in 4, while it writes",
        _times_as_much,
        "larger[larger['model'].str.startswith('Mistral')] are its two rows",
    ),
)
