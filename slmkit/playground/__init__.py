"""Tries models side by side: answers as they are written, labels with their probabilities, and the words that mattered.

Both models stay loaded where memory suffices for both, else one at a time; each passes `slmkit.load`'s memory check.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from slmkit import footprint, jobs, tasks, text
from slmkit.backends.base import LanguageModel, Progress
from slmkit.errors import InputError, unknown
from slmkit.playground.asked import Asked, together
from slmkit.playground.occlusion import MOST_WORDS, Occluded, occlude

__all__ = ["MOST_WORDS", "Occluded", "Reply", "Session", "Sorted", "occlude"]
MODES = ("chat", "classify")
Heard = Callable[[int, str, int, float], None]  # position of the model, its answer so far, tokens, seconds of writing


@dataclass(frozen=True)
class Reply:
    """What one model answered.

    Attributes
    ----------
    name, text : str
    n_tokens : int
        Pieces of text as they came: tokens, but that several of them may make one character and come together.
    first_s, seconds : float
        Until the first piece of text came (the prompt is read in that time), and in all.
    stopped : bool
        Whether it was stopped before its end.
    stored_bytes, rss_bytes : int
        Weights as stored, and this process's resident memory, all its models included.
    """

    name: str
    text: str
    n_tokens: int
    first_s: float
    seconds: float
    stopped: bool
    stored_bytes: int
    rss_bytes: int

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second after the first piece came; 0 where there is nothing to time."""
        writing = self.seconds - self.first_s
        return (self.n_tokens - 1) / writing if writing > 0 and self.n_tokens > 1 else 0.0


@dataclass(frozen=True)
class Sorted:
    """How one model sorted a text.

    Attributes
    ----------
    name : str
    classes : tuple of str
    probabilities : tuple of float
    seconds : float
    stored_bytes, rss_bytes : int
        As of a `Reply`; a floor weighs what it stored.
    """

    name: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    seconds: float
    stored_bytes: int
    rss_bytes: int

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.classes[int(np.argmax(self.probabilities))]


class Session:
    """One or two models to try; a context manager, or `close()` frees them.

    Parameters
    ----------
    names : str or sequence of str
        Catalog names, folders or hub ids, folders that `slmkit.tune` wrote, and saved classifiers. A plain model sorts
        by its prompt, without training.
    mode : {"chat", "classify"}
    labels : sequence of str or str or None
        Of plain models that sort: the classes, or a task's name, which brings its instruction too. None takes those of
        a saved classifier among the names.
    bits, backend
        As `slmkit.load` takes them; saved and tuned folders keep their own bits.

    Raises
    ------
    InputError
        An unknown mode, no model or more than two, labels that are missing, a folder that does something else.
    """

    def __init__(
        self,
        names: str | Sequence[str],
        mode: str = "chat",
        *,
        labels: str | Sequence[str] | None = None,
        bits: int | None = None,
        backend: str | None = None,
    ) -> None:
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
        self.names = [names] if isinstance(names, str) else [str(name) for name in names]
        if not 1 <= len(self.names) <= 2 or not all(self.names):
            raise InputError(f"one or two models can be tried side by side; got {len(self.names)}: {self.names!r:.200}")
        self.mode, self._backend = mode, backend
        self._asked = [Asked.of(name, mode, bits) for name in self.names]
        self._task = None if mode == "chat" else self._classes(labels)
        self._open: dict[int, Any] = {}
        self._turns: list[list[dict[str, str]]] = [[] for _ in self.names]
        self._lock, self._closed = threading.Lock(), threading.Event()
        self.keeps_both = len(self.names) == 1 or together(self._asked) <= footprint.memory_limit()[0]

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def about(self) -> list[str]:
        """What is known of each model's score on held-out rows, and how they are kept in memory."""
        said = [f"{one.name}: {line}" for one in self._asked for line in one.scores()]
        if not self.keeps_both:
            said.append("Memory does not suffice for both at once: each is loaded anew for its answer.")
        return said

    def turns(self, i: int) -> list[dict[str, str]]:
        """What was said to and by the model at position `i`."""
        return [dict(turn) for turn in self._turns[i]]

    def forget(self) -> None:
        """Begin the dialogue anew."""
        self._turns = [[] for _ in self.names]

    def ask(
        self,
        message: str,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        seed: int = 0,
        heard: Heard | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> list[Reply]:
        """Have each model answer, one after the other, so that neither slows the other; what was said before counts.

        Parameters
        ----------
        message : str
        max_new_tokens, temperature, seed
            As `LanguageModel.generate` takes them.
        heard : callable or None
            Gets the answer as it grows.
        cancel : threading.Event or None
            Set it and the answer ends with the present token; it is kept as it is.
        """
        self._check("chat", message)
        replies = []
        for i, asked in enumerate(self._asked):
            turn = {"role": "user", "content": message}
            with self._using(i, progress, cancel) as model:
                prompt = model.dialogue_prompt([*self._turns[i], turn])
                pieces = model.stream(prompt, max_new_tokens, temperature=temperature, seed=seed)
                reply = self._written(i, asked, model, pieces, heard, cancel)
            if reply.text:
                self._turns[i] += [turn, {"role": "assistant", "content": reply.text}]
            replies.append(reply)
            if reply.stopped:
                break
        return replies

    def sort(
        self, message: str, *, progress: Progress | None = None, cancel: threading.Event | None = None
    ) -> list[Sorted]:
        """Have each model sort a text."""
        self._check("classify", message)
        found = []
        for i, asked in enumerate(self._asked):
            with self._using(i, progress, cancel) as model:
                began = time.perf_counter()
                [probabilities] = model.predict_proba([message])
                seconds, stored = time.perf_counter() - began, int(model.facts().get("stored_bytes") or 0)
                classes = tuple(map(str, model.classes_))
                shares = tuple(map(float, probabilities))
                found.append(Sorted(asked.name, classes, shares, seconds, stored, _rss()))
        return found

    def explain(
        self, message: str, i: int = 0, *, progress: Progress | None = None, cancel: threading.Event | None = None
    ) -> Occluded:
        """Say which words mattered to the model at position `i`: the change of its label's probability without each."""
        self._check("classify", message)
        with self._using(i, progress, cancel) as model:
            return occlude(model.predict_proba, message, model.classes_, progress=progress, cancel=cancel)

    def close(self) -> None:
        """Free the models; one that is at work is freed when it has stopped. Twice is once."""
        self._closed.set()
        if self._lock.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._lock.release()

    def _check(self, mode: str, message: str) -> None:
        if self.mode != mode:
            raise InputError(f"this session is for mode {self.mode!r}; open one with mode={mode!r}")
        if not message.strip():
            raise InputError("there is no text: write one first")

    def _classes(self, labels: str | Sequence[str] | None) -> dict[str, Any]:
        """Classes of the models that sort by prompt, and how they are asked."""
        if isinstance(labels, str):
            task = tasks.named(labels)
            return {"labels": list(task.labels), "instruction": task.instruction, "label_words": task.label_words,
                    "noun": task.noun.capitalize()}  # fmt: skip
        named = labels or next((one.classes for one in self._asked if one.classes), None)
        if any(one.kind == "model" for one in self._asked) and len(set(named or ())) < 2:
            raise InputError(
                "labels are needed for a model that is not a saved classifier: labels=['fraud', 'legitimate'], or the "
                "name of a task"
            )
        return {"labels": [str(name) for name in named or ()]}

    @contextmanager
    def _using(self, i: int, progress: Progress | None, cancel: threading.Event | None) -> Iterator[Any]:
        """A model in use: loaded when it is not, released when it may not stay."""
        with self._lock:
            try:
                if self._closed.is_set():
                    raise InputError("these models were closed; open them anew")
                if cancel is not None and cancel.is_set():
                    raise jobs.Cancelled("stopped on request")
                if i not in self._open:
                    if progress is not None:
                        progress({"message": f"loading {text.clean(self.names[i], 80)}"})
                    self._open[i] = self._asked[i].load(self._backend, self._task)
                yield self._open[i]
            finally:
                if self._closed.is_set() or not self.keeps_both:
                    self._release()

    def _written(
        self, i: int, asked: Asked, model: LanguageModel, pieces: Any, heard: Heard | None, cancel: Any
    ) -> Reply:
        began, told, stopped, first, n_tokens = time.perf_counter(), "", False, 0.0, 0
        for n_tokens, piece in enumerate(pieces, 1):
            first = first or time.perf_counter() - began
            told += piece
            if heard is not None:
                heard(i, told, n_tokens, time.perf_counter() - began - first)
            if self._closed.is_set() or (cancel is not None and cancel.is_set()):
                stopped = True
                break
        pieces.close()
        seconds, stored = time.perf_counter() - began, model.weight_bytes()
        return Reply(asked.name, told.strip(), n_tokens, first, seconds, stopped, stored, _rss())

    def _release(self) -> None:
        for model in self._open.values():
            model.release()
        self._open.clear()


def _rss() -> int:
    return int(psutil.Process().memory_info().rss)
