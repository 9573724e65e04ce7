"""Trains and applies LoRA adapters in mlx-lm's file layout, with a classification head on the last token.

The loss is the cross-entropy of the head alone: logits over the vocabulary are never computed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

from slmkit.assets import ModelSource
from slmkit.backends import _checks, _memory
from slmkit.backends import _shared as shared
from slmkit.backends._mlx.model import hidden_size, pool
from slmkit.backends._mlx.phi3 import border_of, read_as
from slmkit.backends.base import LoRAConfig, Progress
from slmkit.errors import AssetError, InputError, SlmkitError

log = logging.getLogger(__name__)
MAX_NORM = 1.0


class Classifier(nn.Module):
    """A causal model's blocks with LoRA, and a float32 head on the last token's hidden state."""

    def __init__(self, net: nn.Module, n_classes: int, seed: int) -> None:
        super().__init__()
        self.net = net
        width = hidden_size(net)
        self.head = nn.Linear(width, n_classes)
        self.head.weight = 0.02 * mx.random.normal((n_classes, width), key=mx.random.key(seed))
        self.head.bias = mx.zeros(n_classes)

    def loss(self, tokens: mx.array, lengths: Sequence[int], y: mx.array, batch_size: int) -> mx.array:
        """Share of a micro-batch (B, T) in the mean cross-entropy of a batch of `batch_size` rows."""
        last = pool(self.net.model(tokens), lengths, "last")  # (B, H)
        return nn.losses.cross_entropy(self.head(last), y, reduction="sum") / batch_size


def train(
    net: nn.Module,
    rows: list[list[int]],
    y: np.ndarray,
    *,
    n_classes: int,
    config: LoRAConfig,
    source: ModelSource,
    bits: int,
    out: Path,
    callback: Progress | None,
) -> list[dict[str, float]]:
    """Train adapter and head on token rows and write both; see `Backend.train_lora`.

    Raises `SlmkitError` when the adapter did not move (an architecture whose layers LoRA does not reach).
    """
    parameters = add_lora(net, config)
    classifier = Classifier(net, n_classes, config.seed)
    optimiser = optim.AdamW(learning_rate=config.learning_rate, weight_decay=0.0, bias_correction=True)
    under_way = _memory.Training(source.name, "mlx", bits, lambda: _held_bytes(classifier, optimiser))
    history = _run(classifier, optimiser, rows, np.asarray(y), config, callback)
    del under_way
    weights = dict(tree_flatten(net.trainable_parameters()))
    if not any(bool(mx.any(array != 0)) for name, array in weights.items() if name.endswith("lora_b")):
        raise SlmkitError(f"training of {source.name} moved no adapter weight; mlx-lm cannot tune it")
    mx.save_safetensors(str(out / "adapters.safetensors"), weights)
    head = {"weight": classifier.head.weight, "bias": classifier.head.bias}
    mx.save_safetensors(str(out / "head.safetensors"), {name: array.astype(mx.float32) for name, array in head.items()})
    (out / "adapter_config.json").write_text(json.dumps(parameters, indent=1), encoding="utf-8")
    return history


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


def _held_bytes(classifier: Classifier, optimiser: optim.Optimizer) -> int:
    trees = (classifier.trainable_parameters(), optimiser.state)
    return sum(array.nbytes for tree in trees for _, array in tree_flatten(tree))


def _run(
    classifier: Classifier,
    optimiser: optim.Optimizer,
    rows: list[list[int]],
    y: np.ndarray,
    config: LoRAConfig,
    callback: Progress | None,
) -> list[dict[str, float]]:
    lengths = [len(row) for row in rows]
    plan, border = shared.training_plan(lengths, config), border_of(classifier.net)
    history = shared.History(len(plan), callback)
    value_and_grad = nn.value_and_grad(classifier, classifier.loss)
    classifier.train()
    for step, (epoch, batch) in enumerate(plan):
        loss, total = 0.0, None
        for part in shared.length_batches([lengths[i] for i in batch], config.max_batch_tokens, border=border):
            some = batch[part]
            read_as(classifier.net, max(lengths[i] for i in some))
            tokens = mx.array(shared.pad_right([rows[i] for i in some]))
            value, grads = value_and_grad(tokens, [lengths[i] for i in some], mx.array(y[some]), len(batch))
            total = grads if total is None else tree_map(mx.add, total, grads)
            mx.eval(value, total)
            loss += value.item()
        rate = shared.one_cycle(step, len(plan), config.learning_rate)
        optimiser.learning_rate = rate
        optimiser.update(classifier, optim.clip_grad_norm(total, MAX_NORM)[0])
        mx.eval(classifier.trainable_parameters(), optimiser.state)
        history.add(epoch, loss, rate, sum(lengths[i] for i in batch))
    classifier.eval()
    return history.entries


def apply(net: nn.Module, folder: Path, source: ModelSource, tokenizer: Any) -> None:
    """Put a trained adapter on a loaded model.

    Raises
    ------
    InputError
        An adapter of another backend, or one that does not fit this model.
    AssetError
        Files missing or unreadable, or trained on another model or chat template.
    """
    _checks.check_adapter(folder, source, "mlx", tokenizer)
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
