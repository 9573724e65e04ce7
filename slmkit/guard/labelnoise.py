"""Whether labels have anything to do with their texts: a quick classifier beside chance and labels moved by a row.

Labels that were sorted apart from their texts, or that slipped by a row, have the right counts and train without a
complaint; what comes out is worth nothing. Seconds of complement naive Bayes on character counts (Rennie et al. 2003)
tell them from labels that can be learned.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import ComplementNB

from slmkit.guard.findings import FAIL, WARN, Finding, fine
from slmkit.guard.plan import Plan

MAX_ROWS, MAX_CHARACTERS = 2000, 400
LEAST_SHIFT, LEAST_CHANCE = 60, 200  # rows from which a slip, and the lack of any signal, can be told
LEAST_OF_CLASS = 5
SLIPS = (1, -1)
FOLDS = 5
NAME = "labels"


def labels_follow_texts(plan: Plan) -> Finding | None:
    """Labels can be learned from their texts, and better than those of the row before or after."""
    if plan.codes is None or len(plan.texts) < LEAST_SHIFT:
        return None
    rows = np.unique(np.linspace(0, len(plan.texts) - 1, min(len(plan.texts), MAX_ROWS)).round().astype(int))
    codes = np.asarray(plan.codes)
    if np.bincount(codes[rows])[np.unique(codes[rows])].min() < LEAST_OF_CLASS or len(np.unique(codes[rows])) < 2:
        return None
    try:
        x = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), max_features=30_000, sublinear_tf=True)
        counts = x.fit_transform([plan.texts[i][:MAX_CHARACTERS] for i in rows])
    except ValueError:  # texts without a character to count
        return None
    own, chance = balanced_accuracy(counts, codes[rows]), 1 / len(np.unique(codes[rows]))
    error = _standard_error(codes[rows], chance)
    slipped = {slip: balanced_accuracy(counts, np.roll(codes, slip)[rows]) for slip in SLIPS}
    best = max(slipped, key=lambda slip: slipped[slip])
    evidence = {"score": own, "chance": chance, "score_of_slipped_labels": slipped[best], "rows": len(rows)}
    said = f"a quick word count tells {own:.0%} of each class right on unseen rows"
    if own < chance + 3 * error and slipped[best] > own + max(0.2, 5 * error):
        where = "above" if best > 0 else "below"
        return Finding(
            NAME,
            FAIL,
            f"{said}, as guessing would ({chance:.0%}); with each text's label taken from the row {where} it is "
            f"{slipped[best]:.0%}: labels have slipped by one row",
            "the model would learn nothing that holds",
            f"move the labels by one row (each text's own stands {where} it); was a header read as a row?",
            evidence,
        )
    if len(rows) >= LEAST_CHANCE and own < chance + 2 * error:
        shuffled = balanced_accuracy(counts, np.random.default_rng(0).permutation(codes[rows]))
        return Finding(
            NAME,
            WARN,
            f"{said}, with shuffled labels {shuffled:.0%}, and guessing {chance:.0%}: the labels look random",
            "if texts and labels were paired wrongly (sorted apart, merged by the wrong key), nothing can be learned",
            "look at ten rows with their labels; if they are right, the task is beyond words: pass this over",
            {**evidence, "shuffled": shuffled},
        )
    return fine(NAME, f"{said}, guessing {chance:.0%}", **evidence)


def balanced_accuracy(counts: csr_matrix, codes: np.ndarray) -> float:
    """Mean recall of the classes, cross-validated, of complement naive Bayes."""
    kinds, y = np.unique(codes, return_inverse=True)
    predicted = np.zeros(len(y), dtype=int)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class with fewer rows than folds
        for train, test in folds.split(y, y):
            predicted[test] = ComplementNB().fit(counts[train], y[train]).predict(counts[test])
    return float(np.mean([(predicted[y == kind] == kind).mean() for kind in range(len(kinds))]))


def _standard_error(codes: np.ndarray, chance: float) -> float:
    """Of the mean recall of guessing."""
    sizes = np.unique(codes, return_counts=True)[1]
    return float(np.sqrt(np.sum(chance * (1 - chance) / sizes)) / len(sizes))
