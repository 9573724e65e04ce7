"""A decoder loaded by mlx-lm: log-likelihoods over a shared prefix, generation, hidden states.

Rows are padded on the right. Attention is causal, so padding never reaches a real token.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map
from mlx_lm.generate import generate_step, generation_stream, wired_limit
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from slmkit.assets import ModelSource
from slmkit.backends import _checks
from slmkit.backends import _completions as completions
from slmkit.backends import _shared as shared
from slmkit.backends._mlx.phi3 import border_of, read_as
from slmkit.backends._mlx.weights import Loaded, device_name
from slmkit.backends.base import Generation, LanguageModel
from slmkit.errors import InputError

BATCH_TOKENS = 8192
LOGITS_AT_ONCE = 2**24


class MLXModel(LanguageModel):
    """A frozen decoder on MLX; `LanguageModel` describes every method."""

    backend = "mlx"

    def __init__(self, source: ModelSource, bits: int, loaded: Loaded, tokenizer: Any) -> None:
        self.source, self.bits, self.scheme, self.device = source, bits, loaded.scheme, device_name()
        self._net: nn.Module | None = loaded.net
        self._head: Any = head_of(loaded.net)
        self._tokenizer = tokenizer
        self._stored_bytes, self._n_parameters = loaded.stored_bytes, loaded.n_parameters
        self._limit: int | None = loaded.config.get("max_position_embeddings")
        self._border = border_of(loaded.net)
        self._ends = shared.end_tokens(tokenizer, loaded.config.get("eos_token_id"))

    @property
    def _model(self) -> Any:
        self._check_alive()
        return self._net

    def _check_alive(self) -> None:
        if self._net is None:
            raise InputError(f"model {self.source.name!r} was released; load it again")

    def loglikelihood(self, prompts: Sequence[str], continuations: Sequence[str]) -> np.ndarray:
        """Score continuations; float64 (n_prompts, n_continuations), nats."""
        self._check_alive()
        table = shared.pair_rows(self._tokenizer, prompts, continuations, self._limit)
        return self._scores(table).reshape(len(prompts), len(continuations))

    def answer_loglikelihood(
        self, prompts: Sequence[str], answers: Sequence[str], max_length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score each answer and its end after its own prompt; float64 nats (n_prompts,) and int64 tokens."""
        self._check_alive()
        most = min(filter(None, (max_length, self._limit)), default=sys.maxsize)
        how: dict[str, Any] = {"chat": self.source.chat, "ends": self._ends, "max_length": most}
        pairs, kept = completions.pairs(self._tokenizer, prompts, answers, **how)
        nats, n_tokens = np.zeros(len(prompts)), np.zeros(len(prompts), dtype=np.int64)
        nats[kept] = self._scores([[pair] for pair in pairs])
        n_tokens[kept] = [len(pair.target) for pair in pairs]
        return nats, n_tokens

    def text_loglikelihood(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Score each text after its first word; float64 nats (n_texts,) and int64 tokens."""
        self._check_alive()
        pairs = completions.from_first_words(self._tokenizer, texts, self._limit)
        return self._scores([[pair] for pair in pairs]), np.array([len(p.target) for p in pairs], dtype=np.int64)

    def _scores(self, table: Sequence[Sequence[shared.Pair]]) -> np.ndarray:
        """Nats of all pairs of a table, float64 (n_pairs,), in its order."""
        reads, places = shared.plan_reads(table, self._border)
        out = np.zeros(len(places))
        for group in shared.alike(reads, self._limit, self._border):
            rows = set(group)
            self._score(reads, {p: place for p, place in enumerate(places) if place[0] in rows}, out)
        return out

    def _score(self, reads: list[tuple[int, ...]], places: dict[int, shared.Place], out: np.ndarray) -> None:
        rows = sorted({row for row, _, _ in places.values()})
        read_as(self._model, max(len(reads[k]) for k in rows))
        n_shared, prefix = self._shared_prefix([reads[k] for k in rows], [start for _, start, _ in places.values()])
        room = max(1, BATCH_TOKENS // max(n_shared, 1)) if prefix else 64
        for batch in shared.length_batches([len(reads[k]) - n_shared for k in rows], BATCH_TOKENS, min(room, 64)):
            here = {rows[b]: i for i, b in enumerate(batch)}
            tokens = mx.array(shared.pad_right([reads[k][n_shared:] for k in here]))  # (B, T)
            hidden = self._model.model(tokens, cache=repeated(prefix, len(here)) if prefix else None)  # (B, T, H)
            cells = [
                (p, here[row], start - n_shared + t, token)
                for p, (row, start, target) in places.items()
                if row in here
                for t, token in enumerate(target)
            ]
            self._add_cells(hidden, cells, out)

    def _shared_prefix(self, rows: list[tuple[int, ...]], starts: list[int]) -> tuple[int, list[Any] | None]:
        """Length and KV cache of what all rows begin with; nothing where a cache cannot be repeated."""
        if len(rows) < 2:
            return 0, None
        n_shared = shared.shared_beginning(rows, starts, self._border)
        cache = make_prompt_cache(self._model)
        if n_shared == 0 or any(type(layer) not in (KVCache, RotatingKVCache) for layer in cache):
            return 0, None
        self._model.model(mx.array(rows[0][:n_shared])[None], cache=cache)
        mx.eval([layer.state for layer in cache])
        return n_shared, cache

    def _add_cells(self, hidden: mx.array, cells: list[tuple[int, int, int, int]], out: np.ndarray) -> None:
        """Add each cell's log-probability (place, row, position, token) to its place."""
        spots = sorted({(row, position) for _, row, position, _ in cells})
        index = {spot: n for n, spot in enumerate(spots)}
        vectors = hidden[mx.array([r for r, _ in spots]), mx.array([t for _, t in spots])]  # (N, H)
        at_once = max(1, LOGITS_AT_ONCE // vocabulary(self._model))
        for first in range(0, len(spots), at_once):
            logits = self._head(vectors[None, first : first + at_once])[0].astype(mx.float32)  # (n, V)
            mine = [(p, index[r, t] - first, token) for p, r, t, token in cells if 0 <= index[r, t] - first < at_once]
            picked = logits[mx.array([n for _, n, _ in mine]), mx.array([token for *_, token in mine])]
            values = picked - mx.logsumexp(logits, axis=-1)[mx.array([n for _, n, _ in mine])]
            np.add.at(out, [p for p, _, _ in mine], np.array(values, dtype=np.float64))

    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 128,
        *,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Iterator[str]:
        """Pieces of one text as they come."""
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
        """Continue every prompt, one after the other."""
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
        ids = shared.encode(self._tokenizer, [prompt])[0]
        room = max_new_tokens if self._limit is None else self._limit - len(ids)
        if room < 1:
            raise _checks.no_room(len(ids), self._limit or 0)
        most = min(max_new_tokens, room)
        tokens = self._new_tokens(ids, most, sampler(temperature, seed))
        return shared.write(tokens, self._decode, stop, most, state)

    def _new_tokens(self, ids: list[int], max_new_tokens: int, choose: Any) -> Iterator[int]:
        """Next tokens, up to an end token; a text that grows beyond the border of LongRoPE is read anew."""
        ids, left, border = list(ids), max_new_tokens, self._border
        with wired_limit(self._model, [generation_stream]):  # type: ignore[list-item]
            while left > 0:
                crosses = border is not None and len(ids) <= border
                now = min(left, border - len(ids) + 1) if border is not None and crosses else left
                read_as(self._model, len(ids))
                steps = generate_step(mx.array(ids), self._model, max_tokens=now, sampler=choose)
                with closing(steps):
                    for token, _ in steps:
                        if int(token) in self._ends:
                            return
                        ids.append(int(token))
                        yield int(token)
                left -= now

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def embed(self, texts: Sequence[str], *, pooling: str | None = None, max_length: int | None = None) -> np.ndarray:
        """Hidden states after the final norm, pooled; float32 (n_texts, hidden)."""
        model, pooling = self._model.model, shared.check_pooling(pooling)
        rows = shared.encode(self._tokenizer, texts, max_length, self._limit)
        out = np.zeros((len(rows), hidden_size(self._model)), dtype=np.float32)
        for batch in shared.length_batches([len(row) for row in rows], BATCH_TOKENS, border=self._border):
            some = [rows[i] for i in batch]
            read_as(self._model, len(some[0]))
            hidden = model(mx.array(shared.pad_right(some)))  # (B, T, H)
            out[batch] = np.array(pool(hidden, [len(row) for row in some], pooling))
        return out

    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text, special ones included; int64 (n_texts,)."""
        self._check_alive()
        return shared.count_tokens(self._tokenizer, texts)

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Render messages with the model's own template, ready for its answer."""
        self._check_alive()
        return shared.chat_prompt(self._tokenizer, messages, self.source.name)

    def dialogue_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """What the model reads before it answers; what looks like a special token in a message is inert."""
        self._check_alive()
        return completions.prompt(self.source, self._tokenizer, messages)

    def weight_bytes(self) -> int:
        """Bytes of the base model's weights as stored; an adapter is not counted."""
        self._check_alive()
        return self._stored_bytes

    def n_parameters(self) -> int:
        """Parameters of the base model before quantisation, tied weights once."""
        return self._n_parameters

    def _let_go(self) -> object | None:
        net, self._net, self._head = self._net, None, None
        return net

    def _empty_cache(self) -> None:
        mx.clear_cache()

    def peak_device_bytes(self) -> int | None:
        """Highest memory mlx held on a GPU so far; None on a CPU."""
        return None if self.device == "cpu" else int(mx.get_peak_memory())

    def synchronize(self) -> None:
        """Wait until mlx has finished."""
        mx.synchronize()


class _GivenHidden:
    """Stands where the blocks were and hands on what it is given, so that the model's own head can be used alone."""

    def __init__(self, blocks: nn.Module) -> None:
        self._blocks = blocks

    def __call__(self, hidden: mx.array, *_: object, **__: object) -> mx.array:
        return hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blocks, name)


def head_of(net: nn.Module) -> nn.Module:
    """The head of a causal model as its own code computes it (tied, scaled or capped): (1, N, H) -> (1, N, V)."""
    head = copy.copy(net)
    head.model = _GivenHidden(net.model)
    return head


def hidden_size(net: Any) -> int:
    """Width of the hidden states, from the arguments the model was built with."""
    return int(getattr(net.args, "hidden_size", None) or net.args.n_embd)


def pool(hidden: mx.array, lengths: Sequence[int], pooling: str) -> mx.array:
    """Pool hidden states (B, T, H) over the first `lengths` tokens of each row; float32 (B, H)."""
    sizes = mx.array(list(lengths))
    if pooling == "last":
        return hidden[mx.arange(len(lengths)), sizes - 1].astype(mx.float32)
    mask = (mx.arange(hidden.shape[1])[None] < sizes[:, None]).astype(mx.float32)  # (B, T)
    return (hidden.astype(mx.float32) * mask[..., None]).sum(axis=1) / sizes[:, None]


def repeated(cache: list[Any], n: int) -> list[Any]:
    """The KV cache of one row as a cache of `n` equal rows; the one given stays as it is."""

    def widen(value: Any) -> Any:
        return mx.broadcast_to(value, (n, *value.shape[1:])) if isinstance(value, mx.array) else value

    out = [copy.copy(layer) for layer in cache]
    for layer in out:
        layer.state = tree_map(widen, layer.state)
    return out


def sampler(temperature: float, seed: int) -> Any:
    """A function from log-probabilities (1, V) to a token (1,), with a random key of its own."""
    if temperature == 0:
        return lambda logprobs: mx.argmax(logprobs, axis=-1)
    state = {"key": mx.random.key(seed)}

    def sample(logprobs: mx.array) -> mx.array:
        state["key"], now = mx.random.split(state["key"])
        return mx.random.categorical(logprobs.astype(mx.float32) / temperature, key=now)

    return sample


def vocabulary(net: Any) -> int:
    """Rows of the vocabulary's head, from the arguments the model was built with."""
    return int(getattr(net.args, "vocab_size", 2**15))
