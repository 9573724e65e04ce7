"""Text classifiers with scikit-learn's interface: the classical floor, embeddings, prompting and LoRA.

Each is one class; `METHODS` lists them by the name that `slmkit study --methods` takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.linear_model import LogisticRegression

from slmkit import assets, backends, estimate, prompts
from slmkit.assets import ModelSource
from slmkit.backends.base import LoRAConfig
from slmkit.errors import InputError, unknown
from slmkit.estimator import ModelClassifier, TextClassifier, read_saved, weighted
from slmkit.floor import FloorClassifier, as_softmax
from slmkit.guard import watch
from slmkit.guard.plan import Plan

CALIBRATION_ROWS = 64
SLM = "smollm2-135m-instruct"


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
        self._shift = np.zeros(n_classes)
        if self.calibrate:
            shown = {text for text, _ in self._prompting.examples}
            rest = [text for text in texts if text not in shown] or texts
            chosen = np.random.default_rng(self.seed).permutation(len(rest))[:CALIBRATION_ROWS]
            prior = np.log(np.bincount(codes, minlength=n_classes) / len(codes))
            self._shift = prior - self._scores([rest[i] for i in chosen]).mean(axis=0)

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
        return {"words": list(ask.words), "examples": [list(e) for e in ask.examples]}, {"shift": self._shift}

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        examples = tuple((str(text), int(index)) for text, index in facts["examples"])
        words = tuple(facts["words"])
        self._prompting = prompts.Prompting(self.instruction or "Classify the text.", words, self.noun, examples)
        self._shift = arrays["shift"]


class LoRAClassifier(ModelClassifier):
    """A decoder with a classification head on its last token, tuned by LoRA (at 4 bits: QLoRA).

    Hu et al. 2021, arXiv 2106.09685; Dettmers et al. 2023, arXiv 2305.14314. The text is read as it is, without a chat
    template, in training and in use alike.

    Parameters
    ----------
    model : str
        A decoder.
    bits : {16, 8, 4}
        How the frozen weights are stored while the adapter is trained and used.
    backend : str or None
    epochs, rank, alpha, learning_rate, batch_size, last_blocks, max_length, max_batch_tokens, seed
        See `slmkit.backends.base.LoRAConfig`.
    checks : bool
        Whether `fit` looks for silent mistakes before and after the training (`slmkit.guard`): seconds, since the model
        is loaded once more. Failures raise, warnings are logged and kept in `guard_`. False saves the seconds; labels
        that slipped by a row or a head that was lost then go unnoticed, and `slmkit doctor --model` has nothing to
        compare the saved model with.

    Attributes
    ----------
    history_ : list of dict
        See `Backend.train_lora`.
    guard_ : dict
        What the guard found, see `slmkit.guard.watch.after`; empty without checks.
    """

    method = "lora"
    needs = "decoder"
    trains_weights = True

    def __init__(
        self,
        model: str = SLM,
        bits: int = 16,
        backend: str | None = None,
        epochs: float = 3,
        rank: int = 16,
        alpha: int = 32,
        learning_rate: float = 5e-4,
        batch_size: int = 16,
        last_blocks: int | None = None,
        max_length: int = 256,
        max_batch_tokens: int = 512,
        seed: int = 0,
        checks: bool = True,
    ) -> None:
        self.model = model
        self.bits = bits
        self.backend = backend
        self.epochs = epochs
        self.rank = rank
        self.alpha = alpha
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.last_blocks = last_blocks
        self.max_length = max_length
        self.max_batch_tokens = max_batch_tokens
        self.seed = seed
        self.checks = checks

    def _fit(self, texts: list[str], codes: np.ndarray) -> None:
        self.release()
        source = assets.resolve(self.model)
        engine = backends.engine_for(source, self.backend)
        own = self.get_params()
        self._check_fits(source, max(map(len, texts), default=0))
        config = LoRAConfig(**{name: own[name] for name in LoRAConfig.__dataclass_fields__})
        plan = Plan(engine, backends.prepare(source), self.bits, config, texts, codes, self.classes_.tolist())
        early = watch.before(plan) if self.checks else []
        with tempfile.TemporaryDirectory(prefix="slmkit-lora-") as folder:
            self.history_ = engine.train_lora(
                plan.source,
                texts,
                codes,
                n_classes=len(self.classes_),
                bits=self.bits,
                config=config,
                out=Path(folder),
                callback=self.progress,
            )
            self._take(Path(folder))
            self.revision_ = source.revision
            self.guard_ = watch.after(plan, Path(folder), self.history_, early) if self.checks else {}
        watch.settle(plan, self.guard_, "it is fitted all the same, and can be saved")

    def _check_fits(self, source: ModelSource, longest: int) -> None:
        """Refuse a training that the memory does not suffice for; no text has more than `longest` tokens."""
        row = min(self.max_length, longest)
        estimate.check_fits(
            source,
            self.bits,
            training=True,
            batch_tokens=self.max_batch_tokens,
            seq=row if row > self.max_batch_tokens else None,
            last_blocks=self.last_blocks,
            rank=self.rank,
            backend=self.backend,
        )

    def _proba(self, texts: list[str]) -> np.ndarray:
        vectors = self._language_model().embed(texts, pooling="last", max_length=self.max_length)
        return softmax(vectors.astype(np.float64) @ self._weight.T + self._bias, axis=1)

    def _language_model(self, adapter: Path | None = None) -> Any:
        if "_loaded" in self.__dict__:
            return self._loaded
        with tempfile.TemporaryDirectory(prefix="slmkit-lora-") as folder:
            self._put(Path(folder))
            return super()._language_model(Path(folder))

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"warnings": watch.sentences(self.guard_)}

    def _adapter_bytes(self) -> int | None:
        return sum(map(len, self._files.values()))

    def _own_bytes(self) -> int:
        return self._adapter_bytes() or 0

    def _take(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        head = load_file(folder / "head.safetensors")
        self._weight, self._bias = head["weight"], head["bias"]
        wanted = [p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".safetensors")]
        self._files = {p.name: p.read_bytes() for p in wanted}

    def _put(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for name, content in self._files.items():
            (folder / name).write_bytes(content)

    def _write(self, folder: Path) -> None:
        super()._write(folder)
        self._put(folder / "adapter")

    def _read(self, folder: Path, values: Mapping[str, Any]) -> None:
        super()._read(folder, values)
        self._take(folder / "adapter")

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"history": getattr(self, "history_", []), "guard": getattr(self, "guard_", {})}, {}

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.history_, self.guard_ = facts["history"], facts.get("guard", {})


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
    classifier = known[values["class"]](**values["params"])
    classifier._read(Path(folder), values)
    return classifier


load_classifier = load
