"""A backend of NumPy alone, for documentation and quick tests: real arithmetic, but not a language model of use.

It counts: vectors are bags of hashed character n-grams times a fixed random matrix (which 8 and 4 bits really
quantise), and the next byte is predicted from how often it followed the last few bytes in a shipped paragraph and in
the prompt. It learns a linear head and nothing else. Never quote a score it makes.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from slmkit.backends import _course as course
from slmkit.backends import _shared as shared
from slmkit.backends.base import (
    Backend,
    Generation,
    LanguageModel,
    LoRAConfig,
    ModelSource,
    Progress,
    Watch,
    check_bits,
)
from slmkit.errors import AssetError, InputError

BUCKETS, HIDDEN, BLOCK = 1024, 64, 64
ORDER, SMOOTHING = 4, 0.5
SPECIAL, END = 1, 0  # one special token begins each text; byte 0 ends one
STEP_SCALE = 1000.0  # a linear head on vectors of length one wants larger steps than a transformer
PARAGRAPH = (
    b"The parcel office wrote on Monday that a small fee was due before the box could be sent. Anna read the "
    b"message twice. The link in it did not lead to the office, and the bank she called had heard of it before: it "
    b"was a fraud, the third one that week. She deleted the message and told her brother, who had paid. The bank "
    b"could send his money back, because he called on the same day. A good rule is to wait, to read the message "
    b"again, and to call the office on a number that you know. The company reported that its profit rose in the "
    b"first quarter, and that sales were better than in the year before.\n"
) + bytes([END])


class DummyModel(LanguageModel):
    """Hashed n-grams and byte counts; see the module's first lines for what it is not."""

    backend = "dummy"
    device = "cpu"

    def __init__(self, source: ModelSource, bits: int) -> None:
        self.source, self.bits = source, bits
        self.scheme = "fp16" if bits == 16 else f"uniform-b{BLOCK}-int{bits}"
        matrix = np.random.default_rng(0).standard_normal((BUCKETS, HIDDEN)).astype(np.float16)
        self._stored: dict[str, np.ndarray] | None = {"weight": matrix} if bits == 16 else quantise(matrix, bits)

    @property
    def _matrix(self) -> np.ndarray:
        stored = self._weights
        return stored["weight"].astype(np.float32) if self.bits == 16 else dequantise(stored, self.bits)

    @property
    def _weights(self) -> dict[str, np.ndarray]:
        self._check_alive()
        return self._stored or {}

    def _check_alive(self) -> None:
        if self._stored is None:
            raise InputError(f"model {self.source.name!r} was released; load it again")

    def loglikelihood(self, prompts: Sequence[str], continuations: Sequence[str]) -> np.ndarray:
        """Sum of log-probabilities of the continuation's bytes; see `LanguageModel.loglikelihood`."""
        self._check_alive()
        if not all(continuations):
            raise InputError("continuations must not be empty strings")
        values = [[_bytes_loglikelihood(p.encode(), c.encode()) for c in continuations] for p in prompts]
        return np.array(values, dtype=np.float64).reshape(len(prompts), len(continuations))

    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 128,
        *,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Iterator[str]:
        """Pieces of one text; see `LanguageModel.stream`. A token is a byte."""
        return self._write(prompt, max_new_tokens, temperature, stop, seed, shared.Writing())

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 128,
        *,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[Generation]:
        """Continue every prompt, byte by byte; see `LanguageModel.generate`."""
        out, counts = [], self.count_tokens(prompts)
        for prompt, n_prompt in zip(prompts, counts, strict=True):
            start, state = time.perf_counter(), shared.Writing()
            text = "".join(self._write(prompt, max_new_tokens, temperature, stop, seed, state))
            out.append(Generation(text, int(n_prompt), state.n_tokens, state.reason, time.perf_counter() - start))
        return out

    def _write(
        self,
        prompt: str,
        max_new_tokens: int,
        temperature: float,
        stop: Sequence[str],
        seed: int,
        state: shared.Writing,
    ) -> Iterator[str]:
        self._check_alive()
        shared.check_generation(max_new_tokens, temperature)
        tokens = _next_bytes(prompt.encode(), max_new_tokens, temperature, seed)
        return shared.write(tokens, lambda ids: bytes(ids).decode("utf-8", "replace"), stop, max_new_tokens, state)

    def embed(self, texts: Sequence[str], *, pooling: str | None = None, max_length: int | None = None) -> np.ndarray:
        """Bag of hashed n-grams times the matrix, float32 (n_texts, 64); "last" is squashed by tanh, "mean" is not."""
        matrix, pooling = self._matrix, shared.check_pooling(pooling)
        keep = None if max_length is None else max(max_length - SPECIAL, 0)
        bags = np.stack([_bag(text.encode()[:keep]) for text in texts]) if len(texts) else np.zeros((0, BUCKETS))
        vectors = (bags @ matrix).astype(np.float32)
        return np.tanh(vectors) if pooling == "last" else vectors

    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Bytes of each text and one special token; int64 (n_texts,)."""
        self._check_alive()
        return np.array([len(text.encode()) + SPECIAL for text in texts], dtype=np.int64)

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Raise `InputError`: there is no chat template."""
        raise InputError(f"model {self.source.name!r} has no chat template; give it a plain prompt")

    def weight_bytes(self) -> int:
        """Bytes of the matrix as stored, with the constants of its quantisation."""
        return sum(array.nbytes for array in self._weights.values())

    def n_parameters(self) -> int:
        """Entries of the matrix: 65,536."""
        return BUCKETS * HIDDEN

    def _let_go(self) -> object | None:
        stored, self._stored = self._stored, None
        return None if stored is None else next(iter(stored.values()))


class DummyBackend(Backend):
    """NumPy only; takes models named "dummy..." and ignores their folder."""

    name = "dummy"

    def is_available(self) -> tuple[bool, str]:
        """Available everywhere, chosen only by name."""
        return True, "NumPy only, for documentation and tests: not a language model of use, never chosen unasked."

    def load(
        self, source: ModelSource, *, bits: int = 16, adapter: Path | None = None, dtype: str | None = None
    ) -> LanguageModel:
        """Build the model. An adapter is a head only, so it changes no vector. `dtype` is ignored."""
        _check_source(source)
        model = DummyModel(source, check_bits(bits))
        if adapter is not None:
            _check_adapter(adapter)
            model.adapter = adapter
        return model

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
        """Train the head alone by gradient descent on `embed(..., pooling="last")`; see `Backend.train_lora`."""
        watch = watch or Watch()
        shared.check_training(texts, y, n_classes, config, course.problems(watch, n_classes))
        more, known = watch.held_out or ((), ())
        rows, targets = [*texts, *more], shared.targets(y, known, n_classes)
        with self.load(source, bits=bits) as model:
            x = model.embed(rows, pooling="last", max_length=config.max_length)
            lengths = np.minimum(model.count_tokens(rows), config.max_length)
        head = _Head(x, targets, lengths, len(texts), n_classes, config.class_weights)
        whole = course.identity(source, self.name, bits, "float64", [list(text.encode()) for text in rows], targets)
        some = [int(n) for n in lengths[: len(texts)]]
        entries = course.Course(head, some, config, watch, callback, whole, course.exact()).run()
        arrays = {"weight": head.weight.astype(np.float32), "bias": head.bias.astype(np.float32)}
        save_file(arrays, out / "head.safetensors")
        facts = {"backend": self.name, "model": source.name, "revision": source.revision, "bits": bits}
        (out / "adapter_config.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        return entries


def quantise(matrix: np.ndarray, bits: int) -> dict[str, np.ndarray]:
    """Uniform quantisation in blocks of 64: codes (packed in pairs at 4 bits), float16 scale and minimum a block."""
    blocks = matrix.astype(np.float32).reshape(-1, BLOCK)
    low = blocks.min(axis=1, keepdims=True).astype(np.float16)
    scale = ((blocks.max(axis=1, keepdims=True) - low) / (2**bits - 1)).astype(np.float16)
    codes = np.clip(np.rint((blocks - low) / scale.astype(np.float32)), 0, 2**bits - 1).astype(np.uint8)
    packed = codes if bits == 8 else codes[:, ::2] << 4 | codes[:, 1::2]
    return {"codes": packed, "scale": scale, "low": low}


def dequantise(stored: Mapping[str, np.ndarray], bits: int) -> np.ndarray:
    """The float32 matrix (1024, 64) that `quantise` stored."""
    packed = stored["codes"]
    codes = packed if bits == 8 else np.stack([packed >> 4, packed & 15], axis=-1).reshape(len(packed), BLOCK)
    values = codes.astype(np.float32) * stored["scale"].astype(np.float32) + stored["low"].astype(np.float32)
    return values.reshape(BUCKETS, HIDDEN)


def _check_source(source: ModelSource) -> None:
    if source.name != "dummy":
        raise InputError(f"backend dummy reads no files: a model's name must be 'dummy'; got {source.name!r}")


def _check_adapter(folder: Path) -> None:
    try:
        head = load_file(folder / "head.safetensors")
        shapes = head["weight"].shape, head["bias"].shape
    except (OSError, KeyError, ValueError) as error:
        raise AssetError(f"{folder} is not an adapter of backend dummy: {error}") from error
    if shapes[0][1:] != (HIDDEN,) or shapes[1] != shapes[0][:1]:
        raise AssetError(f"{folder} is no adapter of backend dummy: weight must be (n, {HIDDEN}); got {shapes[0]}")


def _bag(text: bytes) -> np.ndarray:
    bag = np.zeros(BUCKETS, dtype=np.float32)
    text = b" " + text.lower() + b" "
    for n in (1, 2, 3, 4):
        buckets = [zlib.crc32(text[i : i + n]) % BUCKETS for i in range(len(text) - n + 1)]
        np.add.at(bag, buckets, 1.0)
    return bag / np.linalg.norm(bag)


def _next_byte(known: np.ndarray) -> np.ndarray:
    """Probabilities (256,) of the byte after `known` (n,): add-k counts, each order smoothed by the one below it."""
    p = np.full(256, 1 / 256)
    for order in range(ORDER + 1):
        matches = np.ones(len(known) - order, dtype=bool)
        for i in range(order):
            matches &= known[i : len(known) - order + i] == known[len(known) - order + i]
        counts = np.bincount(known[order:][matches], minlength=256)
        strength = SMOOTHING * (256 if order == 0 else 8)
        p = (counts + strength * p) / (counts.sum() + strength)
    return p


def _history(prompt: bytes) -> bytes:
    return PARAGRAPH + b" " + prompt


def _bytes_loglikelihood(prompt: bytes, continuation: bytes) -> float:
    head = prompt.rstrip()  # white space at the end moves to the continuation, as in `_shared.pair_rows`
    prompt, continuation = head, prompt[len(head) :] + continuation
    known = np.frombuffer(_history(prompt) + continuation, dtype=np.uint8)
    first = len(known) - len(continuation)
    return float(sum(np.log(_next_byte(known[:end])[known[end]]) for end in range(first, len(known))))


def _next_bytes(prompt: bytes, max_new_tokens: int, temperature: float, seed: int) -> Iterator[int]:
    rng, known = np.random.default_rng(seed), bytearray(_history(prompt))
    for _ in range(max_new_tokens):
        p = _next_byte(np.frombuffer(bytes(known), dtype=np.uint8))
        if temperature > 0:
            p = p ** (1 / temperature)
        byte = int(rng.choice(256, p=p / p.sum())) if temperature > 0 else int(p.argmax())
        if byte == END:
            return
        known.append(byte)
        yield byte


class _Head:
    """A linear head that learns by gradient descent; the `_course.Learner` of this backend."""

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        lengths: np.ndarray,
        n_train: int,
        n_classes: int,
        class_weights: Sequence[float] | None,
    ) -> None:
        self.x, self.lengths, self.n_train = x, lengths, n_train
        self.y = y if y.ndim == 2 else np.eye(n_classes)[y]  # (n, n_classes)
        self.counts = self.y @ np.ones(n_classes) if class_weights is None else self.y @ np.array(class_weights)
        self.weight, self.bias = np.zeros((n_classes, HIDDEN)), np.zeros(n_classes)
        self._error, self._rows = np.zeros((0, n_classes)), np.zeros(0, dtype=np.int64)

    def ready(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def gradients(self, batch: np.ndarray, max_tokens: int) -> tuple[float, float]:
        proba = self._proba(batch)  # (B, n_classes)
        self._rows, self._error = batch, self.counts[batch, None] * (proba - self.y[batch]) / len(batch)
        return self._loss(proba, batch), float(np.linalg.norm(self._error))

    def update(self, rate: float) -> None:
        self.weight -= STEP_SCALE * rate * self._error.T @ self.x[self._rows]
        self.bias -= STEP_SCALE * rate * self._error.sum(axis=0)

    def free(self) -> None:
        pass

    def recompute(self) -> bool:
        return False  # it keeps nothing

    def count(self, batch: np.ndarray) -> int:
        return int(self.lengths[batch].sum())

    def measure(self, max_tokens: int) -> dict[str, float]:
        rows = np.arange(self.n_train, len(self.x))
        proba = self._proba(rows)
        accuracy = float(np.mean(proba.argmax(axis=1) == self.y[rows].argmax(axis=1)))
        return {"loss": self._loss(proba, rows), "accuracy": accuracy}

    def weights(self) -> dict[str, np.ndarray]:
        return {"weight": self.weight, "bias": self.bias}

    def moments(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, weights: Mapping[str, np.ndarray], moments: Mapping[str, np.ndarray] | None = None) -> None:
        self.weight, self.bias = weights["weight"].copy(), weights["bias"].copy()

    def _proba(self, rows: np.ndarray) -> np.ndarray:
        logits = self.x[rows] @ self.weight.T + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        return np.asarray(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))

    def _loss(self, proba: np.ndarray, rows: np.ndarray) -> float:
        return -float((self.counts[rows, None] * self.y[rows] * np.log(proba + 1e-30)).sum(axis=1).mean())


BACKEND = DummyBackend()
