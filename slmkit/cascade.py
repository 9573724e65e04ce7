"""A small model answers, and a larger one is called where the small one is unsure: what it scores, how often it calls.

Everything is computed from per-example probabilities of the same rows, so no model is loaded. A row is sent on when the
small model's highest probability lies below a threshold (Chow 1970; as FrugalGPT does between models, Chen et al. 2023,
arXiv 2305.05176). A threshold chosen on the rows it is measured on looks too good: `routed` chooses it on other rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from slmkit import metrics, text
from slmkit.errors import InputError

ALL = 1.01  # above every probability: each row is sent on


@dataclass(frozen=True)
class Rows:
    """Two models on the same rows, all arrays of shape (n,), least sure row of the small model first.

    Attributes
    ----------
    confidence : ndarray of float
        The small model's highest probability.
    small, large : ndarray of bool
        Whether each was right.
    """

    confidence: np.ndarray
    small: np.ndarray
    large: np.ndarray


@dataclass(frozen=True)
class Cascade:
    """A cascade measured on rows that its thresholds were not chosen on.

    Attributes
    ----------
    threshold : float
        The one to use, chosen on all rows; `ALL` sends every row on.
    fold_thresholds : tuple of float
        Those it was measured with. Far apart, they say that the rows are too few to choose one.
    n, n_calls : int
        Rows, and those sent on.
    accuracy, calls, small, large : list of float
        [value, low, high] at 95 % (Wilson): right answers of the cascade, rows sent on, right answers of each model.
    at_random : float
        Accuracy to expect if as many rows were sent on blindly.
    against_small, against_large : dict
        `metrics.mcnemar` of the cascade minus that model, on the same rows.
    """

    threshold: float
    fold_thresholds: tuple[float, ...]
    n: int
    n_calls: int
    accuracy: list[float]
    calls: list[float]
    small: list[float]
    large: list[float]
    at_random: float
    against_small: dict[str, float]
    against_large: dict[str, float]

    def cost(self, of_small: float, of_large: float) -> float:
        """Mean cost of a row in the unit of both: the small model's for each row, the large one's for those sent on."""
        return of_small + self.n_calls / self.n * of_large

    def lines(self) -> list[str]:
        """What came out, in words."""
        low, high = min(self.fold_thresholds), max(self.fold_thresholds)
        gain = 100 * (self.accuracy[0] - self.at_random)
        return [
            f"the small model alone: {text.with_interval(*self.small)}, n = {self.n:,}",
            f"the large model alone: {text.with_interval(*self.large)}",
            f"together: {text.with_interval(*self.accuracy)}, calling the large one for "
            f"{text.with_interval(*self.calls)} of the rows",
            f"against the small model: {_paired(self.against_small)}",
            f"against the large model: {_paired(self.against_large)}",
            f"as many calls at random would give {text.percent(self.at_random)}: choosing the rows brings {gain:+.1f} "
            "points",
            f"thresholds between {low:.3f} and {high:.3f}, each measured on rows it was not chosen on",
        ]


def paired(small: pd.DataFrame, large: pd.DataFrame) -> Rows:
    """Join the answers of two models by their rows.

    Parameters
    ----------
    small, large : DataFrame
        As `runs.read_probabilities` gives them: row, label, predicted and p_<class> columns, of the same rows.

    Raises
    ------
    InputError
        Columns that are missing, rows or labels that differ, no rows.
    """
    known = [_checked(frame, name) for frame, name in ((small, "small"), (large, "large"))]
    a, b = (frame.set_index("row").sort_index() for frame in known)
    if not a.index.equals(b.index) or (a["label"] != b["label"]).any():
        raise InputError(
            f"small and large must hold the same rows with the same labels; got {len(a)} and {len(b)} rows, "
            f"{len(a.index.intersection(b.index))} in both"
        )
    confidence = a[[name for name in a if str(name).startswith("p_")]].to_numpy(dtype=float).max(axis=1)
    order = np.argsort(confidence, kind="stable")
    hits = [(frame["predicted"] == frame["label"]).to_numpy()[order] for frame in (a, b)]
    return Rows(confidence[order], *hits)


def curve(small: pd.DataFrame, large: pd.DataFrame) -> pd.DataFrame:
    """Every threshold that sends on different rows, with what it does to these rows.

    Parameters
    ----------
    small, large : DataFrame
        As `paired` takes them.

    Returns
    -------
    DataFrame
        Rising `threshold`, from 0 (the small model alone) to `ALL` (the large one alone); `n_calls`, `calls` (their
        share), `accuracy` with `low` and `high` (95 %, Wilson, of each threshold by itself), `at_random` (accuracy to
        expect if as many rows were sent on blindly), `n`. To read a threshold off it is to choose it on these rows.
    """
    rows = paired(small, large)
    n = len(rows.confidence)
    thresholds, n_calls = _cuts(rows.confidence)
    right = _right(rows)[n_calls]
    spans = [metrics.wilson(int(k), n) for k in right]
    calls = n_calls / n
    return pd.DataFrame(
        {
            "threshold": thresholds,
            "n_calls": n_calls,
            "calls": calls,
            "accuracy": right / n,
            "low": [low for low, _ in spans],
            "high": [high for _, high in spans],
            "at_random": (1 - calls) * rows.small.mean() + calls * rows.large.mean(),
            "n": n,
        }
    )


def routed(
    small: pd.DataFrame,
    large: pd.DataFrame,
    *,
    calls: float | None = None,
    lose: float | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Cascade:
    """Measure a cascade without choosing its threshold on the rows it is measured on.

    The rows are dealt into folds; of each, the rows are sent on by a threshold that was chosen on the other folds.

    Parameters
    ----------
    small, large : DataFrame
        As `paired` takes them.
    calls : float or None
        Choose the highest threshold that sends on at most this share of the rows. Needs no labels.
    lose : float or None
        Choose the lowest threshold whose accuracy is at most this share below the large model's (0.01: one point). One
        of the two must be given.
    folds : int
    seed : int
        Deals the rows.
    """
    wrong = []
    if (calls is None) == (lose is None):
        wrong.append(f"give either calls or lose; got calls {calls!r} and lose {lose!r}")
    wrong += [
        f"{name} must be a share, 0 .. 1; got {value!r}"
        for name, value in (("calls", calls), ("lose", lose))
        if value is not None and not 0 <= value <= 1
    ]
    rows = paired(small, large)
    n = len(rows.confidence)
    if not 2 <= folds <= n:
        wrong.append(f"folds must lie between 2 and the {n} rows; got {folds!r}")
    if wrong:
        raise InputError("; ".join(wrong))
    home = np.random.default_rng(seed).permutation(n) % folds
    chosen = tuple(_chosen(_part(rows, home != fold), calls, lose) for fold in range(folds))
    sent = rows.confidence < np.array(chosen)[home]
    right = np.where(sent, rows.large, rows.small)
    share = float(sent.mean())
    return Cascade(
        threshold=_chosen(rows, calls, lose),
        fold_thresholds=chosen,
        n=n,
        n_calls=int(sent.sum()),
        accuracy=_share(right),
        calls=_share(sent),
        small=_share(rows.small),
        large=_share(rows.large),
        at_random=float((1 - share) * rows.small.mean() + share * rows.large.mean()),
        against_small=metrics.mcnemar(right, rows.small),
        against_large=metrics.mcnemar(right, rows.large),
    )


def _checked(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    missing = [column for column in ("row", "label", "predicted") if column not in frame]
    if not any(str(column).startswith("p_") for column in frame):
        missing.append("p_<class>")
    if missing or frame.empty:
        raise InputError(f"{name} must have rows and per-example probabilities; it lacks {missing or 'rows'}")
    return frame


def _cuts(confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds between neighbouring confidences (sorted), from 0 to `ALL`, and how many rows lie below each."""
    steps = np.flatnonzero(np.diff(confidence) > 0) + 1
    between = (confidence[steps - 1] + confidence[steps]) / 2
    return np.array([0.0, *between, ALL]), np.array([0, *steps, len(confidence)])


def _right(rows: Rows) -> np.ndarray:
    """Right answers when the k least sure rows are sent on, for k = 0 .. n."""
    gained = np.concatenate([[0], np.cumsum(rows.large.astype(int) - rows.small.astype(int))])
    return np.asarray(rows.small.sum() + gained)


def _chosen(rows: Rows, calls: float | None, lose: float | None) -> float:
    thresholds, n_calls = _cuts(rows.confidence)
    n = len(rows.confidence)
    if calls is not None:
        return float(thresholds[n_calls <= calls * n + 1e-9].max())
    enough = _right(rows)[n_calls] >= rows.large.sum() - (lose or 0.0) * n - 1e-9
    return float(thresholds[enough].min())


def _part(rows: Rows, keep: np.ndarray) -> Rows:
    return Rows(rows.confidence[keep], rows.small[keep], rows.large[keep])


def _share(hits: np.ndarray | Sequence[bool]) -> list[float]:
    k, n = int(np.sum(hits)), len(hits)
    return [k / n, *metrics.wilson(k, n)]


def _paired(found: dict[str, Any]) -> str:
    points, low, high = (100 * found[name] for name in ("difference", "low", "high"))
    return f"{points:+.1f} points ({low:+.1f} to {high:+.1f}), {text.p_value(found['p'])}"
