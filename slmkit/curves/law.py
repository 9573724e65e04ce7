"""Learning curves: an inverse power law through errors at several numbers of labels, and what can be read off it.

error(n) = a + b * n^-c, as found for many tasks and models (Cortes et al. 1993, "Learning curves: asymptotic values and
rate of convergence"; Hestness et al. 2017, arXiv:1712.00409); no law holds for every learner, and some curves rise
again (Viering & Loog 2022, "The shape of learning curves: a review", arXiv:2103.10948), so nothing is read off beyond
twice the largest size measured. For a given exponent the law is linear in a and b: every exponent of a grid is solved
exactly with a, b >= 0 and the best is taken (separable least squares, Golub & Pereyra 1973), which cannot get stuck.

Uncertainty is a bootstrap over seeds and, within each, over test rows (Efron & Tibshirani 1993). All curves share its
draws, so that differences between them are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slmkit.errors import InputError

EXPONENTS = np.geomspace(0.05, 2.0, 80)
RESAMPLES = 1000
BEYOND = 2.0  # times the largest size measured: farther nothing is said
POINT = 0.01  # one point of accuracy
GRID = 200
_WHOLE_FIT = 3  # sizes from which the error that stays, a, can be told from the rest


@dataclass(frozen=True)
class Fit:
    """Power laws, one for each resample.

    Attributes
    ----------
    a, b, c : ndarray, shape (B,)
        Error that stays, scale, and exponent.
    """

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray

    def error(self, labels: np.ndarray) -> np.ndarray:
        """Error at `labels` (G,), shape (B, G)."""
        n = np.asarray(labels, dtype=np.float64)
        return np.asarray(self.a[:, None] + self.b[:, None] * n[None, :] ** -self.c[:, None])

    def labels_until(self, error: np.ndarray) -> np.ndarray:
        """Labels at which each curve has come down to its `error` (B,); inf where it never does."""
        room = np.asarray(error) - self.a
        reached = room > 0
        with np.errstate(over="ignore", divide="ignore"):
            found = (self.b / np.where(reached, room, 1.0)) ** (1 / self.c)
        return np.where(reached, found, np.inf)


def fit(sizes: Sequence[int], errors: np.ndarray) -> Fit:
    """Fit error(n) = a + b * n^-c to each row of errors.

    Parameters
    ----------
    sizes : sequence of int, length S
        Labels learned from, at least two sizes. Of two sizes a is taken as 0: they cannot tell it from the rest.
    errors : ndarray, shape (B, S)
        Shares of wrong answers.
    """
    n, y = np.asarray(sizes, dtype=np.float64), np.atleast_2d(np.asarray(errors, dtype=np.float64))
    if n.ndim != 1 or len(n) < 2 or y.shape[1] != len(n):
        raise InputError(f"a curve needs errors at two sizes or more; got {len(n)} sizes and errors {y.shape}")
    x = n[None, :] ** -EXPONENTS[:, None]  # (C, S)
    ahead = y @ x.T  # (B, C): sums of x * y
    squares, x_mean, y_mean = (x * x).sum(axis=1), x.mean(axis=1), y.mean(axis=1)[:, None]
    spread = squares - len(n) * x_mean**2
    slope = (ahead - len(n) * x_mean * y_mean) / spread
    level = y_mean - slope * x_mean
    steep, flat = ahead / squares, np.zeros_like(slope)  # the best on either edge: a = 0, and b = 0
    choices = [(flat, steep)]
    if len(n) >= _WHOLE_FIT:
        choices += [(level, slope), (np.broadcast_to(y_mean, slope.shape), flat)]
    best = np.full(y.shape[0], np.inf)
    found = np.zeros((3, y.shape[0]))
    for a, b in choices:
        loss = ((a[..., None] + b[..., None] * x[None] - y[:, None, :]) ** 2).sum(axis=2)  # (B, C)
        loss = np.where((a < 0) | (b < 0), np.inf, loss)
        at = loss.argmin(axis=1)
        rows = np.arange(len(at))
        better = loss[rows, at] < best
        values = np.stack([a[rows, at], b[rows, at], EXPONENTS[at]])
        found = np.where(better, values, found)
        best = np.where(better, loss[rows, at], best)
    return Fit(*found)


def errors_of(right: Sequence[np.ndarray]) -> np.ndarray:
    """Mean error over the seeds, shape (Q,), of answers as `resampled` takes them."""
    return np.asarray(np.mean([1 - one.mean(axis=1) for one in right], axis=0))


def resampled(right: Sequence[np.ndarray], *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Errors on resampled seeds and test rows.

    Parameters
    ----------
    right : sequence of bool ndarray, one a seed, each of shape (Q, n_test)
        Whether each of Q classifiers was right on each test row of that seed; the number of rows may differ by seed.
        One seed leaves the rows alone to vary.

    Returns
    -------
    ndarray, shape (resamples, Q)
        Mean error over as many seeds as there are, each drawn with replacement, its rows drawn with replacement.
    """
    rng = np.random.default_rng(seed)
    patterns = [np.unique(one, axis=1, return_counts=True) for one in right]  # rows on which all do alike are one
    total = np.zeros((resamples, right[0].shape[0]))
    for _ in right:
        drawn = rng.integers(len(right), size=resamples)
        for i, (kinds, counts) in enumerate(patterns):
            of_this = drawn == i
            n = counts.sum()
            draws = rng.multinomial(n, counts / n, size=int(of_this.sum()))
            total[of_this] += 1 - draws @ kinds.T / n
    return np.asarray(total / len(right))


@dataclass(frozen=True)
class Bound:
    """A number of labels with its 95 % interval; None is more than `limit`, twice the largest size measured.

    Attributes
    ----------
    labels, low, high : float or None
    limit : float
    first : int
        The smallest size measured: a bound at it means "this or fewer".
    measured : int
        The largest size measured: more than that is extrapolated.
    """

    labels: float | None
    low: float | None
    high: float | None
    limit: float
    first: int
    measured: int

    @property
    def extrapolated(self) -> bool:
        """Whether it lies beyond what was measured."""
        return self.labels is None or self.labels > self.measured


def grid(sizes: Sequence[int]) -> np.ndarray:
    """Numbers of labels at which curves are drawn and compared: from the smallest size to twice the largest."""
    return np.geomspace(min(sizes), BEYOND * max(sizes), GRID)


def bound(labels: np.ndarray, sizes: Sequence[int]) -> Bound:
    """The first of `labels` (B + 1,) is the estimate, the others are resamples; what is too far becomes None."""
    limit = BEYOND * max(sizes)
    known = np.where(labels > limit, np.inf, labels)
    low, high = np.percentile(known[1:], [2.5, 97.5], method="inverted_cdf")
    middle, low, high = (None if np.isinf(value) else float(value) for value in (known[0], low, high))
    return Bound(middle, low, high, limit=limit, first=min(sizes), measured=max(sizes))


def lead_from(ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray, measured: int) -> np.ndarray:
    """Labels from which our error stays below theirs, one for each row.

    Parameters
    ----------
    ours, theirs : ndarray, shape (B, G)
        Errors of two curves at `labels`, rising numbers of labels.
    labels : ndarray, shape (G,)
    measured : int
        The largest size measured. A lead counts that lasts to there; else one beyond it that lasts to the end.

    Returns
    -------
    ndarray, shape (B,)
        The first number of labels where we lead from the start; inf where we lead nowhere that lasts.
    """
    ahead = ours < theirs
    inside = labels <= measured
    found = _start_of_lead(ahead[:, inside], labels[inside])
    return np.where(np.isinf(found), _start_of_lead(ahead, labels), found)


def lead_until(ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray, measured: int) -> float | None:
    """Labels up to which a lead from the start lasts; None without such a lead or where it lasts all the way."""
    inside = labels <= measured
    ahead = (ours < theirs)[inside]
    if not ahead[0] or ahead.all():
        return None
    return float(labels[inside][~ahead][0])


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The estimate, first of the values, and the 95 % interval of the others."""
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return float(values[0]), float(low), float(high)


def _start_of_lead(ahead: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Where the run of leads begins that lasts to the last column; inf where the last one is no lead."""
    lasting = np.logical_and.accumulate(ahead[:, ::-1], axis=1)[:, ::-1]
    return np.where(lasting.any(axis=1), labels[lasting.argmax(axis=1)], np.inf)
