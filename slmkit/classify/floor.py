"""The classical floor that a language model has to beat: word and character counts with a linear classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import FeatureUnion
from sklearn.svm import LinearSVC

from slmkit.errors import InputError
from slmkit.estimator import TextClassifier, weighted

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


class FloorClassifier(TextClassifier):
    """TF-IDF of words (1-2) and characters (2-5), linear SVM, probabilities by cross-validated Platt scaling.

    The floor that a language model has to beat: it trains in seconds and needs no weights. The scaling (Platt 1999) is
    fitted on decision values of rows the SVM has not seen.

    Parameters
    ----------
    C : float
        Inverse strength of regularisation of the SVM. Smaller fits the training rows less closely.
    seed : int
        Folds of the scaling.
    """

    method = "floor"

    def __init__(self, C: float = 1.0, seed: int = 0) -> None:
        self.C = C
        self.seed = seed

    def _fit(self, texts: list[str], codes: np.ndarray) -> None:
        likeliest = codes if codes.ndim == 1 else codes.argmax(axis=1)
        counts = np.bincount(likeliest, minlength=len(self.classes_))
        smallest = int(counts.min())
        if smallest < 2:
            name = self.classes_[int(counts.argmin())]
            raise InputError(f"class {str(name)!r} has {smallest} row; each class needs at least 2. Merge or drop it")
        self._vectors = tfidf({})
        svm = LinearSVC(C=self.C, random_state=self.seed)
        folds = StratifiedKFold(min(5, smallest), shuffle=True, random_state=self.seed)
        _learn(svm, self._vectors.fit_transform(texts), codes)
        unseen = _unseen_decisions(texts, codes, list(folds.split(texts, likeliest)), svm)
        scaling = _scaling(unseen, codes)
        self._svm = as_softmax(svm.coef_, svm.intercept_)
        self._scaling = as_softmax(scaling.coef_, scaling.intercept_)

    def _proba(self, texts: list[str]) -> np.ndarray:
        weight, bias = self._svm
        decision = self._vectors.transform(texts) @ weight.T + bias  # (n, C)
        weight, bias = self._scaling
        return softmax(decision.astype(np.float64) @ weight.T + bias, axis=1)

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        parts = dict(self._vectors.transformer_list)
        words = {name: sorted(part.vocabulary_, key=part.vocabulary_.get) for name, part in parts.items()}
        arrays = {f"idf_{name}": part.idf_.astype(np.float32) for name, part in parts.items()}
        svm, scaling = self._svm, self._scaling
        arrays |= {"svm_weight": svm[0].astype(np.float32), "svm_bias": svm[1]}
        return {"vocabulary": words}, arrays | {"scaling_weight": scaling[0], "scaling_bias": scaling[1]}

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self._vectors = tfidf(facts["vocabulary"])
        for name, part in self._vectors.transformer_list:
            part.idf_ = arrays[f"idf_{name}"].astype(np.float64)
        self._svm = (arrays["svm_weight"], arrays["svm_bias"])
        self._scaling = (arrays["scaling_weight"], arrays["scaling_bias"])


def unseen_probabilities(texts: list[str], codes: np.ndarray, folds: Folds, seed: int = 0) -> np.ndarray:
    """The floor's probabilities of rows it has not learned from.

    Parameters
    ----------
    texts : list of str, n texts
    codes : ndarray of int, shape (n,)
        Class indices; every class must have rows outside of each fold.
    folds : sequence of (train, test) positions
        Every row is in the test part of one fold.
    seed : int

    Returns
    -------
    ndarray, shape (n, n_classes)
        Rows that are alike stay apart only if the folds keep them so. One scaling serves all folds.
    """
    decisions = _unseen_decisions(texts, codes, folds, LinearSVC(random_state=seed))
    return np.asarray(_scaling(decisions, codes).predict_proba(_two_columns(decisions)))


def _unseen_decisions(texts: list[str], codes: np.ndarray, folds: Folds, svm: LinearSVC) -> np.ndarray:
    found: dict[int, Any] = {}
    for train, test in folds:
        vectors = tfidf({})
        fitted = _learn(clone(svm), vectors.fit_transform([texts[i] for i in train]), codes[train])
        found.update(zip(test, fitted.decision_function(vectors.transform([texts[i] for i in test])), strict=True))
    return np.array([found[i] for i in range(len(texts))])


def _scaling(decisions: np.ndarray, codes: np.ndarray) -> LogisticRegression:
    return _learn(LogisticRegression(C=100.0, max_iter=1000), _two_columns(decisions), codes)


def _learn(model: Any, vectors: Any, codes: np.ndarray) -> Any:
    """Fit on codes (n,), or on probabilities (n, C), of which the squared hinge loss is least at decisions 2 p - 1."""
    if codes.ndim == 1:
        return model.fit(vectors, codes)
    rows, labels, weights = weighted(codes)
    return model.fit(vectors[rows], labels, sample_weight=weights)


def tfidf(vocabulary: Mapping[str, list[str]]) -> FeatureUnion:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\b\w+\b|[^\w\s]")  # noqa: S106
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    parts = [("words", words), ("characters", characters)]
    for name, part in parts:
        part.vocabulary = vocabulary.get(name)
    return FeatureUnion(parts)


def _two_columns(decision: np.ndarray) -> np.ndarray:
    return np.column_stack([-decision, decision]) / 2 if decision.ndim == 1 else decision


def as_softmax(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A linear model's (1, d) binary form as (2, d), so that one softmax serves two classes and more."""
    if len(weight) > 1:
        return weight, bias
    return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
