"""Scores of written texts: how alike one is to a reference, and means over few texts with their intervals.

chrF (Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation") counts runs of one to six characters,
so that "closes" half counts for "closed" and no tokenizer is needed. It sees likeness, not truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from slmkit.errors import InputError

ORDER, BETA = 6, 2.0  # as sacrebleu has them: recall counts twice
RESAMPLES = 10_000


def chrf(text: str, reference: str) -> float:
    """Likeness of a text to a reference, 0 to 1; equals sacrebleu's `sentence_chrf` over 100.

    Precision and recall of the runs of n characters, spaces left out, are averaged over the n for which both texts are
    long enough, and joined to one F score.
    """
    ours, theirs = ("".join(one.split()) for one in (text, reference))
    shares = []
    for n in range(1, ORDER + 1):
        a, b = (Counter(one[i : i + n] for i in range(len(one) - n + 1)) for one in (ours, theirs))
        if a and b:
            both = (a & b).total()
            shares.append((both / a.total(), both / b.total()))
    if not shares:
        return 0.0
    precision, recall = (float(v) for v in np.mean(shares, axis=0))
    weight = BETA**2
    total = weight * precision + recall
    return (1 + weight) * precision * recall / total if total else 0.0


def mean(scores: Sequence[float] | np.ndarray, seed: int = 0) -> list[float]:
    """The mean of scores of texts, with the ends of its 95 % interval: percentile bootstrap over the texts.

    Returns
    -------
    list of float
        [value, low, high]. Scores that are all equal have an interval of no width, which says nothing.
    """
    found = _checked(scores)
    drawn = _drawn(found, np.random.default_rng(seed))
    return [float(found.mean()), *(float(v) for v in np.percentile(drawn, [2.5, 97.5]))]


def compare(
    ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray, seed: int = 0
) -> dict[str, float]:
    """Compare the scores of two writers on the same texts.

    Returns
    -------
    dict
        difference (mean of ours minus mean of theirs), its 95 % interval low and high (bootstrap over the texts), and p
        of the test that exchanges the two at random text by text (two-sided; Noreen 1989).
    """
    a, b = _checked(ours), _checked(theirs)
    if a.shape != b.shape:
        raise InputError(f"two writers are compared on the same texts; got {len(a)} and {len(b)} scores")
    gaps, rng = a - b, np.random.default_rng(seed)
    low, high = (float(v) for v in np.percentile(_drawn(gaps, rng), [2.5, 97.5]))
    turned = rng.choice((-1.0, 1.0), size=(RESAMPLES, len(gaps))) @ gaps
    p = (1 + np.sum(np.abs(turned) >= abs(gaps.sum()) - 1e-9)) / (1 + RESAMPLES)
    return {"difference": float(gaps.mean()), "low": low, "high": high, "p": float(p)}


def _drawn(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of resamples, (RESAMPLES,)."""
    n = len(values)
    return np.asarray(rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) @ values / n)


def _checked(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    found = np.asarray(scores, dtype=np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise InputError(f"scores must be a flat series of numbers; got shape {found.shape}")
    return found
