"""Thresholds: every one decides as its row says, shares and costs by hand, the choice on tied and rare rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmkit import thresholds
from slmkit.errors import InputError

Y = [True, True, True, False, False, False, False, False]
P = [0.9, 0.6, 0.3, 0.7, 0.3, 0.2, 0.1, 0.1]


def test_a_curve_counts_by_hand() -> None:
    points = thresholds.curve(Y, P, miss_cost=10, false_alarm_cost=2).set_index("threshold")
    assert list(points.index) == [0.0, 0.2, 0.3, 0.6, 0.7, 0.9, thresholds.NOTHING]
    row = points.loc[0.3]
    assert [row[n] for n in ("caught", "missed", "false_alarms", "let_through")] == [3, 0, 2, 3]
    assert (row["recall"], row["false_alarm_share"], row["precision"]) == (1, 2 / 5, 3 / 5)
    assert row["cost_per_1000"] == pytest.approx(1000 * 2 * 2 / 8)
    assert points.loc[0.7, "cost_per_1000"] == pytest.approx(1000 * (2 * 10 + 1 * 2) / 8)
    assert np.isnan(points.loc[thresholds.NOTHING, "precision"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0, 1e-9, 0.1, 0.5, 0.50001, 1 / 3, 1])), min_size=2))
def test_every_threshold_of_a_curve_flags_what_its_row_says(rows: list[tuple[bool, float]]) -> None:
    y, p = np.array([a for a, _ in rows]), np.array([b for _, b in rows])
    if y.all() or not y.any():
        return
    points = thresholds.curve(y, p)
    assert points["threshold"].is_monotonic_increasing and points["threshold"].is_unique
    for row in points.itertuples():
        assert row.threshold <= row.up_to and ((p >= row.threshold) == (p >= row.up_to)).all()
        flagged = p >= row.threshold
        assert (row.caught, row.false_alarms) == ((flagged & y).sum(), (flagged & ~y).sum())
        assert (row.missed, row.let_through) == ((~flagged & y).sum(), (~flagged & ~y).sum())


def test_the_share_in_practice_moves_precision_and_cost_but_not_recall() -> None:
    rare = thresholds.at(Y, P, 0.3, miss_cost=10, false_alarm_cost=1, share=0.01)
    assert (rare["recall"], rare["false_alarm_share"]) == (1.0, 0.4)
    assert rare["precision"] == pytest.approx(0.01 / (0.01 + 0.99 * 0.4))
    assert rare["cost_per_1000"] == pytest.approx(1000 * 0.99 * 0.4)
    assert rare["flag_none_cost_per_1000"] == pytest.approx(100) and "precision" not in rare["intervals"]
    assert thresholds.at(Y, P, 0.3)["intervals"]["precision"][0] < 0.6


def test_a_curve_says_what_each_of_its_thresholds_does_by_itself() -> None:
    settings = {"miss_cost": 7, "false_alarm_cost": 3, "share": 0.1}
    for row in thresholds.curve(Y, P, **settings).to_dict("records"):
        alone = thresholds.at(Y, P, row["threshold"], **settings)
        assert alone["cost_per_1000"] == pytest.approx(row["cost_per_1000"])
        assert alone["precision"] is None or alone["precision"] == pytest.approx(row["precision"])


def test_the_cheapest_follows_the_costs_and_takes_the_highest_of_equals() -> None:
    dear_miss = thresholds.curve(Y, P, miss_cost=100)
    dear_alarm = thresholds.curve(Y, P, false_alarm_cost=100)
    assert (thresholds.cheapest(dear_miss), thresholds.cheapest(dear_alarm)) == (0.3, 0.9)
    assert thresholds.cheapest(thresholds.curve(Y, P, miss_cost=0, false_alarm_cost=0)) == thresholds.NOTHING


def test_within_a_budget_the_most_is_caught() -> None:
    points = thresholds.curve(Y, P)
    found = [thresholds.within_budget(points, budget) for budget in (0, 0.19, 0.2, 0.4, 1)]
    assert found == [0.9, 0.9, 0.6, 0.3, 0.3]


def test_rows_set_aside_are_seeded_and_of_every_class() -> None:
    labels = ["a"] * 10 + ["b"] * 30
    aside = thresholds.set_aside(labels, 0.5)
    assert (aside[:10].sum(), aside[10:].sum()) == (5, 15)
    assert (aside == thresholds.set_aside(labels, 0.5)).all() and (aside != thresholds.set_aside(labels, 0.5, 1)).any()


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InputError) as refused:
        thresholds.curve([True, True], [0.5, float("nan")], miss_cost=-1, share=1)
    for part in ("2 positives among 2 rows", "1 do not", "miss_cost must be a number from 0; got -1", "got 1"):
        assert part in str(refused.value)
    with pytest.raises(InputError, match="flat series of one length"):
        thresholds.curve([True, False], [0.5])
    with pytest.raises(InputError, match="budget must be a share"):
        thresholds.within_budget(thresholds.curve(Y, P), 2)


def test_budgets_are_measured_on_rows_that_chose_nothing() -> None:
    rng = np.random.default_rng(3)
    y = rng.random(400) < 0.4
    p = np.clip(0.5 + 0.25 * y + rng.normal(0, 0.2, 400), 0, 1)
    aside = thresholds.set_aside(np.where(y, "yes", "no"), 0.5)
    found = thresholds.over_budgets(y, p, aside, [0.02, 0.2]).set_index("budget")
    for budget, row in found.iterrows():
        there = thresholds.at(y[aside], p[aside], row["threshold"])
        assert there["false_alarm_share"] <= budget
        here = thresholds.at(y[~aside], p[~aside], row["threshold"])
        assert row["n"] == 200 and row["recall"] == here["recall"]
        assert [row["false_alarm_share_low"], row["false_alarm_share_high"]] == here["intervals"]["false_alarm_share"]
    assert found["recall"].is_monotonic_increasing and found.loc[0.02, "threshold"] > found.loc[0.2, "threshold"]
