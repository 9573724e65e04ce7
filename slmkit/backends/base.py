"""The one seam between slmkit and the engines that run models: NumPy crosses it, tensors never do.

Everything above this file sees a `LanguageModel` and a `Backend` and neither torch nor mlx. The contract test
(`tests/test_backends.py`) is the definition of a backend; a new one is one file beside this, ending in `BACKEND = ...`.
"""

from __future__ import annotations

import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from slmkit import prompts
from slmkit.adapters.names import TRAINED as TRAINED
from slmkit.assets import ModelSource
from slmkit.backends import _memory
from slmkit.backends._records import Generation, Progress, Stored, Watch
from slmkit.errors import InputError

log = logging.getLogger(__name__)
BITS = (4, 8, 16)


@dataclass(frozen=True)
class LoRAConfig:
    """How an adapter, or the weights themselves, are trained.

    Attributes
    ----------
    rank, alpha : int
        Size of the adapter and its scale alpha / rank. More rank: more bytes, more room to fit.
    epochs : float
        Passes over the rows.
    learning_rate : float
        Peak of the one-cycle schedule (linear warm-up over a tenth of the steps, cosine to zero).
    batch_size : int
        Rows per optimiser step. Micro-batches below it keep memory small and do not change it.
    last_blocks : int or None
        Train only the last k blocks: quicker, often as accurate. None trains all, and where weights are trained the
        embedding and the head over the vocabulary (if the loss needs it) with them.
    max_length : int
        Tokens kept of each text; the rest is cut at the end.
    max_batch_tokens : int
        Tokens (padding included) in one micro-batch: the knob for memory.
    seed : int
        Order of rows and initial weights.
    lowest_rate : float or None
        Not None makes this a learning-rate range test (Smith 2017, arXiv 1506.01186): instead of one cycle the rate
        rises from here to `learning_rate` by the same factor a step, and the training ends where the loss diverges.
    class_weights : sequence of float or None
        What the loss of a row counts, by its class; None counts all alike.
    trains : {"adapter", "weights"}
        A LoRA adapter beside frozen weights, or the weights themselves: more room to fit and twelve more bytes of
        memory a weight (a float32 copy, its gradient, two moments), and what is saved is as large as what was trained.
    """

    rank: int = 16
    alpha: int = 32
    epochs: float = 3
    learning_rate: float = 5e-4
    batch_size: int = 16
    last_blocks: int | None = None
    max_length: int = 256
    max_batch_tokens: int = 512
    seed: int = 0
    lowest_rate: float | None = None
    class_weights: Sequence[float] | None = None
    trains: str = "adapter"


class LanguageModel(ABC):
    """A loaded, frozen model. Use it as a context manager, or call `release()`; `slmkit.memory()` lists those alive."""

    source: ModelSource
    bits: int
    scheme: str  # how weights are stored: "bf16", "nf4-dq-mse", "int8", "affine-g64"
    backend: str
    device: str  # "cpu", "cuda", "mps", "metal"
    adapter: Path | None = None  # what it was loaded with

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        model = super().__new__(cls)
        _memory.MODELS.add(model)
        return model

    @abstractmethod
    def loglikelihood(self, prompts: Sequence[str], continuations: Sequence[str]) -> np.ndarray:
        """Score every continuation after every prompt.

        Parameters
        ----------
        prompts : sequence of str
            A part that all prompts share at their beginning is computed once. BOS is added where the tokenizer
            adds it and the text does not already hold it.
        continuations : sequence of str
            The leading space belongs to the continuation (" positive").

        Returns
        -------
        ndarray of float64, shape (n_prompts, n_continuations)
            Sum of the log-probabilities of the continuation's tokens, in nats, <= 0.
        """

    @abstractmethod
    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 128,
        *,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Iterator[str]:
        """Yield the pieces of one generated text as they come; joined, they equal `generate`'s text."""

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 128,
        *,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[Generation]:
        """Continue every prompt. Temperature 0 is greedy and the same on every call."""

    @abstractmethod
    def embed(self, texts: Sequence[str], *, pooling: str | None = None, max_length: int | None = None) -> np.ndarray:
        """Turn texts into vectors.

        Parameters
        ----------
        texts : sequence of str
        pooling : {"mean", "last"} or None
            Mean over the tokens that are not padding, or the last of them (what a classification head reads).
            None takes "mean". Hidden states are those after the final norm; mean-pooled encoders are
            L2-normalised as their model card says, decoders are not.
        max_length : int or None
            Tokens kept of each text; None keeps what the model can read.

        Returns
        -------
        ndarray of float32, shape (n_texts, hidden)
            In the order of `texts`, whatever order they were computed in.
        """

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text, special ones included; int64, shape (n_texts,)."""

    @abstractmethod
    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Render messages ({"role", "content"}) with the model's own template, ready for its answer.

        Raises `InputError` when the model has no chat template.
        """

    def dialogue_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """What the model reads before it answers these messages, in the form that `slmkit.finetune` tunes it on.

        Its chat template, or a plain format ("User: ...", "Assistant:") for a model without one.
        """
        return self.chat_prompt(messages) if self.source.chat else prompts.dialogue(messages)

    def answer_loglikelihood(
        self, prompts: Sequence[str], answers: Sequence[str], max_length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score each answer, and that it ends, after its own prompt, as `Backend.train_completion` reads them.

        Parameters
        ----------
        prompts, answers : sequence of str, the same number
        max_length : int or None
            Tokens read of a row, its prompt cut at the beginning; None keeps what the model can read.

        Returns
        -------
        nats : ndarray of float64, shape (n_prompts,)
            Sum of the log-probabilities of the answer's tokens and of its end.
        n_tokens : ndarray of int64, shape (n_prompts,)
            Tokens scored; 0 (and 0 nats) where the answer alone is too long.
        """
        raise InputError(f"backend {self.backend!r} scores no dialogues; take bnb or mlx")

    def text_loglikelihood(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Score each text after its first word, so that no context has to be invented; texts of two words at least.

        Sums of log-probabilities, float64 nats (n_texts,), and the tokens scored, int64 (n_texts,).
        """
        raise InputError(f"backend {self.backend!r} scores no texts; take bnb or mlx")

    @abstractmethod
    def weight_bytes(self) -> int:
        """Bytes of all weights as stored, after quantisation, embeddings and quantisation constants included."""

    @abstractmethod
    def n_parameters(self) -> int:
        """Parameters of the base model, before quantisation; tied weights count once."""

    @abstractmethod
    def _let_go(self) -> object | None:
        """Forget the weights and what was built on them; the object that held them, or None if that was done before."""

    def _empty_cache(self) -> None:  # noqa: B027 - a CPU keeps none
        """Give the device's cached memory back."""

    def release(self) -> None:
        """Give the memory back. Safe to call twice; any later use raises `InputError`.

        Frames of the last exception may hold the weights, so their local variables are cleared (a traceback prints as
        before, a post-mortem debugger no longer sees them). A warning says what holds the weights if they stay.
        """
        weights = self._let_go()
        _memory.MODELS.discard(self)
        kept = None if weights is None else weakref.ref(weights)
        del weights
        _memory.drop_frames(*_memory.last_exceptions())
        _memory.give_back(self._empty_cache)
        if kept is not None and kept() is not None:
            names = ", ".join(_memory.holders(kept())) or "something Python cannot see"
            log.warning("the weights of %s were released but stay in memory, held by %s", self.source.name, names)

    def synchronize(self) -> None:  # noqa: B027 - a CPU has nothing to wait for
        """Wait until the device has finished, so that a clock read afterwards is true. Nothing to do on a CPU."""

    def __enter__(self) -> LanguageModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        _memory.drop_frames(value)
        self.release()


class Backend(ABC):
    """An engine. One instance a file, named `BACKEND`; `imports` names what takes it seconds to import."""

    name: str
    imports: tuple[str, ...] = ()

    def device_bytes(self) -> int | None:
        """Memory held on a GPU at this moment, its cache included; None on a CPU, or where the engine never ran."""
        return None

    @abstractmethod
    def is_available(self) -> tuple[bool, str]:
        """Probe the capability itself (never the platform's name); the reason is one readable sentence."""

    @abstractmethod
    def load(
        self, source: ModelSource, *, bits: int = 16, adapter: Path | None = None, dtype: str | None = None
    ) -> LanguageModel:
        """Load a model for inference.

        Parameters
        ----------
        source : ModelSource
        bits : {4, 8, 16}
            4 and 8 come from a pre-quantised copy in the cache, made on the first call.
        adapter : Path or None
            A folder that `train_lora` or `train_completion` wrote: an adapter, or weights that take the place of the
            model's own (16 bits only).
        dtype : {"float32", "bfloat16", "float16"} or None
            What to compute in; None takes what this device does best.
        """

    def count_tokens(self, source: ModelSource, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text, special ones included; int64, (n_texts,). Loads no weights if it can."""
        with self.load(source) as model:
            return model.count_tokens(texts)

    @abstractmethod
    def train_lora(
        self,
        source: ModelSource,
        texts: Sequence[str],
        y: np.ndarray,
        *,
        n_classes: int,
        bits: int,
        config: LoRAConfig,
        out: Path,
        callback: Progress | None = None,
        watch: Watch | None = None,
    ) -> list[dict[str, float]]:
        """Train an adapter (or weights, `config.trains`) and a classification head on the last token's hidden state.

        Loads weights of its own (a model that has scored may no longer be trainable) and leaves in `out` the adapter's
        files (or the weights) and `head.safetensors` with float32 `weight` (n_classes, hidden) and `bias` (n_classes,),
        so that `softmax(load(..., adapter=out).embed(texts, pooling="last", max_length=...) @ weight.T + bias)` are
        the probabilities on every backend; of an encoder with pooling "mean".

        Parameters
        ----------
        texts : sequence of str
        y : ndarray of int64, shape (n_texts,), or of float64, shape (n_texts, n_classes)
            Class indices 0 .. n_classes - 1, or probabilities of the classes: rows of them that are 0 and 1 train as
            indices do.
        out : Path
            A folder that exists and is empty.
        callback : callable or None
            Gets {"step", "steps", "epoch", "loss", "tokens_per_s", "seconds_left"} at most four times a second (and
            "resumed_at", the step it began with); an exception it raises stops the training and comes out of here.
        watch : Watch or None
            Checkpoints, a way to stop, held-out rows; None for none of them.

        Returns
        -------
        list of dict
            One entry an optimiser step: {"step", "epoch", "loss", "learning_rate", "tokens", "seconds",
            "tokens_per_s", "max_batch_tokens"}, those of a training gone on with included (work that was lost is not in
            "seconds"). `max_batch_tokens` is what was in force: where memory runs out it is halved and the step
            done again; "recomputed" is 1 where blocks were computed anew on the way back, since a single row was too
            much or `watch` said so. The last entry of an epoch has "held_out_loss" and "held_out_accuracy"; the very
            last has "stopped" where the training was told to stop, "stopped_early" where patience ended it.

        Raises
        ------
        InputError
            A loss or gradient that is not finite: the last good weights are kept as a checkpoint, and the message says
            what to try. Checkpoints of another training, with what differs.
        NotEnoughMemory
            Memory that does not suffice for a single row.
        """

    def quantise(self, source: ModelSource, *, bits: int, out: Path) -> Stored:
        """Write a model's config.json and quantised weights, as `load` reads them without a copy of its own.

        Parameters
        ----------
        source : ModelSource
            Stored in 16 bits.
        bits : {4, 8}
        out : Path
            A folder that exists and is empty. The caller adds tokenizer and card.

        Raises
        ------
        InputError, AssetError
            A model that this backend cannot run or read.
        """
        raise InputError(f"backend {self.name!r} stores no models: backend must be 'bnb' or 'mlx'; got {self.name!r}")

    def dialogue_prompts(self, source: ModelSource, dialogues: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
        """`LanguageModel.dialogue_prompt` of each dialogue. Loads no weights if it can."""
        with self.load(source) as model:
            return [model.dialogue_prompt(messages) for messages in dialogues]

    def train_completion(
        self,
        source: ModelSource,
        prompts: Sequence[str],
        answers: Sequence[str],
        *,
        bits: int,
        config: LoRAConfig,
        out: Path,
        callback: Progress | None = None,
        watch: Watch | None = None,
    ) -> list[dict[str, float]]:
        """Train an adapter to write an answer after its prompt, and to end it.

        The loss is the mean cross-entropy over the answer's tokens and the token that ends it; logits over the
        vocabulary are computed for these places alone, some at a time. Leaves in `out` an adapter without a head,
        which `load(..., adapter=out)` takes.

        Parameters
        ----------
        prompts : sequence of str
            As `dialogue_prompt` gives them and `generate` reads them.
        answers : sequence of str
            Spaces around them are taken off. Rows beyond `config.max_length` lose the beginning of their prompt; a
            row whose answer alone is longer is left out, and named in the log.
        bits, config, out, callback, watch
            As `train_lora` takes them; a batch is `config.batch_size` answers.

        Returns
        -------
        list of dict
            As of `train_lora`; `tokens` are those with a loss: of answers, their ends included.
        """
        raise InputError(f"backend {self.name!r} cannot tune on answers; take bnb or mlx")


def check_bits(bits: int) -> int:
    """Return `bits` if it is one a backend knows, else raise `InputError`."""
    if bits not in BITS:
        raise InputError(f"bits must be one of {', '.join(map(str, BITS))}; got {bits!r}")
    return bits
