"""What a student kept of its teacher, what it owes to it, and what it saves, each with its interval or test.

Retention is the student's accuracy over the teacher's. The gap closed is how far distilling took the student from what
it learns of the labels alone to the teacher. Both get a percentile bootstrap over the test rows (Efron & Tibshirani
1993), all classifiers on the same drawn rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from slmkit import footprint, metrics, text
from slmkit.tuning.remembered import Remembered

RESAMPLES = 2000
FACTS = "model revision backend bits scheme device n_parameters stored_bytes adapter_bytes"
COSTS = "latency_p50_s latency_p95_s n_latency rows_per_s"


def compare(right: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, Any]:
    """Retention and gap closed.

    Parameters
    ----------
    right : mapping of str to ndarray of bool, shape (n_test,)
        Whether "teacher" and "student", and "labels alone" if it was trained, got each row.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        n_test; accuracy (name -> [value, low, high], Wilson); retention, retention_interval; p_vs_teacher (exact
        McNemar). With "labels alone": p_vs_labels, gain (student minus that) with gain_interval, gap_closed with
        gap_closed_interval. A ratio without a positive divisor is None.
    """
    n = len(right["teacher"])
    sums = {name: int(hits.sum()) for name, hits in right.items()}
    found: dict[str, Any] = {
        "n_test": n,
        "accuracy": {name: [k / n, *metrics.wilson(k, n)] for name, k in sums.items()},
        "p_vs_teacher": metrics.mcnemar(right["student"], right["teacher"])["p"],
    }
    drawn = _drawn(right, seed)
    found |= _ratio("retention", sums["student"], sums["teacher"], drawn["student"], drawn["teacher"])
    if "labels alone" in right:
        pair = metrics.mcnemar(right["student"], right["labels alone"])
        found |= {"p_vs_labels": pair["p"], "gain": pair["difference"], "gain_interval": [pair["low"], pair["high"]]}
        won, gap = (sums[name] - sums["labels alone"] for name in ("student", "teacher"))
        won_drawn, gap_drawn = (drawn[name] - drawn["labels alone"] for name in ("student", "teacher"))
        found |= _ratio("gap_closed", won, gap, won_drawn, gap_drawn)
    return found


def _drawn(right: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Right answers of each classifier in resamples of the rows, (RESAMPLES,) each.

    A row is one of few outcomes (which of the classifiers got it), so drawing rows is drawing their counts.
    """
    hits = np.stack(list(right.values()))  # (n_classifiers, n)
    codes = (hits * 2 ** np.arange(len(hits))[:, None]).sum(axis=0)
    counts = np.bincount(codes, minlength=2 ** len(hits))
    draws = np.random.default_rng(seed).multinomial(len(codes), counts / len(codes), size=RESAMPLES)
    of_code = np.arange(len(counts))
    return {name: draws @ (of_code >> bit & 1) for bit, name in enumerate(right)}


def _ratio(name: str, above: int, below: int, above_drawn: np.ndarray, below_drawn: np.ndarray) -> dict[str, Any]:
    if below <= 0:
        return {name: None, f"{name}_interval": None}
    usable = below_drawn > 0
    interval = np.percentile(above_drawn[usable] / below_drawn[usable], [2.5, 97.5]).tolist()
    return {name: above / below, f"{name}_interval": interval if usable.mean() > 0.95 else None}


def costs(classifier: Any, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """What a fitted classifier is and, if `seconds` is above 0, what it costs on these texts; unknown is None."""
    classifier = classifier.classifier if isinstance(classifier, Remembered) else classifier
    facts = classifier.facts() if hasattr(classifier, "facts") else {}
    found: dict[str, Any] = {"class": type(classifier).__name__, **{name: facts.get(name) for name in FACTS.split()}}
    if seconds > 0:
        wait = getattr(classifier, "synchronize", lambda: None)
        device = facts.get("device") or "cpu"
        measured = footprint.measure(
            classifier.predict_proba, texts, synchronize=wait, device=device, time_budget_s=seconds
        )
        found |= {name: measured[name] for name in COSTS.split()}
    return found


def saving(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> dict[str, float | None]:
    """The student's share of the teacher's latency (median, one row), bytes and time a row in batches."""

    def share(name: str) -> float | None:
        theirs, ours = teacher.get(name), student.get(name)
        return ours / theirs if theirs and ours else None

    batched = share("rows_per_s")
    return {
        "latency_share": share("latency_p50_s"),
        "bytes_share": share("stored_bytes"),
        "batched_time_share": 1 / batched if batched else None,
    }


def table(students: Mapping[str, tuple[Mapping[str, Any], Mapping[str, float | None]]]) -> pd.DataFrame:
    """Several students of one teacher side by side.

    Parameters
    ----------
    students : mapping of str to (figures, saving)
        As `compare` and `saving` give them; a `Distilled` has both.

    Returns
    -------
    DataFrame
        student, n, teacher, accuracy with low and high, alone (labels alone), gain in points with gain_low, gain_high
        and p, retention, gap_closed, and the student's share of the teacher's bytes, latency and batched time. Shares
        are 0 to 1 and unknown is None.
    """
    return pd.DataFrame([{"student": name, **_row(*found)} for name, found in students.items()])


def _row(found: Mapping[str, Any], shares: Mapping[str, float | None]) -> dict[str, Any]:
    accuracy = found["accuracy"]
    value, low, high = accuracy["student"]
    ends = found.get("gain_interval") or [None, None]
    gain, gain_low, gain_high = (None if v is None else 100 * v for v in (found.get("gain"), *ends))
    return {
        "n": found["n_test"],
        "teacher": accuracy["teacher"][0],
        **{"accuracy": value, "low": low, "high": high},
        "alone": accuracy["labels alone"][0] if "labels alone" in accuracy else None,
        **{"gain": gain, "gain_low": gain_low, "gain_high": gain_high, "p": found.get("p_vs_labels")},
        **{"retention": found["retention"], "gap_closed": found.get("gap_closed")},
        **{name: shares.get(name) for name in ("bytes_share", "latency_share", "batched_time_share")},
    }


def scores(students: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Accuracies for `plots.writing_scores`: job (the student), writer (who was scored), n, score, low, high."""
    return pd.DataFrame(
        [
            {"job": name, "writer": who, "n": found["n_test"], "score": value, "low": low, "high": high}
            for name, found in students.items()
            for who, (value, low, high) in found["accuracy"].items()
        ]
    )


def lines(found: Mapping[str, Any], shares: Mapping[str, float | None]) -> list[str]:
    """All of it in words."""
    names = {"teacher": "teacher", "student": "student", "labels alone": "the same student, labels alone"}
    n = found["n_test"]
    said = [f"{names[name]}: {text.with_interval(*found['accuracy'][name])}, n = {n:,}" for name in found["accuracy"]]
    if found["retention"] is not None:
        kept = text.with_interval(found["retention"], *found["retention_interval"])
        said.append(f"retention: {kept} of the teacher's accuracy, {text.p_value(found['p_vs_teacher'])}")
    if "gain" in found:
        low, high = (100 * end for end in found["gain_interval"])
        gain = f"{100 * found['gain']:+.1f} points ({low:.1f} to {high:.1f}), {text.p_value(found['p_vs_labels'])}"
        said.append(f"distilling instead of labels alone: {gain}")
        closed = found["gap_closed"]
        gap = "the teacher is not above labels alone: there is no gap to close"
        said.append(gap if closed is None else f"gap to the teacher closed: {100 * closed:.0f} %")
    parts = {"latency_share": "latency", "batched_time_share": "time a row in batches", "bytes_share": "bytes"}
    known = [f"{text.percent(value)} of its {parts[key]}" for key, value in shares.items() if value is not None]
    return [*said, f"against the teacher: {', '.join(known)}"] if known else said
