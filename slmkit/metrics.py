"""Scores of a classifier on held-out rows, each with its 95 % interval, and the paired test between two classifiers.

Accuracy and recalls are proportions and get Wilson's interval (Wilson 1927; unlike a bootstrap it stays wide at 0 and
100 %); the other scores get a percentile bootstrap over rows (Efron & Tibshirani 1993). A resample looks less
calibrated than the rows it came from, so the interval of a small ECE lies high. What is undefined is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

from slmkit.errors import InputError

RESAMPLES = 2000
ECE_BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks"
FPR_LIMIT = 0.01
_CELLS_A_CHUNK = 2_000_000  # resamples x rows held at once: 16 MB, so that scoring stays out of the peak memory

Figures = dict[str, np.ndarray]  # score name -> (B,) values, NaN where undefined


def score(
    y_true: Sequence[str], proba: np.ndarray, classes: Sequence[str], positive: str | None = None, seed: int = 0
) -> dict[str, Any]:
    """Score probabilities against the true labels.

    Parameters
    ----------
    y_true : sequence of str, length n
        A label that is not among `classes` (never seen in training) counts as an error and has a recall of its own.
    proba : ndarray, shape (n, n_classes)
        Columns in the order of `classes`. The prediction is the first of the highest.
    classes : sequence of str
    positive : str or None
        The class to catch (fraud, spam). None leaves `pr_auc` and `recall_at_1pct_fpr` None.
    seed : int
        Of the bootstrap; the same seed gives the same intervals.

    Returns
    -------
    dict
        accuracy, accuracy_low, accuracy_high, macro_f1 (over the classes that occur in labels or predictions), mcc
        (Gorodkin 2004), ece (15 equal-width bins of the top probability, weighted by rows), recall_by_class (class ->
        recall, None for a class without rows), pr_auc (average precision of `positive`), recall_at_1pct_fpr (highest
        recall with at most 1 % false positives on these rows) and intervals (name -> [low, high] at 95 %; a recall is
        named "recall:<class>"; a score that is undefined in most resamples has none). Undefined is None.

    Raises
    ------
    InputError
        No rows, a shape that does not fit, values outside 0..1, or a `positive` that is no class.
    """
    proba = _checked(y_true, proba, classes, positive)
    names = [*classes, *sorted(set(y_true) - set(classes))]
    where = {name: i for i, name in enumerate(names)}
    truth = np.array([where[label] for label in y_true])
    figures = _figures(truth, proba, len(names), where.get(positive) if positive is not None else None)
    n = len(truth)
    point = {name: _none_if_nan(float(values[0])) for name, values in figures(np.ones((1, n))).items()}
    intervals = _bootstrap(figures, n, seed)
    hits = truth == proba.argmax(axis=1)
    low, high = wilson(int(hits.sum()), n)
    recalls: dict[str, float | None] = {}
    for i, name in enumerate(names):
        caught, rows = int(hits[truth == i].sum()), int((truth == i).sum())
        recalls[name] = caught / rows if rows else None
        if rows:
            intervals[f"recall:{name}"] = list(wilson(caught, rows))
    return {
        "accuracy": float(hits.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        **{"pr_auc": None, "recall_at_1pct_fpr": None},
        **point,
        "recall_by_class": recalls,
        "intervals": {"accuracy": [low, high], **intervals},
    }


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for k successes of n (Wilson 1927; Brown, Cai & DasGupta 2001 recommend it).

    Returns
    -------
    tuple of float
        Low and high, within 0..1; for k = 0 the low is exactly 0, for k = n the high exactly 1.
    """
    if not 0 <= k <= n or n == 0:
        raise InputError(f"wilson needs 0 <= k <= n and n > 0; got k={k}, n={n}")
    z = float(norm.ppf(0.5 + level / 2))
    p, spread = k / n, z * z / n
    centre = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(p * (1 - p) / n + spread / (4 * n))
    return (0.0 if k == 0 else max(0.0, centre - half)), (1.0 if k == n else min(1.0, centre + half))


def mcnemar(correct_a: Sequence[bool] | np.ndarray, correct_b: Sequence[bool] | np.ndarray) -> dict[str, float]:
    """Compare two classifiers on the same rows: McNemar's exact test (Dietterich 1998).

    Parameters
    ----------
    correct_a, correct_b : sequence of bool, length n
        Whether each classifier was right on row i, in the same order of rows.

    Returns
    -------
    dict
        p (two-sided binomial on the rows where just one is right; 1 when there are none), n_only_a, n_only_b (rows
        only that one got right), difference (accuracy of a minus accuracy of b) and its 95 % interval low, high:
        Newcombe's paired score interval (Newcombe 1998, method 10), which stays inside -1..1 and has a width even when
        the two never differ.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise InputError(f"mcnemar needs two flat series over the same rows; got shapes {a.shape} and {b.shape}")
    both, only_a, only_b = int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())
    p = binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    low, high = _newcombe_paired(both, only_a, only_b, len(a) - both - only_a - only_b)
    difference = (only_a - only_b) / len(a)
    return {"p": float(p), "n_only_a": only_a, "n_only_b": only_b, "difference": difference, "low": low, "high": high}


def _newcombe_paired(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """Method 10 of Newcombe 1998: two Wilson intervals joined through the correlation phi of the pairs."""
    n = both + only_a + only_b + neither
    rows = [both + only_a, only_b + neither, both + only_b, only_a + neither]
    p_a, p_b = rows[0] / n, rows[2] / n
    low_a, high_a = wilson(rows[0], n)
    low_b, high_b = wilson(rows[2], n)
    cross = both * neither - only_a * only_b
    cross_corrected = max(cross - n / 2, 0) if cross > 0 else cross
    product = math.prod(rows)
    phi = cross_corrected / math.sqrt(product) if product else 0.0
    below, above = (p_a - low_a, high_b - p_b), (high_a - p_a, p_b - low_b)
    widths = [math.sqrt(max(0.0, u * u - 2 * phi * u * v + v * v)) for u, v in (below, above)]
    return p_a - p_b - widths[0], p_a - p_b + widths[1]


def _checked(y_true: Sequence[str], proba: np.ndarray, classes: Sequence[str], positive: str | None) -> np.ndarray:
    proba = np.asarray(proba, dtype=np.float64)
    if proba.shape != (len(y_true), len(classes)) or not len(y_true):
        wanted = f"(rows, classes) = ({len(y_true)}, {len(classes)}) with at least one row"
        raise InputError(f"probabilities must have shape {wanted}; got {proba.shape}")
    wrong = ~((proba >= 0) & (proba <= 1 + 1e-6))  # NaN is neither
    if wrong.any():
        raise InputError(f"probabilities must lie in 0..1; got {proba[wrong][0]:.4g} ({int(wrong.sum())} such values)")
    if positive is not None and positive not in classes:
        raise InputError(f"positive must be one of {', '.join(map(repr, classes))}; got {positive!r}")
    return proba


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _figures(
    truth: np.ndarray, proba: np.ndarray, n_names: int, positive: int | None
) -> Callable[[np.ndarray], Figures]:
    """A function from row weights (B, n) to every bootstrapped score (B,): the point estimate is all weights 1."""
    n = len(truth)
    predicted, top = proba.argmax(axis=1), proba.max(axis=1)
    cells = np.zeros((n, n_names * n_names))
    cells[np.arange(n), truth * n_names + predicted] = 1
    bins = np.clip(np.ceil(top * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)  # bin m holds ((m-1)/15, m/15]
    gaps = np.zeros((n, ECE_BINS))
    gaps[np.arange(n), bins] = (predicted == truth) - top
    ranking = None if positive is None else _ranking(truth == positive, proba[:, positive])

    def figures(weights: np.ndarray) -> Figures:
        confusion = (weights @ cells).reshape(-1, n_names, n_names)  # (B, true, predicted)
        ece = np.abs(weights @ gaps).sum(axis=1) / n
        found = {"macro_f1": _macro_f1(confusion), "mcc": _mcc(confusion), "ece": ece}
        return found if ranking is None else {**found, **ranking(weights)}

    return figures


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below > 0)


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes that occur, from (B, K, K) to (B,); as scikit-learn without `labels`."""
    hits = np.einsum("bkk->bk", confusion)
    f1 = _divide(2 * hits, confusion.sum(axis=1) + confusion.sum(axis=2))
    occurs = ~np.isnan(f1)
    return np.where(occurs, f1, 0).sum(axis=1) / occurs.sum(axis=1)


def _mcc(confusion: np.ndarray) -> np.ndarray:
    """Gorodkin's R_K, from (B, K, K) to (B,); NaN when all labels or all predictions are one class."""
    n, hits = confusion.sum(axis=(1, 2)), np.einsum("bkk->b", confusion)
    true, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    spread = (n**2 - (true**2).sum(axis=1)) * (n**2 - (predicted**2).sum(axis=1))
    return _divide(hits * n - (true * predicted).sum(axis=1), np.sqrt(spread))


def _ranking(is_positive: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], Figures]:
    """A function from row weights (B, n) to average precision and recall at 1 % false positives, rows ranked once.

    Rows with the same score pass a threshold together, so curves are read at the last of each group of ties.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    signs = is_positive[order]

    def figures(weights: np.ndarray) -> Figures:
        ranked = weights[:, order]
        tp = np.cumsum(ranked * signs, axis=1)[:, ends]
        fp = np.cumsum(ranked * ~signs, axis=1)[:, ends]
        positives, negatives = tp[:, -1], fp[:, -1]
        steps = np.diff(tp, axis=1, prepend=0)
        precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
        allowed = fp <= FPR_LIMIT * negatives[:, None] + 1e-9
        caught = np.where(negatives > 0, np.where(allowed, tp, 0).max(axis=1), np.nan)
        return {
            "pr_auc": _divide((steps * precision).sum(axis=1), positives),
            "recall_at_1pct_fpr": _divide(caught, positives),
        }

    return figures


def _bootstrap(figures: Callable[[np.ndarray], Figures], n: int, seed: int) -> dict[str, list[float]]:
    """95 % percentile intervals over `RESAMPLES` draws of n rows; a score undefined in most draws is left out."""
    rng = np.random.default_rng(seed)
    chunk = max(1, min(RESAMPLES, _CELLS_A_CHUNK // n))
    parts = [figures(_draw(rng, min(chunk, RESAMPLES - start), n)) for start in range(0, RESAMPLES, chunk)]
    intervals = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        values = values[~np.isnan(values)]
        if len(values) > RESAMPLES // 2:
            intervals[name] = [float(v) for v in np.percentile(values, [2.5, 97.5])]
    return intervals


def _draw(rng: np.random.Generator, draws: int, n: int) -> np.ndarray:
    """How often each row is drawn: n draws with replacement from n rows, shape (draws, n)."""
    rows = rng.integers(0, n, size=(draws, n)) + np.arange(draws)[:, None] * n
    return np.bincount(rows.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)
