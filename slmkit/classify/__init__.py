"""Text classifiers with scikit-learn's interface: the classical floor, embeddings, prompting and LoRA.

Each is one class; `METHODS` lists them by the name that `slmkit study --methods` takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.linear_model import LogisticRegression

from slmkit import prompts
from slmkit.classify.floor import FloorClassifier, as_softmax
from slmkit.classify.lora import LoRAClassifier
from slmkit.errors import AssetError, InputError, unknown
from slmkit.estimator import SLM, ModelClassifier, TextClassifier, read_saved, weighted

CALIBRATION_ROWS = 64


class EmbeddingClassifier(ModelClassifier):
    """A frozen model's vectors and a logistic head: no weights of the model change, so fitting is quick.

    Parameters
    ----------
    model : str
        An encoder such as "minilm", or a decoder, whose last hidden states are averaged.
    bits : {16, 8, 4}
        How the model's weights are stored.
    backend : str or None
        "bnb" or "mlx"; None takes what runs here.
    pooling : {"mean", "last"} or None
        How a text's token vectors become one. None takes the mean.
    C : float
        Inverse strength of regularisation of the head, on standardised vectors. Smaller is safer with few rows.
    max_length : int
        Tokens read of each text.
    seed : int
        Not used by the solver; kept so that all methods take one.
    """

    method = "embedding"
    needs = "any"

    def __init__(
        self,
        model: str = "minilm",
        bits: int = 16,
        backend: str | None = None,
        pooling: str | None = None,
        C: float = 0.1,
        max_length: int = 256,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.bits = bits
        self.backend = backend
        self.pooling = pooling
        self.C = C
        self.max_length = max_length
        self.seed = seed

    def _fit(self, texts: list[str], codes: np.ndarray) -> None:
        self.release()
        vectors = self._embed(texts)
        mean, spread = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
        rows, labels, weights = weighted(codes)
        head = LogisticRegression(C=self.C, max_iter=2000)
        head.fit(((vectors - mean) / spread)[rows], labels, sample_weight=weights)
        weight, bias = as_softmax(head.coef_, head.intercept_)
        self._weight = (weight / spread).astype(np.float32)  # the standardisation is folded into the head
        self._bias = (bias - (weight / spread) @ mean).astype(np.float32)

    def _proba(self, texts: list[str]) -> np.ndarray:
        return softmax(self._embed(texts).astype(np.float64) @ self._weight.T + self._bias, axis=1)

    def _embed(self, texts: list[str]) -> np.ndarray:
        return self._language_model().embed(texts, pooling=self.pooling, max_length=self.max_length)

    def _adapter_bytes(self) -> int | None:
        return int(self._weight.nbytes + self._bias.nbytes)

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {}, {"weight": self._weight, "bias": self._bias}

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self._weight, self._bias = arrays["weight"], arrays["bias"]


class PromptClassifier(ModelClassifier):
    """Asks the model and compares how likely it finds each label's word; nothing is trained.

    Parameters
    ----------
    model : str
        A decoder. A chat model is asked through its template, a base model in plain text.
    bits : {16, 8, 4}
    backend : str or None
    shots : int
        Worked examples taken from the training rows, classes in turn; 0 shows none. They are read once for all rows.
    instruction : str or None
        What to decide, one sentence; None asks to classify.
    label_words : dict or None
        The word for each label, best a common single word; None takes the labels themselves.
    noun : str
        What a row is called in the prompt.
    calibrate : bool
        Take the mean log-probability of each word over up to 64 training texts off, and add the log share of its class
        (batch calibration, Zhou et al. 2023, arXiv 2309.17249), since models favour some words whatever the text.
    seed : int
        Choice of examples.

    Attributes
    ----------
    lean_ : ndarray, shape (n_classes,), or None
        How the model shared its answers out over the words on average, whatever the training texts said: what
        `calibrate` takes off. None without it.
    """

    method = "prompt"
    needs = "decoder"
    learns_targets = False

    def __init__(
        self,
        model: str = SLM,
        bits: int = 16,
        backend: str | None = None,
        shots: int = 0,
        instruction: str | None = None,
        label_words: dict[str, str] | None = None,
        noun: str = "Text",
        calibrate: bool = True,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.bits = bits
        self.backend = backend
        self.shots = shots
        self.instruction = instruction
        self.label_words = label_words
        self.noun = noun
        self.calibrate = calibrate
        self.seed = seed

    def _fit(self, texts: list[str], codes: np.ndarray) -> None:
        if self.shots < 0:
            raise InputError(f"shots must be 0 or more; got {self.shots}")
        self.release()
        n_classes = len(self.classes_)
        self._prompting = prompts.Prompting(
            self.instruction or "Classify the text.",
            prompts.label_words(self.classes_.tolist(), self.label_words),
            self.noun,
            prompts.pick_examples(texts, codes, n_classes, self.shots, self.seed),
        )
        self._language_model()  # known by its revision from here on, also where no text is read
        self._shift, self.lean_ = np.zeros(n_classes), None
        if self.calibrate:
            shown = {text for text, _ in self._prompting.examples}
            rest = [text for text in texts if text not in shown] or texts
            chosen = np.random.default_rng(self.seed).permutation(len(rest))[:CALIBRATION_ROWS]
            prior = np.log(np.bincount(codes, minlength=n_classes) / len(codes))
            said = self._scores([rest[i] for i in chosen]).mean(axis=0)
            self._shift, self.lean_ = prior - said, softmax(said)

    def _proba(self, texts: list[str]) -> np.ndarray:
        return softmax(self._scores(texts) + self._shift, axis=1)

    def _scores(self, texts: list[str]) -> np.ndarray:
        """Log-probabilities among the labels' words, shape (n_texts, n_classes)."""
        model = self._language_model()
        chat = model.source.chat
        ask = self._prompting
        asked = [model.chat_prompt(ask.chat(t)) if chat else ask.plain(t) for t in texts]
        scores = model.loglikelihood(asked, ask.continuations(chat))
        return scores - logsumexp(scores, axis=1, keepdims=True)

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        ask = self._prompting
        facts = {"words": list(ask.words), "examples": [list(e) for e in ask.examples]}
        facts["lean"] = None if self.lean_ is None else self.lean_.tolist()
        return facts, {"shift": self._shift}

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        examples = tuple((str(text), int(index)) for text, index in facts["examples"])
        words = tuple(facts["words"])
        self._prompting = prompts.Prompting(self.instruction or "Classify the text.", words, self.noun, examples)
        self._shift, lean = arrays["shift"], facts.get("lean")
        self.lean_ = None if lean is None else np.array(lean)


METHODS: dict[str, type[TextClassifier]] = {
    cls.method: cls for cls in (FloorClassifier, EmbeddingClassifier, PromptClassifier, LoRAClassifier)
}


def load(folder: str | Path) -> TextClassifier:
    """Read a classifier that `save` wrote; its model is loaded when first used.

    Raises `InputError` or `AssetError` naming what is missing, damaged, or made with another revision of the model.
    """
    values = read_saved(folder)
    known = {cls.__name__: cls for cls in METHODS.values()}
    if values["class"] not in known:
        raise unknown("classifier class", values["class"], known)
    kind = known[values["class"]]
    if strange := sorted({*values["params"]} - {*kind().get_params()}):
        raise AssetError(f"{folder} has settings that this version of slmkit does not know: {', '.join(strange)}")
    classifier = kind(**values["params"])
    classifier._read(Path(folder), values)
    return classifier


load_classifier = load
