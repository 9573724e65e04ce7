"""A cascade counts the right rows, chooses no threshold on the rows it is measured on, and its picture shows that."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import slmkit_data
from sample_runs import HOSTILE

import slmkit
from slmkit import cascade, plots
from slmkit.errors import InputError
from slmkit.runs import probability_frame, read_probabilities


def answers(confidence: list[float], right: list[bool]) -> pd.DataFrame:
    """Rows of class "a", of which the model says "a" where it is right and "b" where not."""
    sure = np.array(confidence)
    proba = np.where(np.array(right)[:, None], np.c_[sure, 1 - sure], np.c_[1 - sure, sure])
    return probability_frame(np.arange(len(right)), ["a"] * len(right), proba, ["a", "b"])


def two(n: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A small model that is right as often as it is sure, and a large one that is right in nine of ten rows."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.5, 1, n)
    small = answers(sure.tolist(), (rng.uniform(size=n) < sure).tolist())
    return small, answers([0.9] * n, (rng.uniform(size=n) < 0.9).tolist())


def test_the_curve_sends_the_least_sure_rows_first() -> None:
    small = answers([0.9, 0.6, 0.8, 0.7], [True, False, True, False])
    large = answers([0.9] * 4, [True, True, False, True])
    found = cascade.curve(small, large.sample(frac=1, random_state=1))  # joined by the row, not by the place
    assert found["n_calls"].tolist() == [0, 1, 2, 3, 4]
    assert found["accuracy"].tolist() == [0.5, 0.75, 1.0, 0.75, 0.75]
    assert found["threshold"].tolist() == pytest.approx([0, 0.65, 0.75, 0.85, cascade.ALL])
    assert found["at_random"].tolist() == pytest.approx([0.5, 0.5625, 0.625, 0.6875, 0.75])
    assert ((found["low"] < found["accuracy"]) & (found["accuracy"] <= found["high"])).all()


def test_rows_as_sure_as_each_other_go_together() -> None:
    found = cascade.curve(answers([0.6, 0.6, 0.9], [True, False, True]), answers([0.9] * 3, [True] * 3))
    assert found["n_calls"].tolist() == [0, 2, 3]


def test_a_budget_is_kept_and_a_goal_is_reached_on_rows_that_were_not_chosen_on() -> None:
    small, large = two(4000)
    some = cascade.routed(small, large, calls=0.25)
    assert some.calls[0] == pytest.approx(0.25, abs=0.02) and some.n_calls == round(some.calls[0] * some.n)
    assert some.small[0] < some.accuracy[0] and some.at_random < some.accuracy[0] - 0.03
    assert some.against_small["p"] < 0.001
    goal = cascade.routed(small, large, lose=0.02)
    assert goal.accuracy[0] >= goal.large[0] - 0.035 and 0.1 < goal.calls[0] < 0.6
    assert max(some.fold_thresholds) - min(some.fold_thresholds) < 0.05


def test_the_threshold_is_not_chosen_on_the_rows_it_is_measured_on() -> None:
    """Where confidence says nothing, the best of all thresholds looks good on its own rows; other rows show none."""
    gains, honest = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        small, large = (answers(rng.uniform(0.5, 1, 60).tolist(), (rng.uniform(size=60) < 0.7).tolist()) for _ in "ab")
        every = cascade.curve(small, large)
        found = cascade.routed(small, large, lose=0.0, seed=seed)
        gains.append((every["accuracy"] - every["at_random"]).max())
        honest.append(found.accuracy[0] - found.at_random)
    assert np.mean(gains) > 0.03 > abs(np.mean(honest))


def test_all_or_nothing() -> None:
    small, large = two(100)
    none, every = cascade.routed(small, large, calls=0.0), cascade.routed(small, large, calls=1.0)
    assert (none.n_calls, none.accuracy) == (0, none.small) and none.threshold == 0
    assert (every.n_calls, every.accuracy) == (100, every.large) and every.threshold == cascade.ALL
    assert none.cost(1.0, 10.0) == 1.0 and every.cost(1.0, 10.0) == 11.0


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "give either calls or lose; got calls None and lose None"),
        ({"calls": 0.2, "lose": 0.1}, "give either calls or lose; got calls 0.2 and lose 0.1"),
        ({"calls": 20}, r"calls must be a share, 0 .. 1; got 20"),
        ({"lose": -0.1, "folds": 1}, r"lose must be a share, 0 .. 1; got -0.1; folds must lie between 2 and the 10"),
    ],
)
def test_what_cannot_be_asked_is_named(how: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cascade.routed(*two(10), **how)


def test_frames_that_do_not_fit_are_refused() -> None:
    small, large = two(10)
    with pytest.raises(InputError, match="the same rows with the same labels; got 10 and 9 rows, 9 in both"):
        cascade.curve(small, large.iloc[:9])
    with pytest.raises(InputError, match="the same rows"):
        cascade.curve(small, large.assign(label="b"))
    with pytest.raises(InputError, match=r"large must have rows and .*; it lacks \['label', 'p_<class>'\]"):
        cascade.curve(small, large[["row", "predicted"]])


def test_recorded_runs_gain_from_a_few_calls() -> None:
    """The floor with SmolLM2 behind it, from the probabilities that slmkit ships."""
    shipped = slmkit_data.path("runs")
    runs = {(r.method, r.model, r.bits): r for r in slmkit.read_runs(shipped) if r.task == "financial_phrasebank"}
    small = read_probabilities(runs["floor", None, None], shipped)
    large = read_probabilities(runs["lora", "smollm2-135m-instruct", 4], shipped)
    found = cascade.routed(small, large, calls=0.4)
    assert (found.n, found.small[0], found.large[0]) == (452, pytest.approx(0.909, abs=1e-3), pytest.approx(440 / 452))
    assert found.accuracy[0] > 0.96 and found.against_large["p"] > 0.05 > found.against_small["p"]
    said = "\n".join(found.lines())
    assert "n = 452" in said and "choosing the rows brings +3.4 points" in said and "not significant" not in said


def test_the_picture_shows_percent_the_chance_line_and_both_ends() -> None:
    figure = plots.cascade_curve(cascade.curve(*two(50)), "floor", HOSTILE)
    band, chance, line, ends = figure.data
    assert figure.layout.xaxis.title.text.endswith("(%)") and figure.layout.yaxis.title.text == "Accuracy (%)"
    assert (chance.x[0], chance.x[-1], line.x[-1]) == (0, 100, 100)
    assert chance.y[0] == line.y[0] and chance.y[-1] == pytest.approx(line.y[-1])
    assert max(band.y) <= 100 and "n = 50" in figure.layout.title.subtitle.text
    assert ends.text[0] == "floor alone" and "<img" not in ends.text[1]
    with pytest.raises(InputError, match="the curve of a cascade must have rows"):
        plots.cascade_curve(pd.DataFrame({"calls": []}))
