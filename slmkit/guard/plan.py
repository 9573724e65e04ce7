"""What is about to be trained and what came out of it, as the guard's checks look at them; no check sees more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from slmkit import backends
from slmkit.assets import ModelSource
from slmkit.backends._reading import Reading
from slmkit.backends.base import Backend, LanguageModel, LoRAConfig

SAMPLE_ROWS, SAMPLE_TOKENS, SAMPLE_LEAST = 64, 4096, 8
MAX_READ = 2000  # rows whose tokens are looked at; of more, that many spread evenly
PROBES = (  # short, ordinary, written for this
    "The parcel arrives on Thursday.",
    "Please confirm your account today, or it will be closed.",
    "Sales rose by a tenth in the second quarter, more than expected.",
    "Thank you, that was kind.",
    "no",
)


@dataclass(frozen=True)
class Plan:
    """A training before it runs.

    Attributes
    ----------
    engine : Backend
    source : ModelSource
    bits : int
    config : LoRAConfig
    texts : sequence of str
        Texts to label, or prompts with their answers.
    codes : ndarray of int, shape (n,), or None
        Class indices; None for a training on answers. Probabilities of the classes, shape (n, n_classes), become
        `proba`, and the likeliest classes `codes`.
    classes : sequence of str
        Their names.
    answers : sequence of str or None
    held_out : sequence of str
        Texts (of dialogues: what `learned` holds) that the training must not have seen.
    learned : sequence of str or None
        What stands against `held_out`; None takes `texts`.
    questions : sequence of lists of messages
        The dialogues that `texts` were rendered from, one each.
    proba : ndarray, shape (n, n_classes), or None
        Label probabilities to learn from a teacher.
    """

    engine: Backend
    source: ModelSource
    bits: int
    config: LoRAConfig
    texts: Sequence[str]
    codes: np.ndarray | None = None
    classes: Sequence[Any] = ()
    answers: Sequence[str] | None = None
    held_out: Sequence[str] = ()
    learned: Sequence[str] | None = None
    questions: Sequence[Sequence[Mapping[str, str]]] = ()
    proba: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.codes is not None and np.ndim(self.codes) == 2:
            object.__setattr__(self, "proba", np.asarray(self.codes))
            object.__setattr__(self, "codes", np.asarray(self.codes).argmax(axis=1))

    @property
    def y(self) -> np.ndarray | None:
        """What a training for labels learns: codes, or probabilities where they are given."""
        return self.codes if self.proba is None else self.proba

    @cached_property
    def rows(self) -> np.ndarray:
        """Positions of the texts whose tokens are looked at."""
        n = len(self.texts)
        return np.unique(np.linspace(0, n - 1, min(n, MAX_READ)).round().astype(int))

    @cached_property
    def reading(self) -> Reading | None:
        """Their tokens, as the training reads them."""
        answers = None if self.answers is None else [self.answers[i] for i in self.rows]
        return backends.read(self.engine, self.source, [self.texts[i] for i in self.rows], answers)

    def named(self, code: int) -> str:
        """A class by its name."""
        return repr(str(self.classes[code])) if code < len(self.classes) else str(code)


@dataclass(frozen=True)
class Outcome:
    """What a training left, or what stands in a folder.

    Attributes
    ----------
    source : ModelSource
    folder : Path
        The adapter's files.
    plan : Plan or None
        None where only the folder is known.
    model : LanguageModel or None
        Loaded anew with the adapter.
    history : sequence of dict
        See `Backend.train_lora`.
    n_classes : int or None
        None for a model that answers.
    max_length : int
    classes : sequence
    probes : ndarray or None
        What was written down for `PROBES` when the training was done.
    losses : tuple of float or None
        Loss on held-out answers before and after.
    """

    source: ModelSource
    folder: Path
    plan: Plan | None = None
    model: LanguageModel | None = None
    history: Sequence[Mapping[str, float]] = ()
    n_classes: int | None = None
    max_length: int = 256
    classes: Sequence[Any] = ()
    probes: np.ndarray | None = None
    losses: tuple[float, float] | None = None

    @property
    def pooling(self) -> str:
        """What the head reads of a text's vectors."""
        return "mean" if self.source.kind == "encoder" else "last"

    @cached_property
    def sample_rows(self) -> list[int]:
        """Some of the learned rows, drawn at random, with no more tokens than are read in a second or two."""
        if self.plan is None or self.model is None:
            return []
        n = len(self.plan.texts)
        drawn = np.random.default_rng(0).permutation(n)[:SAMPLE_ROWS]
        lengths = self.model.count_tokens([self.plan.texts[i] for i in drawn])
        ends = np.cumsum(np.minimum(lengths, self.plan.config.max_length))
        return [int(i) for i in drawn[: max(SAMPLE_LEAST, int((ends <= SAMPLE_TOKENS).sum()))]]

    @cached_property
    def sample(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Codes of these rows, and the probabilities that the loaded model gives them; None where there are none."""
        if self.plan is None or self.plan.codes is None or not self.sample_rows:
            return None
        proba = self.probabilities([self.plan.texts[i] for i in self.sample_rows])
        return None if proba is None else (np.asarray(self.plan.codes)[self.sample_rows], proba)

    @cached_property
    def head(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Weight (n_classes, hidden) and bias of the saved head, or None where there is none that can be read."""
        from safetensors.numpy import load_file

        path = self.folder / "head.safetensors"
        if not path.is_file():
            return None
        try:
            arrays = load_file(path)
        except Exception:  # safetensors raises an error of its own; the check of the files names it
            return None
        return (arrays["weight"], arrays["bias"]) if {"weight", "bias"} <= set(arrays) else None

    @cached_property
    def probe_values(self) -> np.ndarray | None:
        """What the loaded model says of `PROBES`: probabilities (5, n_classes), or nats a token of answers (5,)."""
        if self.model is None:
            return None
        return self.nats(PROBES) if self.n_classes is None else self.probabilities(PROBES)

    def nats(self, texts: Sequence[str]) -> np.ndarray:
        """Nats a token of texts as answers to themselves, shape (n,)."""
        assert self.model is not None
        asked = [self.model.dialogue_prompt([{"role": "user", "content": text}]) for text in texts]
        nats, n_tokens = self.model.answer_loglikelihood(asked, texts)
        return np.asarray(nats / np.maximum(n_tokens, 1))

    def probabilities(self, texts: Sequence[str]) -> np.ndarray | None:
        """What the loaded model and the saved head say of texts, shape (n, n_classes)."""
        if self.model is None or self.head is None:
            return None
        weight, bias = self.head
        vectors = self.model.embed(texts, pooling=self.pooling, max_length=self.max_length).astype(np.float64)
        if vectors.shape[1] != weight.shape[1]:
            return None
        logits = vectors @ weight.T.astype(np.float64) + bias
        logits -= logits.max(axis=1, keepdims=True)
        return np.asarray(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
