"""Exercises of notebook 40: what four bits weigh in truth, and the loss that few rows cannot rule out."""

from __future__ import annotations

import pandas as pd

from slmkit.workshop.answers import near, number, share
from slmkit.workshop.exercise import Exercise, Hint


def _share_of_bytes(answer: object, cards: list) -> str:
    found = share(answer, "the share of the bytes")
    card = next(card for card in cards if card["bits"] == 4)
    wanted = card["stored_bytes"] / card["bytes_16bit"]
    if near(found, wanted, 0.002):
        return "A little more than a quarter: the scales and the norms are counted too."
    if near(found, 0.25, 0.0005):
        raise Hint("a quarter is what the name promises: divide the bytes that were counted")
    if near(found, 1 - wanted, 0.002):
        raise Hint("that is the share that is saved: the rest is what is still stored")
    eight = next(card for card in cards if card["bits"] == 8)
    if near(found, eight["stored_bytes"] / eight["bytes_16bit"], 0.002):
        raise Hint("that is the folder in 8 bits")
    raise Hint("divide `stored_bytes` of the card with 4 bits by its `bytes_16bit`")


def _worst_loss(answer: object, costs: pd.DataFrame) -> str:
    found, few = number(answer, "the change in points"), costs[costs["bits"] == 4]
    low = few["low"].min()
    if near(found, low, 0.06):
        return f"With {few['n_test'].iloc[0]} rows nobody can promise less than that."
    if near(found, -low, 0.06):
        raise Hint("a loss is below zero here: keep the sign of the table")
    if near(found, few["points"].min(), 0.06):
        raise Hint("that is the change that was seen: the true one may be worse, look at its interval")
    if near(found, few["high"].max(), 0.06):
        raise Hint("that is the best the rows allow: the question is about the worst")
    if near(found, low / 100, 0.0006):
        raise Hint("that is a share: the table counts in points, hundredths")
    raise Hint("take the rows of `costs` with 4 bits, and the lower end of the interval")


EXERCISES = (
    Exercise(
        "40.1",
        "the share of the 16-bit model's bytes that the folder in 4 bits takes",
        _share_of_bytes,
        'cards[1] is the card of the 4 bits: cards[1]["stored_bytes"] is one of its entries',
    ),
    Exercise(
        "40.2",
        "the worst change in points that the rows cannot rule out for 4 bits",
        _worst_loss,
        'costs.loc[costs["bits"] == 4, "low"] has the lower ends; take the smallest',
    ),
)
