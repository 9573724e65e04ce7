"""What a training on labels takes from its own rows: their length, how common each class is, which are held back."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from slmkit import estimate, splits
from slmkit.assets import ModelSource
from slmkit.backends.base import Backend
from slmkit.errors import InputError

log = logging.getLogger(__name__)
PATIENCE = 2  # epochs without a lower loss on validation rows, after which a training with early stopping ends
COVERED = 0.99  # share of the rows that are read whole
ROUNDED = 8
SHOWN = 10  # rows named in one warning


def max_length(asked: int | None, engine: Backend, source: ModelSource, texts: Sequence[str]) -> int:
    """Tokens to read of each text: as asked, or what 99 of 100 of these texts need and the model's context allows.

    The rows that this cuts are named in the log.
    """
    if asked is not None:
        return asked
    n_tokens = engine.count_tokens(source, texts)
    needed = int(np.quantile(n_tokens, COVERED, method="higher"))
    found = min(ROUNDED * -(-needed // ROUNDED), _context(source) or needed + ROUNDED)
    cut = np.flatnonzero(n_tokens > found)
    if len(cut):
        more = f", ... ({len(cut):,} in all)" if len(cut) > SHOWN else ""
        named = ", ".join(map(str, cut[:SHOWN]))
        log.warning("max_length is %d tokens, for 99 of 100 texts: row %s%s longer, cut at the end", found, named, more)
    return found


def _context(source: ModelSource) -> int | None:
    return None if source.revision == "builtin" else estimate.network_of(source).context


def class_weights(asked: str | None, codes: np.ndarray, n_classes: int) -> list[float] | None:
    """What the loss of a row counts by its class: n / (n_classes x rows of the class) for "balanced", None for None.

    As scikit-learn's `compute_class_weight` (King and Zeng 2001, Political Analysis 9).
    """
    if asked is None:
        return None
    if asked != "balanced":
        raise InputError(f"class_weight must be 'balanced' or None; got {asked!r}")
    if codes.ndim == 2:
        raise InputError("class_weight goes with labels; a teacher's probabilities say themselves how much each counts")
    counts = np.bincount(codes, minlength=n_classes)
    return [float(weight) for weight in len(codes) / (n_classes * counts)]


def validation(
    texts: Sequence[str], codes: np.ndarray, classes: Sequence[object], share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows to learn and of those to measure the loss on, both int64; no text is in both.

    Near-copies of a text stay on its side, and every class is on both. Copies, and texts under two labels, are left out
    of both.

    Raises
    ------
    InputError
        A class that cannot be on both sides, or a share that is none.
    """
    if not 0 < share < 1:
        raise InputError(f"validation_share must be between 0 and 1; got {share!r}")
    rows = pd.DataFrame({"text": list(texts), "label": [str(classes[code]) for code in codes], "at": range(len(texts))})
    try:
        split = splits.split(rows, seed=seed, test_share=share)
    except InputError as error:
        raise InputError(f"early_stopping holds rows back for validation, and these allow none: {error}") from error
    for note in split.warnings:
        log.info("validation: %s", note)
    return split.train["at"].to_numpy(), split.test["at"].to_numpy()
