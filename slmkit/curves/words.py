"""What a learning curve says, in words: from how many labels on a model leads, and what the next ones would bring.

A lead that the test rows cannot tell from none is called so, and what lies beyond the largest size measured is called
an extrapolation; beyond twice that size nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slmkit import text
from slmkit.curves.law import Bound
from slmkit.plots.curve import about, number

Interval = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class Answer:
    """What one curve says.

    Attributes
    ----------
    series, phrase : str
        As the picture and as a sentence call it.
    method : str
    accuracy : tuple of float
        At the largest size, with its 95 % interval; shares, as everywhere here.
    fit : dict of str to tuple, or None
        a, b and c of error(n) = a + b * n^-c with their intervals; None where too few sizes were finished.
    doubling : tuple of float or None
        What twice the largest size would add by the curve, an extrapolation.
    next_point : Bound or None
        Labels for one more point of accuracy than at the largest size, an extrapolation.
    leads : dict of int to tuple
        Lead over the floor as measured at each size; empty for the floor itself.
    crossing : Bound or None
        Labels from which it stays ahead of the floor; None for the floor.
    lead_until : float or None
        Labels up to which an early lead lasted that was then lost.
    """

    series: str
    phrase: str
    method: str
    accuracy: Interval
    fit: dict[str, Interval] | None
    doubling: Interval | None
    next_point: Bound | None
    leads: dict[int, Interval]
    crossing: Bound | None
    lead_until: float | None

    @property
    def overlap(self) -> bool:
        """Whether at every size the interval of the lead holds 0: these rows cannot tell it from the floor."""
        return bool(self.leads) and all(low <= 0 <= high for _, low, high in self.leads.values())


def sentences(answers: Sequence[Answer], levels: Sequence[dict[str, Any]], n_test: str, seeds: int) -> list[str]:
    """The answers in words: the leads first, then prompts, then what more labels would bring.

    Parameters
    ----------
    answers : sequence of Answer
    levels : sequence of dict
        Prompts: phrase, accuracy, low, high, shots, labels (rows they could look at), and passed, the number of labels
        from which the floor is ahead of it (None: at no size measured).
    n_test : str
        Number of test rows, as it is shown.
    seeds : int
    """
    others = [answer for answer in answers if answer.crossing is not None]
    said = [_capital(_lead(answer, n_test, seeds)) for answer in others]
    if not others and any(answer.method != "floor" for answer in answers):
        said.append("The floor did not come out at two sizes or more, so nothing here is compared with it.")
    elif not others and not levels:
        said.append("Only the floor was run, so nothing here shows what a model would bring.")
    said += [_capital(_level(level)) for level in levels]
    said += [_capital(_more(answer)) for answer in answers if answer.next_point is not None]
    if seeds == 1 and said:
        said.append(
            "One seed was run, so how much the choice of rows matters is in no interval here; take three or more."
        )
    return said


def _lead(answer: Answer, n_test: str, seeds: int) -> str:
    """Where it gets ahead of the floor."""
    bound, name = answer.crossing, answer.phrase
    assert bound is not None
    first, last = bound.first, bound.measured
    rows = f"n = {n_test} test rows, {seeds} seed{'s' * (seeds > 1)}"
    at_end = f"its lead at {last:,} labels: {_points(answer.leads[last])[:-1]}; {rows})"
    if answer.overlap:
        told_apart = f"{name} and the floor cannot be told apart at any size from {first:,} to {last:,} labels"
        return f"{told_apart}: the intervals overlap everywhere; {at_end}."
    if bound.labels is not None and bound.labels <= first:
        return f"{name} is ahead of the floor from {first:,} labels on, the fewest measured; {at_end}."
    if not bound.extrapolated:
        return f"{name} is ahead of the floor from {about(bound.labels or 0)} on ({_span(bound)}); {at_end}."
    lost = ""
    if answer.lead_until is not None:
        lost = f"; it is ahead only up to {about(answer.lead_until)}, then the floor is"
        if first in answer.leads and answer.leads[first][1] <= 0:
            lost += f" (and even at {first:,} these rows cannot tell them apart)"
    inside = f"{name} does not stay ahead of the floor within the measured range, {first:,} to {last:,} labels{lost}"
    if bound.labels is None:
        later = f"by the fitted curves not up to {bound.limit:,.0f} either, twice that"
    else:
        later = f"by the fitted curves it would be from {about(bound.labels)} on, an extrapolation ({_span(bound)})"
    return f"{inside}; {later}; {at_end}."


def _level(level: dict[str, Any]) -> str:
    shots = level["shots"]
    shown = f"{shots} example{'s' * (shots != 1)} in it" if shots else "no example in it"
    reached = text.with_interval(level["accuracy"], level["low"], level["high"])
    passed = level["passed"]
    floor = f"the floor is ahead of it from {passed:,} labels on" if passed else "the floor stays behind it"
    return f"{level['phrase']}, {shown} and {level['labels']:,} labelled rows at hand, reaches {reached}; {floor}."


def _more(answer: Answer) -> str:
    """What the next labels would bring, by the curve."""
    bound = answer.next_point
    assert bound is not None and answer.doubling is not None
    now = f"{text.percent(answer.accuracy[0])} at {bound.measured:,} labels"
    doubling = f"doubling them would add {_points(answer.doubling)}"
    if bound.labels is None:
        return (
            f"{answer.phrase}, {now}: one more point of accuracy is not within {bound.limit:,.0f} labels, twice the "
            f"largest size; by the fitted curve {doubling}, an extrapolation."
        )
    takes = f"one more point of accuracy takes {about(bound.labels)} in all by the fitted curve"
    return f"{answer.phrase}, {now}: {takes}, an extrapolation ({_span(bound)}); {doubling}."


def _span(bound: Bound) -> str:
    """The interval of a bound, open ends named."""
    high = f"more than {bound.limit:,.0f}" if bound.high is None else number(bound.high)
    if bound.low is None:
        return f"95 %: {high}"
    low = f"{bound.first:,} or fewer" if bound.low <= bound.first else number(bound.low)
    return f"95 %: {low} to {high}"


def _points(value: Interval) -> str:
    shown, low, high = (100 * v for v in value)
    return f"{shown:+.1f} points ({low:+.1f} to {high:+.1f})"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
