"""What a `Playground` holds and does, without any widget: one or two models, a text, and what they make of it.

The models are loaded in this process, when they are first asked, by `slmkit.playground`; they answer in a background
thread that an event stops.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import traitlets

from slmkit import assets, catalog, finetune, plots, text
from slmkit.errors import InputError, unknown
from slmkit.estimator import FILE
from slmkit.jobs.background import EVERY_S, Job, Snapshot
from slmkit.playground import MODES, Occluded, Reply, Session, Sorted
from slmkit_widgets import display
from slmkit_widgets.models.base import ViewModel
from slmkit_widgets.models.progress import Shown

BITS = (16, 8, 4)
TAIL = 3000  # characters of a dialogue on the page, the newest
SETTINGS = ("bits", "text", "max_new_tokens", "temperature")
BUSY = ("busy", "stopping")
OCCLUSION = (
    "Each word was left out in turn; a bar says how much lower the probability of the label is without it. That is "
    "what the model does with this text, not why, and words that say the same cover for each other."
)


class PlaygroundModel(ViewModel):
    """Models side by side.

    Attributes
    ----------
    first, second : str
        Models as `slmkit.playground.Session` takes them; `second` may be "".
    mode : {"chat", "classify"}
    labels : str
        Of plain models that classify: labels between commas, or a task's name; "" takes those of a saved classifier.
    bits : {16, 8, 4} or None
        Of plain models.
    text : str
        What they are asked, or shall sort.
    max_new_tokens : int
    temperature : float
        0 takes the likeliest token, the same each time.
    state : str
        "ready", "busy" or "stopping".
    progress : Shown
    about : tuple of str
        Scores on held-out rows that stand in their folders, the floor's beside them; how they share the memory.
    said, figures : tuple of str
        The dialogue with each model; tokens/s and memory of its newest answer.
    table : tuple of dict
        Probability of each label.
    probabilities, words : go.Figure or None
        The same as a picture, and what each word counted for.
    word_table : tuple of dict
    word_said : str
        What the word picture means.
    replies : list of Reply or Sorted
        What the models answered last.
    """

    first = traitlets.Unicode()
    second = traitlets.Unicode()
    mode = traitlets.Unicode("chat")
    labels = traitlets.Unicode()
    bits = traitlets.Int(None, allow_none=True)
    text = traitlets.Unicode()
    max_new_tokens = traitlets.Int(128)
    temperature = traitlets.Float(0.0)
    state = traitlets.Unicode("ready", read_only=True)
    progress = traitlets.Instance(Shown, (), read_only=True)
    about = traitlets.Tuple(read_only=True)
    said = traitlets.Tuple(("", ""), read_only=True)
    figures = traitlets.Tuple(("", ""), read_only=True)
    table = traitlets.Tuple(read_only=True)
    probabilities = traitlets.Any(None, read_only=True)
    words = traitlets.Any(None, read_only=True)
    word_table = traitlets.Tuple(read_only=True)
    word_said = traitlets.Unicode(read_only=True)
    mode_options: traitlets.List[Any] = traitlets.List(
        [("chat: they answer", "chat"), ("classify: they sort", "classify")], read_only=True
    )
    bits_options: traitlets.List[Any] = traitlets.List(
        [("as usual", None), *((str(b), b) for b in BITS)], read_only=True
    )
    first_options: traitlets.List[Any] = traitlets.List(read_only=True)
    second_options: traitlets.List[Any] = traitlets.List(read_only=True)

    def __init__(self, names: str | Sequence[str], mode: str, labels: Any = None, **settings: Any) -> None:
        given = [names] if isinstance(names, str) else [str(name) for name in names]
        if not 1 <= len(given) <= 2:
            raise InputError(f"one or two models can be tried side by side; got {len(given)}: {given!r:.200}")
        if other := sorted(set(settings) - {*SETTINGS}):
            raise InputError(f"unknown settings {', '.join(other)}; known: {', '.join(SETTINGS)}")
        told = labels if isinstance(labels, str) else ", ".join(labels or ())
        self.replies: list[Any] = []
        self.job: Job | None = None
        self._session: Session | None = None
        self._closed, self._last = threading.Event(), 0.0
        super().__init__(first=given[0], second=given[1] if len(given) > 1 else "", mode=mode, labels=told, **settings)
        self.attempt(self._open)
        self._offer()
        self._write()
        self.observe(lambda change: self._changed(), ["first", "second", "mode", "labels", "bits"])
        self.observe(lambda change: self._write(), ["text", "max_new_tokens", "temperature"])

    @traitlets.validate("mode")
    def _check_mode(self, proposal: Mapping[str, Any]) -> str:
        if proposal["value"] not in MODES:
            raise unknown("mode", proposal["value"], MODES)
        return str(proposal["value"])

    @traitlets.validate("max_new_tokens", "temperature")
    def _check_number(self, proposal: Mapping[str, Any]) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        least = 1 if name == "max_new_tokens" else 0
        if value < least:
            raise InputError(f"{name} must be at least {least}; got {value!r}")
        return value

    @property
    def names(self) -> list[str]:
        """The models, one or two."""
        return [name for name in (self.first, self.second) if name]

    def describe(self) -> str:
        """What was answered and the Python, in plain text."""
        return "\n".join([*filter(None, (*self.said, *self.figures)), self.code])

    # -- commands

    def ask(self, *, wait: bool = False) -> None:
        """Have the models answer or sort the text, in the background; `wait` comes back when they have."""
        session = self._ready()
        if not self.text.strip():
            raise InputError("there is no text: write one first")
        work = self._answer if self.mode == "chat" else self._sort
        self._begin(Job(work, session, self.text), wait)

    def explain(self, *, wait: bool = False) -> None:
        """Say which words mattered to the first model."""
        session = self._ready()
        if self.mode != "classify":
            raise InputError("which words mattered can be said of labels: take mode classify")
        self._begin(Job(self._explain, session, self.text), wait)

    def stop(self) -> None:
        """Stop at the next token or batch; what was written stays."""
        if self.state not in BUSY or self.job is None:
            raise InputError("nothing runs here that could be stopped")
        self.set_trait("state", "stopping")
        self._show("Stopping.")
        self.job.cancel()

    def forget(self) -> None:
        """Begin the dialogue anew."""
        self._ready().forget()
        self.set_trait("said", ("", ""))
        self.set_trait("figures", ("", ""))

    def close(self) -> None:
        """Stop, and free the models."""
        self._closed.set()
        if self.job is not None:
            self.job.cancel()
        self._drop()
        super().close()

    def _ready(self) -> Session:
        if self.state in BUSY:
            raise InputError("the models are at work: let them end, or press Stop first")
        return self._open()

    def _begin(self, job: Job, wait: bool) -> None:
        self.job = job.watch(self._heard)
        self.set_trait("state", "busy")
        self._show("At work: the models are loaded when they are first asked.", busy=True)
        job.start()
        if wait:
            try:
                job.result()
            except KeyboardInterrupt:
                job.cancel()
                raise

    def take(self, names: Sequence[str], mode: str) -> None:
        """Have other models, or another mode, all at once."""
        before = (self.first, self.second, self.mode)
        with self.held():
            self.first, self.second, self.mode = names[0], names[1] if len(names) > 1 else "", mode
        if before != (self.first, self.second, self.mode):
            self._changed()

    # -- the models

    def _open(self) -> Session:
        if self._session is None:
            self._session = Session(self.names, self.mode, labels=self._labels(), bits=self.bits)
            self.set_trait("about", tuple(self._session.about))
        return self._session

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _labels(self) -> str | list[str] | None:
        given = self.labels.strip()
        if "," in given:
            return [part.strip() for part in given.split(",") if part.strip()]
        return given or None

    def _changed(self) -> None:
        """Other models or another mode: those before are freed, and what they said is taken away."""
        if self._busy:
            return
        if self.job is not None and self.state in BUSY:
            self.job.cancel()
        self._drop()
        for name in ("said", "figures"):
            self.set_trait(name, ("", ""))
        self._forget_sorting()
        self.set_trait("about", ())
        self._offer()
        self._write()
        self.attempt(self._open)

    def _forget_sorting(self) -> None:
        for name in ("table", "word_table"):
            self.set_trait(name, ())
        for name in ("probabilities", "words"):
            self.set_trait(name, None)
        self.set_trait("word_said", "")

    def _offer(self) -> None:
        here = [name for name, entry in catalog.MODELS.items() if entry.kind == "decoder" and assets.on_disk(name)]
        known = dict.fromkeys([*self.names, *here, *_folders()])
        self.set_trait("first_options", display.choices(known))
        self.set_trait("second_options", [("none", ""), *display.choices(known)])

    def _write(self) -> None:
        names = self.names if len(self.names) > 1 else self.names[0] if self.names else ""
        own = {"labels": self._labels(), "bits": self.bits}
        more = "".join(f", {name}={value!r}" for name, value in own.items() if value is not None)
        what = {"chat": "ask", "classify": "sort"}[self.mode]
        usual = {"max_new_tokens": 128, "temperature": 0.0} if self.mode == "chat" else {}
        how = "".join(f", {n}={getattr(self, n)!r}" for n, value in usual.items() if getattr(self, n) != value)
        show = {"chat": "found.text, found.tokens_per_s", "classify": "found.label, found.probabilities"}[self.mode]
        self.code = (
            f"from slmkit.playground import Session\n\nwith Session({names!r}, {self.mode!r}{more}) as session:\n"
            f"    for found in session.{what}({self.text or '...'!r}{how}):\n        print(found.name, {show})"
        )

    # -- in the thread of the job

    def _answer(self, session: Session, message: str, *, progress: Any = None, cancel: Any = None) -> list[Reply]:
        def heard(i: int, told: str, n_tokens: int, seconds: float) -> None:
            now = time.monotonic()
            if now - self._last >= EVERY_S:
                self._last = now
                rate = f" · {(n_tokens - 1) / seconds:,.1f} tokens/s" if seconds and n_tokens > 1 else ""
                self._put("said", i, _dialogue(session.turns(i), self.names[i], message, told))
                self._put("figures", i, f"{n_tokens} tokens{rate}")

        how: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature}
        replies = session.ask(message, **how, heard=heard, progress=progress, cancel=cancel)
        for i, reply in enumerate(replies):
            self._put("said", i, _dialogue(session.turns(i), reply.name))
            self._put("figures", i, _reply_figures(reply))
        self.replies = replies
        return replies

    def _sort(self, session: Session, message: str, *, progress: Any = None, cancel: Any = None) -> list[Sorted]:
        found = session.sort(message, progress=progress, cancel=cancel)
        if not self._closed.is_set():
            self._forget_sorting()
            self.set_trait("table", tuple(_rows(found)))
            shares = [(one.name, one.classes, one.probabilities) for one in found]
            self.set_trait("probabilities", plots.label_probabilities(shares))
            for i, one in enumerate(found):
                self._put("figures", i, _sorted_figures(one))
        self.replies = list(found)
        return found

    def _explain(self, session: Session, message: str, *, progress: Any = None, cancel: Any = None) -> Occluded:
        told = session.explain(message, progress=progress, cancel=cancel)
        if not self._closed.is_set():
            name = text.clean(self.names[0], 60)
            self.set_trait("words", plots.word_changes(told.words, told.label, told.probability, name))
            left = f" The last {told.n_left} words were not tried." if told.n_left else ""
            self.set_trait("word_said", OCCLUSION + left)
            points = [{"word": word, "points": f"{100 * change:+.1f}"} for word, change in told.words]
            self.set_trait("word_table", tuple(points))
        return told

    def _put(self, name: str, i: int, value: str) -> None:
        if not self._closed.is_set():
            both = list(getattr(self, name))
            both[i] = value
            self.set_trait(name, tuple(both))

    def _heard(self, now: Snapshot) -> None:
        if self._closed.is_set():
            return
        if now.state == "running":
            self._show(now.message.capitalize(), busy=True, done=now.step or 0, total=now.steps or 0)
            return
        if now.state == "failed":
            self.error = text.clean(now.message, 600)
        ended = {"failed": "That failed; the cause is above.", "cancelled": "Stopped."}.get(now.state, "Done.")
        self._show(ended, done=1, total=1)
        self.set_trait("state", "ready")

    def _show(self, said: str, **changes: Any) -> None:
        self.set_trait("progress", Shown(said=said, **changes))


def _dialogue(turns: Sequence[Mapping[str, str]], name: str, message: str = "", told: str = "") -> str:
    """A dialogue as text, its newest end."""
    now = [{"role": "user", "content": message}, {"role": "assistant", "content": told}] if message else []
    named = {"user": "You", "assistant": text.clean(name, 60)}
    lines = [f"{named[turn['role']]}: {text.clean_document(turn['content'], TAIL)}" for turn in [*turns, *now]]
    whole = "\n\n".join(lines)
    return whole if len(whole) <= TAIL else f"...{whole[-TAIL:]}"


def _reply_figures(reply: Reply) -> str:
    how = "stopped" if reply.stopped else f"{reply.seconds:.1f} s in all"
    rate = f"{reply.n_tokens} tokens · {reply.tokens_per_s:,.1f} tokens/s"
    return f"{rate} · the first after {reply.first_s:.1f} s · {how} · {_memory(reply)}"


def _sorted_figures(one: Sorted) -> str:
    return f"{text.clean(one.label, 60)} · {one.seconds:.2f} s · {_memory(one)}"


def _memory(one: Reply | Sorted) -> str:
    return f"{text.megabytes(one.stored_bytes)} stored · {text.megabytes(one.rss_bytes)} in this process now"


def _rows(found: Sequence[Sorted]) -> Iterator[dict[str, Any]]:
    classes = dict.fromkeys(label for one in found for label in one.classes)
    names = [f"{i + 1}: {one.name}" for i, one in enumerate(found)]
    for label in classes:
        shares = [dict(zip(one.classes, one.probabilities, strict=True)).get(label) for one in found]
        told = ["-" if share is None else text.percent(share) for share in shares]
        yield {"label": label, **dict(zip(names, told, strict=True))}


def _folders() -> list[str]:
    """What was tuned or saved under `runs`, the newest first."""
    found = [place for pattern in ("*", "models/*") for place in Path("runs").glob(pattern)]
    kept = [place for place in found if (place / finetune.FILE).is_file() or (place / FILE).is_file()]
    return [str(place) for place in sorted(kept, key=lambda place: -place.stat().st_mtime)]
