"""Scores against scikit-learn, hand-computed values and published examples; intervals against simulation."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef, recall_score, roc_curve

from slmkit import metrics
from slmkit.errors import InputError

CLASSES = ["negative", "neutral", "positive"]


def random_case(n: int, seed: int = 0, rounding: int | None = None) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.ones(3), n)
    y = [CLASSES[rng.choice(3, p=p)] for p in proba]
    return y, proba if rounding is None else np.round(proba, rounding)


@pytest.mark.parametrize("rounding", [None, 1], ids=["distinct", "tied"])
def test_scores_equal_scikit_learns(rounding: int | None) -> None:
    y, proba = random_case(500, rounding=rounding)
    predicted = [CLASSES[i] for i in proba.argmax(axis=1)]
    found = metrics.score(y, proba, CLASSES, positive="positive")
    assert found["macro_f1"] == pytest.approx(f1_score(y, predicted, average="macro"), abs=1e-12)
    assert found["mcc"] == pytest.approx(matthews_corrcoef(y, predicted), abs=1e-12)
    recalls = recall_score(y, predicted, average=None, labels=CLASSES)
    assert list(found["recall_by_class"].values()) == pytest.approx(list(recalls), abs=1e-12)
    is_positive = np.array(y) == "positive"
    assert found["pr_auc"] == pytest.approx(average_precision_score(is_positive, proba[:, 2]), abs=1e-12)
    fpr, tpr, _ = roc_curve(is_positive, proba[:, 2], drop_intermediate=False)
    assert found["recall_at_1pct_fpr"] == pytest.approx(tpr[fpr <= 0.01].max(), abs=1e-12)


def test_ece_by_hand() -> None:
    # tops .95 .95 .95 .95 (three right) and .55 .55 (one right): 4/6 * |.75 - .95| + 2/6 * |.5 - .55| = .15
    top = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    y = ["a", "a", "a", "b", "a", "b"]
    found = metrics.score(y, np.column_stack([top, 1 - top]), ["a", "b"])
    assert found["ece"] == pytest.approx(4 / 6 * 0.20 + 2 / 6 * 0.05)


def test_a_probability_on_a_bin_edge_belongs_to_the_lower_bin() -> None:
    # .8 = 12/15 closes bin 12 and .81 opens bin 13: apart they give 1/2 * .8 + 1/2 * .19, in one bin |.5 - .805|
    top = np.array([0.8, 0.81])
    found = metrics.score(["b", "a"], np.column_stack([top, 1 - top]), ["a", "b"])
    assert found["ece"] == pytest.approx(0.5 * 0.8 + 0.5 * 0.19)


def test_recall_at_one_percent_counts_false_positives_on_these_rows() -> None:
    # 200 negatives allow two false positives; the third comes before the last positive
    scores = [0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.93] + [0.1] * 197
    y = ["f", "ok", "f", "ok", "f", "ok", "f"] + ["ok"] * 197
    proba = np.column_stack([scores, 1 - np.array(scores)])
    assert metrics.score(y, proba, ["f", "ok"], positive="f")["recall_at_1pct_fpr"] == 0.75


def test_undefined_is_none_and_has_no_interval() -> None:
    proba = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]])
    found = metrics.score(["negative", "negative"], proba, CLASSES, positive="positive")
    assert found["mcc"] is None and found["pr_auc"] is None and found["recall_at_1pct_fpr"] is None
    assert found["recall_by_class"] == {"negative": 1.0, "neutral": None, "positive": None}
    assert found["macro_f1"] == 1.0, "classes that do not occur take no part"
    assert not {"mcc", "pr_auc", "recall_at_1pct_fpr", "recall:neutral"} & set(found["intervals"])


def test_without_a_positive_class_ranking_scores_are_none() -> None:
    y, proba = random_case(50)
    found = metrics.score(y, proba, CLASSES)
    assert found["pr_auc"] is None and found["recall_at_1pct_fpr"] is None and "pr_auc" not in found["intervals"]


def test_a_label_never_trained_on_counts_as_an_error() -> None:
    found = metrics.score(["a", "b", "other"], np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), ["a", "b"])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["recall_by_class"] == {"a": 1.0, "b": 1.0, "other": 0.0}
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_intervals_hold_the_scores_are_seeded_and_quick() -> None:
    y, proba = random_case(2000)
    began = time.process_time()
    found = metrics.score(y, proba, CLASSES, positive="positive", seed=3)
    assert time.process_time() - began < 5.0, "CPU seconds; half a second on the clock when nothing else runs"
    names = {"accuracy", "macro_f1", "mcc", "ece", "pr_auc", "recall_at_1pct_fpr", *(f"recall:{c}" for c in CLASSES)}
    assert set(found["intervals"]) == names
    assert found["intervals"]["accuracy"] == [found["accuracy_low"], found["accuracy_high"]]
    for name in names:
        kind, _, label = name.partition(":")
        value = found["recall_by_class"][label] if label else found[kind]
        low, high = found["intervals"][name]
        assert low < value < high, name
    assert found == metrics.score(y, proba, CLASSES, positive="positive", seed=3)
    assert found["intervals"]["mcc"] != metrics.score(y, proba, CLASSES, seed=4)["intervals"]["mcc"]


def test_bootstrap_width_is_the_spread_of_fresh_samples() -> None:
    fresh = [metrics.score(*random_case(300, seed=s), CLASSES)["macro_f1"] for s in range(60)]
    low, high = metrics.score(*random_case(300, seed=0), CLASSES)["intervals"]["macro_f1"]
    assert (high - low) / (2 * 1.96 * np.std(fresh)) == pytest.approx(1, abs=0.35)


def test_bootstrap_in_chunks_equals_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(100)
    whole = metrics.score(*case, CLASSES, positive="positive")
    monkeypatch.setattr(metrics, "_CELLS_A_CHUNK", 100 * 7)
    assert metrics.score(*case, CLASSES, positive="positive")["intervals"] == whole["intervals"]


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_examples(k: int, n: int, low: float, high: float) -> None:
    """Table I of Newcombe 1998, Statistics in Medicine 17, 857-872, method 3."""
    assert metrics.wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_refuses_no_rows() -> None:
    with pytest.raises(InputError, match="wilson needs 0 <= k <= n and n > 0; got k=0, n=0"):
        metrics.wilson(0, 0)


def pairs(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = [both, only_a, only_b, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(("only_a", "only_b"), [(1, 7), (12, 2), (0, 5), (30, 31), (0, 0)])
def test_mcnemar_p_is_the_two_sided_binomial_tail(only_a: int, only_b: int) -> None:
    n = only_a + only_b
    tail = sum(math.comb(n, i) for i in range(min(only_a, only_b) + 1)) / 2**n
    found = metrics.mcnemar(*pairs(5, only_a, only_b, 5))
    assert found["p"] == pytest.approx(min(1.0, 2 * tail))
    assert (found["n_only_a"], found["n_only_b"]) == (only_a, only_b)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((36, 12, 2, 0), 0.0569, 0.3404), ((1, 1, 7, 12), -0.5069, -0.0256)],
    ids=["Newcombe 1998 table II", "Bentur 2009 in Fagerland 2014: -0.507 to -0.026"],
)
def test_paired_interval_is_newcombes_method_10(counts: tuple[int, ...], low: float, high: float) -> None:
    found = metrics.mcnemar(*pairs(*counts))
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=5e-5)
    assert found["difference"] == pytest.approx((counts[1] - counts[2]) / sum(counts))


def test_mcnemar_is_antisymmetric_and_has_a_width_without_discordant_rows() -> None:
    a, b = pairs(40, 9, 3, 8)
    forth, back = metrics.mcnemar(a, b), metrics.mcnemar(b, a)
    assert forth["p"] == back["p"] and forth["low"] == pytest.approx(-back["high"])
    same = metrics.mcnemar(a, a)
    assert same["p"] == 1.0 and same["low"] < 0 < same["high"]


def test_wrong_input_is_named() -> None:
    y, proba = random_case(4)
    with pytest.raises(InputError, match=r"shape \(rows, classes\) = \(4, 3\) with at least one row; got \(4, 2\)"):
        metrics.score(y, proba[:, :2], CLASSES)
    with pytest.raises(InputError, match="one of 'negative', 'neutral', 'positive'; got 'fraud'"):
        metrics.score(y, proba, CLASSES, positive="fraud")
    with pytest.raises(InputError, match=r"must lie in 0\.\.1; got nan \(12 such values\)"):
        metrics.score(y, proba * np.nan, CLASSES)
    with pytest.raises(InputError, match="same rows; got shapes"):
        metrics.mcnemar([True], [True, False])
