"""Trains and applies LoRA adapters in mlx-lm's file layout, or trains the weights themselves: for labels with a head on
the last token, or for answers.

Logits over the vocabulary are computed where an answer's token is predicted and nowhere else; for labels not at all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

from slmkit.assets import ModelSource
from slmkit.backends import _checks, _memory
from slmkit.backends import _course as course
from slmkit.backends import _shared as shared
from slmkit.backends._mlx import full, loop
from slmkit.backends._mlx.model import head_of, hidden_size, pool, vocabulary
from slmkit.backends.base import LoRAConfig, Progress, Watch
from slmkit.errors import AssetError, InputError, SlmkitError

log = logging.getLogger(__name__)
LOGITS_AT_ONCE = 2**23  # logits over the vocabulary held together


class Classifier(nn.Module):
    """A causal model's blocks with LoRA, and a float32 head on the last token's hidden state."""

    def __init__(
        self, net: nn.Module, n_classes: int, config: LoRAConfig, y: np.ndarray, lengths: Sequence[int]
    ) -> None:
        super().__init__()
        self._class_weights = np.ones(n_classes) if config.class_weights is None else np.array(config.class_weights)
        self.net, self._lengths = net, np.asarray(lengths)
        self._y = np.asarray(y, dtype=np.float32 if np.ndim(y) == 2 else np.int64)  # probabilities (n, C), or indices
        width = hidden_size(net)
        self.head = nn.Linear(width, n_classes)
        self.head.weight = 0.02 * mx.random.normal((n_classes, width), key=mx.random.key(config.seed))
        self.head.bias = mx.zeros(n_classes)

    def loss(self, tokens: mx.array, some: np.ndarray, batch: np.ndarray) -> mx.array:
        """Share of some rows (B, T) in the mean cross-entropy of a batch."""
        logits = self._logits(tokens, some)
        y = self._y[some]
        counts = mx.array(self._class_weights[y] if y.ndim == 1 else np.ones(len(y)), dtype=mx.float32)
        return nn.losses.cross_entropy(logits, mx.array(y), counts, reduction="sum") / len(batch)

    def right(self, tokens: mx.array, some: np.ndarray) -> list[bool]:
        """Which of some rows (B, T) get their own label."""
        own = self._y[some].argmax(axis=1) if self._y.ndim == 2 else self._y[some]
        found: list[bool] = (np.array(self._logits(tokens, some).argmax(axis=1)) == own).tolist()
        return found

    def _logits(self, tokens: mx.array, some: np.ndarray) -> mx.array:
        last = pool(self.net.model(tokens), self._lengths[some].tolist(), "last")  # (B, H)
        return self.head(last)  # (B, n_classes)

    def count(self, batch: np.ndarray) -> int:
        """Tokens of a batch."""
        return int(self._lengths[batch].sum())


class Answerer(nn.Module):
    """A causal model with LoRA, to be trained on the answers of token rows, their ends included."""

    def __init__(self, net: nn.Module, pairs: Sequence[shared.Pair]) -> None:
        super().__init__()
        self.net, self._own_head, self._pairs = net, head_of(net), tuple(pairs)
        names = [name for name, _ in tree_flatten(net.trainable_parameters())]
        self._head_is_trained = any(".layers." not in name and "norm" not in name for name in names)

    def loss(self, tokens: mx.array, some: np.ndarray, batch: np.ndarray) -> mx.array:
        """Share of some rows (B, T) in the mean cross-entropy over the answers' tokens of a batch.

        Logits exist for these places alone, and are computed in chunks, anew on the way back.
        """
        pairs = [self._pairs[i] for i in some]
        spots = [(b, pair.start + t) for b, pair in enumerate(pairs) for t in range(len(pair.target))]
        wanted = mx.array([token for pair in pairs for token in pair.target])
        states = self.net.model(tokens)[mx.array([b for b, _ in spots]), mx.array([t for _, t in spots])]  # (N, H)
        at_once = max(1, LOGITS_AT_ONCE // vocabulary(self.net))
        total = mx.array(0.0)
        for first in range(0, len(spots), at_once):
            part = wanted[first : first + at_once]
            chunk = partial(self._chunk, part)  # a checkpoint passes no gradient to the head's own weights
            once = chunk if self._head_is_trained else mx.checkpoint(chunk)
            total = total + once(states[first : first + at_once])
        return total / self.count(batch)

    def _chunk(self, wanted: mx.array, states: mx.array) -> mx.array:
        logits = self._own_head(states[None])[0].astype(mx.float32)  # (n, V)
        return nn.losses.cross_entropy(logits, wanted, reduction="sum")

    def count(self, batch: np.ndarray) -> int:
        """Tokens of a batch that carry a loss."""
        return sum(len(self._pairs[i].target) for i in batch)

    def right(self, tokens: mx.array, some: np.ndarray) -> list[bool]:
        """Nothing: answers have no labels."""
        return []


@dataclass(frozen=True)
class How:
    """What `Backend.train_lora` and `Backend.train_completion` take alike."""

    config: LoRAConfig
    source: ModelSource
    bits: int
    out: Path
    callback: Progress | None
    watch: Watch


def train(
    net: nn.Module, rows: list[list[int]], y: np.ndarray, n_train: int, n_classes: int, how: How
) -> list[dict[str, float]]:
    """Train adapter (or weights) and head on the first token rows, the others held out; see `Backend.train_lora`."""
    parameters = _prepared(net, how.config, head=False)
    classifier = Classifier(net, n_classes, how.config, y, [len(row) for row in rows])
    history = _fit(classifier, rows, y.tolist(), n_train, parameters, how)
    head = {"weight": classifier.head.weight, "bias": classifier.head.bias}
    arrays = {name: array.astype(mx.float32) for name, array in head.items()}
    mx.save_safetensors(str(how.out / "head.safetensors"), arrays)
    return history


def train_completion(net: nn.Module, pairs: Sequence[shared.Pair], n_train: int, how: How) -> list[dict[str, float]]:
    """Train on the first answers, the others held out, and write what was trained; see `Backend.train_completion`."""
    parameters = _prepared(net, how.config, head=True)
    rows, starts = [pair.read for pair in pairs], [pair.start for pair in pairs]
    return _fit(Answerer(net, pairs), rows, starts, n_train, parameters, how)


def _prepared(net: nn.Module, config: LoRAConfig, *, head: bool) -> dict[str, Any] | None:
    """Put LoRA in place and return mlx-lm's settings for it, or open the weights themselves and return None."""
    if config.trains == "weights":
        full.open_up(net, config, head=head)
        return None
    return add_lora(net, config)


def _fit(
    learner: Classifier | Answerer,
    rows: Sequence[Sequence[int]],
    targets: Sequence[int],
    n_train: int,
    parameters: dict[str, Any] | None,
    how: How,
) -> list[dict[str, float]]:
    """Run the training and write what was trained; `SlmkitError` when it did not move (no gradient reaches it)."""
    before = full.glimpse(learner.net) if parameters is None else {}
    training = loop.Loop(learner, rows, n_train, how.config)
    under_way = _memory.Training(how.source.name, "mlx", how.bits, training.held_bytes)
    whole = course.identity(how.source, "mlx", how.bits, _dtype(learner.net), rows, targets)
    exact = course.exact("mlx", "mlx-lm", device=str(mx.default_device()))
    lengths = [len(row) for row in rows[:n_train]]
    history = course.Course(training, lengths, how.config, how.watch, how.callback, whole, exact).run()
    del under_way
    if parameters is None:
        full.save(learner.net, how.out, before, how.source)
        return history
    weights = dict(tree_flatten(learner.net.trainable_parameters()))
    if not any(bool(mx.any(array != 0)) for name, array in weights.items() if name.endswith("lora_b")):
        raise SlmkitError(f"training of {how.source.name} moved no adapter weight; mlx-lm cannot tune it")
    mx.save_safetensors(str(how.out / "adapters.safetensors"), weights)
    (how.out / "adapter_config.json").write_text(json.dumps(parameters, indent=1), encoding="utf-8")
    return history


def _dtype(net: Any) -> str:
    found = next(array for _, array in tree_flatten(net.parameters()) if array.dtype != mx.uint32)
    return str(found.dtype).removeprefix("mlx.core.")


def computed_in(net: Any) -> str:
    """The number type of a training, and why."""
    return f"{_dtype(net)}: what mlx holds these weights in"


def add_lora(net: Any, config: LoRAConfig) -> dict[str, Any]:
    """Freeze the model, put LoRA on every linear layer of its last blocks, and return mlx-lm's settings for it."""
    n_blocks = min(config.last_blocks or len(net.layers), len(net.layers))
    kinds = (nn.Linear, nn.QuantizedLinear)
    keys = sorted({name for block in net.layers for name, module in block.named_modules() if isinstance(module, kinds)})
    lora = {"rank": config.rank, "scale": config.alpha / config.rank, "dropout": 0.0, "keys": keys}
    net.freeze()
    linear_to_lora_layers(net, n_blocks, lora)
    layers = [(name, module) for name, module in net.named_modules() if isinstance(module, LoRALinear)]
    if not layers:
        raise InputError("the model's blocks have no linear layers that LoRA could adapt")
    for (_, layer), key in zip(layers, mx.random.split(mx.random.key(config.seed), len(layers)), strict=True):
        bound = layer.lora_a.shape[0] ** -0.5
        layer.lora_a = mx.random.uniform(-bound, bound, layer.lora_a.shape, key=key)
    return {"fine_tune_type": "lora", "num_layers": n_blocks, "lora_parameters": lora}


def apply(net: nn.Module, folder: Path, source: ModelSource, bits: int, tokenizer: Any) -> None:
    """Put a trained adapter on a loaded model, or trained weights in it.

    Raises
    ------
    InputError
        An adapter of another backend, or one that does not fit this model.
    AssetError
        Files missing or unreadable, or trained on another model or chat template.
    """
    _checks.check_adapter(folder, source, "mlx", tokenizer)
    if _checks.holds_weights(folder):
        return full.restore(net, folder, source, bits)
    _checks.check_adapter_files(folder, ("adapter_config.json", "adapters.safetensors"))
    try:
        facts = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(f"{folder} is not an adapter: {error}") from error
    if "lora_parameters" not in facts:
        raise InputError(f"{folder} is not an adapter of backend mlx (its adapter_config.json has no lora_parameters)")
    try:
        load_adapters(net, str(folder))
    except ValueError as error:
        raise InputError(f"the adapter in {folder} does not fit {source.name}: {str(error)[:300]}") from error
    except (RuntimeError, OSError) as error:
        raise AssetError(f"the adapter in {folder} cannot be read: {error}") from error
    net.eval()
    mx.eval(net.parameters())
