"""Trains an mlx-lm model's own weights instead of an adapter: which of them, how they are kept and put back.

What is trained is float32 while it is trained, so that small steps are not lost, and 16 bits when it is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from slmkit.assets import ModelSource
from slmkit.backends import _checks
from slmkit.backends.base import TRAINED, LoRAConfig
from slmkit.errors import AssetError, InputError, SlmkitError


def open_up(net: Any, config: LoRAConfig, *, head: bool) -> None:
    """Let gradients reach the weights of the last blocks, or of the whole model, and make those float32.

    Parameters
    ----------
    net : nn.Module
        mlx-lm's causal model in 16 bits.
    config : LoRAConfig
        Its `last_blocks` is what is read.
    head : bool
        Whether the loss goes through the head over the vocabulary, so that it is trained with all the others.
    """
    net.freeze()
    n_blocks = len(net.layers)
    if config.last_blocks is None:
        (net if head else net.model).unfreeze()
    elif not 1 <= config.last_blocks <= n_blocks:
        raise InputError(f"last_blocks must be between 1 and {n_blocks} for this model; got {config.last_blocks}")
    else:
        for block in net.layers[-config.last_blocks :]:
            block.unfreeze()
    net.update(tree_map(lambda array: array.astype(mx.float32), net.trainable_parameters()))


def glimpse(net: Any) -> dict[str, float]:
    """The sum of every trained weight as it is now, for `save` to tell whether it moved."""
    return {name: array.sum().item() for name, array in tree_flatten(net.trainable_parameters())}


def save(net: Any, out: Path, before: dict[str, float], source: ModelSource) -> None:
    """Write the trained weights to `out`; `SlmkitError` when most of them are what they were before."""
    now = glimpse(net)
    still = [name for name in now if now[name] == before[name]]
    if len(still) > len(now) // 2:
        raise SlmkitError(f"training of {source.name} moved none of {len(still)} weights ({still[0]})")
    kept = {name: array.astype(mx.bfloat16) for name, array in tree_flatten(net.trainable_parameters())}
    mx.save_safetensors(str(out / TRAINED), kept, {"format": "mlx"})


def restore(net: Any, folder: Path, source: ModelSource, bits: int) -> None:
    """Put saved weights in the place of a model's own; `InputError` or `AssetError` says what does not fit."""
    _checks.check_weights(folder, source, bits)
    try:
        found = dict(mx.load(str(folder / TRAINED)))
    except (RuntimeError, ValueError, OSError) as error:
        raise AssetError(f"the weights in {folder} cannot be read: {error}") from error
    own = dict(tree_flatten(net.parameters()))
    misfit = f"the weights in {folder} do not fit {source.name}"
    _checks.check_counterparts({n: a.shape for n, a in found.items()}, {n: a.shape for n, a in own.items()}, misfit)
    net.load_weights([(name, array.astype(own[name].dtype)) for name, array in found.items()], strict=False)
