"""Which words mattered to a classifier: each is left out in turn, and what the probability loses is what it counted.

Occlusion: Zeiler & Fergus 2014, arXiv 1311.2901; on words: Li et al. 2016, arXiv 1612.08220. It says what the model
does on this text, not why, and words that say the same cover for each other.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slmkit import jobs
from slmkit.backends.base import Progress
from slmkit.errors import InputError

MOST_WORDS = 80  # left out in turn; those behind them stay in
ROWS = 16  # texts of one call, between which a stop is heard


@dataclass(frozen=True)
class Occluded:
    """What each word counted for.

    Attributes
    ----------
    label : str
        The likeliest class of the whole text, whose probability is looked at.
    probability : float
    words : tuple of (str, float)
        In the order of the text: how much lower the probability is without it; below 0 the word spoke against.
    n_left : int
        Words beyond `MOST_WORDS`, which were not tried.
    """

    label: str
    probability: float
    words: tuple[tuple[str, float], ...]
    n_left: int


def occlude(
    proba: Callable[[list[str]], np.ndarray],
    message: str,
    classes: Sequence[Any] | np.ndarray,
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Occluded:
    """How much lower the probability of a text's label is without each of its words, one left out at a time.

    Parameters
    ----------
    proba : callable
        `predict_proba` of any classifier: texts in, (n_texts, n_classes) out.
    message : str
    classes : sequence
        The columns of `proba`.

    Raises
    ------
    InputError
        A text without words.
    Cancelled
        `cancel` was set.
    """
    spans = [match.span() for match in re.finditer(r"\S+", message)]
    if not spans:
        raise InputError("a text without words: there is nothing to leave out")
    tried = spans[:MOST_WORDS]
    [whole] = proba([message])
    label, changes = int(np.argmax(whole)), list[float]()
    without = [
        f"{message[:a]}{message[b:].lstrip()}" if a == 0 else message[:a].rstrip() + message[b:] for a, b in tried
    ]
    for start in range(0, len(without), ROWS):
        if cancel is not None and cancel.is_set():
            raise jobs.Cancelled("stopped on request")
        found = proba(without[start : start + ROWS])
        changes += [float(whole[label] - row[label]) for row in found]
        if progress is not None:
            progress({"message": "leaving out one word at a time", "rows": len(changes), "total_rows": len(tried)})
    words = tuple((message[a:b], change) for (a, b), change in zip(tried, changes, strict=True))
    return Occluded(str(classes[label]), float(whole[label]), words, len(spans) - len(tried))
