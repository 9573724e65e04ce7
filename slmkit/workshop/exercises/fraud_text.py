"""Exercises of notebook 30: what a classifier is worth beside a rule without one, and what it is worth where fraud is
rare."""

from __future__ import annotations

from typing import Any

import numpy as np

from slmkit import thresholds
from slmkit.workshop.answers import near, number, share
from slmkit.workshop.exercise import Exercise, Hint

RARE = 1 / 500


def _saved(answer: object, half: dict[str, Any]) -> str:
    found, cost = number(answer, "what 1000 messages save"), half["cost_per_1000"]
    rules = half["flag_all_cost_per_1000"], half["flag_none_cost_per_1000"]
    wanted = min(rules) - cost
    if near(found, wanted):
        word = "worth switching on" if wanted > 0 else "not worth switching on, at this threshold and these costs"
        return f"{cost:,.0f} against {min(rules):,.0f}: {word}."
    if near(found, -wanted):
        raise Hint("the rule's cost less the model's, not the other way round: above zero means saved")
    if near(found, max(rules) - cost):
        raise Hint("that is against the dearer of the two rules: nobody would use it")
    if near(found, cost):
        raise Hint("that is what the model costs: compare it with the cheaper rule")
    raise Hint("take the smaller of the two flag_..._cost_per_1000 of `half`, and subtract its cost_per_1000")


def _rare(answer: object, is_fraud: np.ndarray, p_fraud: np.ndarray, aside: np.ndarray, chosen: float) -> str:
    found = share(answer, "the share of fraud among the flagged")
    here, there = ((is_fraud[rows], p_fraud[rows], chosen) for rows in (~aside, aside))
    at = thresholds.at(*here, share=RARE)
    wanted = at["precision"] or 0.0
    if near(found, wanted, max(0.0006, wanted / 50)):
        return f"{1000 * wanted:.0f} in 1000 alarms are fraud, although {at['recall']:.0%} of all fraud is caught."
    if near(found, thresholds.at(*here)["precision"] or 0.0):
        raise Hint("that is with half of the messages fraud, as in these rows: say share=1/500")
    if near(found, at["recall"]):
        raise Hint("that is the share of fraud that is caught; the question is about the alarms")
    if near(found, 1 - wanted, 0.0006):
        raise Hint("that is the share of false ones among the alarms: the rest is asked for")
    other = thresholds.at(*there, share=RARE)["precision"] or 0.0
    if near(found, other, max(0.0006, other / 50)):
        raise Hint("that is on the rows where the threshold was chosen: measure on the others, ~aside")
    raise Hint("thresholds.at(..., chosen, share=1/500) on the rows ~aside has it as `precision`")


EXERCISES = (
    Exercise(
        "30.1",
        "what 1000 messages save at one half, against the cheaper rule without a model",
        _saved,
        'half["flag_all_cost_per_1000"] and half["flag_none_cost_per_1000"] are the two rules',
    ),
    Exercise(
        "30.2",
        "the share of fraud among the flagged messages where one in 500 is fraud",
        _rare,
        'thresholds.at(is_fraud[~aside], p_fraud[~aside], chosen, share=1/500) is a dict: take its "precision"',
    ),
)
