"""Thresholds of a decision to flag: what each one catches, how often it cries wolf, what it costs, and how to choose.

A row is flagged when its probability is at or above the threshold. A miss and a false alarm cost differently, and test
rows rarely hold as many positives as practice does: recall and false alarms are shares of their own class and carry
over, precision and cost are put on the share of positives that practice has (Elkan 2001, "The Foundations of
Cost-Sensitive Learning"). A threshold chosen on the rows it is measured on looks too good.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from slmkit.errors import InputError
from slmkit.metrics import wilson

NOTHING = 1.01  # above every probability: no row is flagged
_DIGITS = 6  # of a threshold, where that many tell two probabilities apart


def curve(
    is_positive: Sequence[bool] | np.ndarray,
    probability: Sequence[float] | np.ndarray,
    *,
    miss_cost: float = 1.0,
    false_alarm_cost: float = 1.0,
    share: float | None = None,
) -> pd.DataFrame:
    """Every threshold that decides differently, with what it does to these rows.

    Parameters
    ----------
    is_positive : sequence of bool, length n
        Whether row i is of the class to catch; both kinds must occur.
    probability : sequence of float, length n
        Of that class, 0 to 1.
    miss_cost, false_alarm_cost : float
        What one missed positive and one flagged negative cost, in one unit of your choice.
    share : float or None
        Share of positives in practice, between 0 and 1; None takes that of the rows. It moves precision and cost only.

    Returns
    -------
    DataFrame
        Rising `threshold`, from 0 (flag all) to `NOTHING`, of those that decide alike the one with the fewest digits;
        `up_to`, the highest of them; counts `caught`, `missed`, `false_alarms`, `let_through`;
        shares `recall` (of the positives), `false_alarm_share` (of the negatives), `precision` (NaN where nothing is
        flagged); `cost_per_1000` rows.

    Raises
    ------
    InputError
        All that is wrong with the arguments at once.
    """
    y, p = _checked(is_positive, probability, miss_cost, false_alarm_cost, share)
    order = np.argsort(p, kind="stable")
    scores, starts = np.unique(p[order], return_index=True)
    below = np.concatenate([[0], np.cumsum(y[order])])[[*starts, len(y)]]  # positives under each threshold
    rows_below = np.array([*starts, len(y)])
    missed, let_through = below, rows_below - below
    bounds = np.concatenate([[-np.inf], scores])
    thresholds = [0.0, *(_shortest(low, high) for low, high in zip(bounds[1:-1], scores[1:], strict=True)), NOTHING]
    frame = pd.DataFrame(
        {
            "threshold": thresholds,
            "up_to": [*scores, NOTHING],
            "caught": y.sum() - missed,
            "missed": missed,
            "false_alarms": (~y).sum() - let_through,
            "let_through": let_through,
        }
    )
    return _with_shares(frame, miss_cost, false_alarm_cost, float(y.mean()) if share is None else share)


def at(
    is_positive: Sequence[bool] | np.ndarray,
    probability: Sequence[float] | np.ndarray,
    threshold: float,
    *,
    miss_cost: float = 1.0,
    false_alarm_cost: float = 1.0,
    share: float | None = None,
) -> dict[str, Any]:
    """What one threshold does to these rows: the columns of `curve`, with 95 % intervals.

    Returns
    -------
    dict
        The columns of `curve`, `n`, and `intervals` (recall and false_alarm_share -> [low, high], Wilson's; precision
        too where `share` is None, since otherwise it is no proportion of these rows). Precision is None where nothing
        is flagged. `flag_all_cost_per_1000` and `flag_none_cost_per_1000` are what a rule without a model would cost.
    """
    y, p = _checked(is_positive, probability, miss_cost, false_alarm_cost, share)
    if not 0 <= threshold <= NOTHING:
        raise InputError(f"threshold must lie in 0..1, or be {NOTHING} to flag nothing; got {threshold}")
    flagged = p >= threshold
    counts = [int(part.sum()) for part in (flagged & y, ~flagged & y, flagged & ~y, ~flagged & ~y)]
    caught, missed, false_alarms, let_through = counts
    names = ["caught", "missed", "false_alarms", "let_through"]
    positives = float(y.mean()) if share is None else share
    row = _with_shares(pd.DataFrame([counts], columns=names), miss_cost, false_alarm_cost, positives).iloc[0]
    intervals = {
        "recall": list(wilson(caught, caught + missed)),
        "false_alarm_share": list(wilson(false_alarms, false_alarms + let_through)),
    }
    if share is None and caught + false_alarms:
        intervals["precision"] = list(wilson(caught, caught + false_alarms))
    return {
        **dict(zip(names, counts, strict=True)),
        "threshold": float(threshold),
        "n": len(y),
        "recall": float(row["recall"]),
        "false_alarm_share": float(row["false_alarm_share"]),
        "precision": float(row["precision"]) if caught + false_alarms else None,
        "cost_per_1000": float(row["cost_per_1000"]),
        "flag_all_cost_per_1000": 1000 * (1 - positives) * false_alarm_cost,
        "flag_none_cost_per_1000": 1000 * positives * miss_cost,
        "intervals": intervals,
    }


def cheapest(points: pd.DataFrame) -> float:
    """The threshold of a `curve` with the lowest cost; of equal ones the highest, which flags the fewest rows."""
    best = points["cost_per_1000"].min()
    return float(points.loc[points["cost_per_1000"] <= best + 1e-9 * max(1.0, best), "threshold"].max())


def within_budget(points: pd.DataFrame, budget: float) -> float:
    """The threshold of a `curve` with the highest recall among those with at most `budget` false alarms.

    Parameters
    ----------
    points : DataFrame
        From `curve`.
    budget : float
        Share of the negatives that may be flagged, 0 to 1. Below one over their number no false alarm is allowed.
    """
    if not 0 <= budget <= 1:
        raise InputError(f"budget must be a share of the negatives, 0..1; got {budget}")
    allowed = points[points["false_alarm_share"] <= budget + 1e-12]
    return float(allowed.loc[allowed["recall"] == allowed["recall"].max(), "threshold"].max())


def over_budgets(
    is_positive: Sequence[bool] | np.ndarray,
    probability: Sequence[float] | np.ndarray,
    aside: np.ndarray,
    budgets: Sequence[float],
) -> pd.DataFrame:
    """What is caught within several budgets of false alarms, each threshold measured on rows that did not choose it.

    Parameters
    ----------
    is_positive, probability
        As `curve` takes them.
    aside : ndarray of bool, shape (n,)
        Rows to choose on, from `set_aside`; the others are measured.
    budgets : sequence of float
        Shares of the negatives that may be flagged where the threshold is chosen.

    Returns
    -------
    DataFrame
        One row a budget: `budget`, `threshold`, `n` (rows measured), and `recall` and `false_alarm_share`, each with
        its 95 % interval in `_low` and `_high`. A budget that was kept where it was chosen need not be kept there.
    """
    y, p, chooses = (np.asarray(values) for values in (is_positive, probability, aside))
    points, rows = curve(y[chooses], p[chooses]), []
    for budget in budgets:
        found = at(y[~chooses], p[~chooses], within_budget(points, budget))
        row = {"budget": budget, **{key: found[key] for key in ("threshold", "n")}}
        for name in ("recall", "false_alarm_share"):
            low, high = found["intervals"][name]
            row |= {name: found[name], f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def set_aside(labels: Sequence[str] | pd.Series, share: float, seed: int = 0) -> np.ndarray:
    """Which rows to choose a threshold on; the others are for measuring it.

    Parameters
    ----------
    labels : sequence of str, length n
    share : float
        Of each class, between 0 and 1.
    seed : int
        Equal seeds set equal rows aside.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    if not 0 < share < 1:
        raise InputError(f"the share of rows set aside must lie between 0 and 1; got {share!r}")
    names, rng = np.asarray(labels, dtype=object), np.random.default_rng(seed)
    place = np.empty(len(names))
    for name in sorted(set(names)):
        rows = np.flatnonzero(names == name)
        place[rows] = (rng.permutation(len(rows)) + 0.5) / len(rows)
    return place < share


def _checked(
    is_positive: Any, probability: Any, miss_cost: float, false_alarm_cost: float, share: float | None
) -> tuple[np.ndarray, np.ndarray]:
    y, p = np.asarray(is_positive, dtype=bool), np.asarray(probability, dtype=np.float64)
    problems = []
    if y.ndim != 1 or y.shape != p.shape:
        problems.append(f"labels and probabilities must be two flat series of one length; got {y.shape} and {p.shape}")
    elif not y.any() or y.all():
        problems.append(f"rows of both kinds are needed; got {int(y.sum())} positives among {len(y)} rows")
    if wrong := int((~((p >= 0) & (p <= 1 + 1e-6))).sum()):  # NaN is neither
        problems.append(f"probabilities must lie in 0..1; {wrong} do not")
    for name, value in (("miss_cost", miss_cost), ("false_alarm_cost", false_alarm_cost)):
        if not 0 <= value < float("inf"):
            problems.append(f"{name} must be a number from 0; got {value}")
    if share is not None and not 0 < share < 1:
        problems.append(f"share must lie between 0 and 1; got {share}")
    if problems:
        raise InputError("; ".join(problems))
    return y, p


def _with_shares(frame: pd.DataFrame, miss_cost: float, false_alarm_cost: float, share: float) -> pd.DataFrame:
    recall = frame["caught"] / (frame["caught"] + frame["missed"])
    alarms = frame["false_alarms"] / (frame["false_alarms"] + frame["let_through"])
    flagged = share * recall + (1 - share) * alarms
    return frame.assign(
        recall=recall,
        false_alarm_share=alarms,
        precision=(share * recall / flagged.where(flagged > 0)).astype(float),
        cost_per_1000=1000 * (share * (1 - recall) * miss_cost + (1 - share) * alarms * false_alarm_cost),
    )


def _shortest(low: float, high: float) -> float:
    """The number with the fewest digits that lies above `low` and not above `high`: they all decide alike."""
    for digits in range(1, _DIGITS + 1):
        step = 10.0**-digits
        found = round(np.floor(high / step + 1e-9) * step, digits)
        if low < found <= high:
            return float(found)
    return float(high)
