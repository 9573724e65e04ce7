"""Trains a model's own weights instead of an adapter: which of them, how they are kept, and how they are put back.

What is written is the trained tensors alone, in 16 bits and under transformers' names; the rest stays in the base
model, which the facts beside them name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from slmkit.assets import ModelSource
from slmkit.backends import _checks
from slmkit.backends._torch import loop, scoring
from slmkit.backends.base import TRAINED, LoRAConfig
from slmkit.errors import AssetError, SlmkitError

LOOKED_AT = 4096  # numbers of each tensor that tell whether it moved


def open_up(model: nn.Module, config: LoRAConfig, *, head: bool) -> nn.Module:
    """Let gradients reach the weights of the last blocks, or of the whole model.

    Parameters
    ----------
    model : nn.Module
        Loaded in 16 bits, frozen.
    config : LoRAConfig
        Its `last_blocks` is what is read.
    head : bool
        Whether the loss goes through the head over the vocabulary, so that it is trained with all the others.
    """
    model.requires_grad_(False)
    for part in _parts(model, config.last_blocks, head):
        for name, parameter in part.named_parameters():
            parameter.requires_grad_("pooler" not in name)  # BERT's is not on the way to a token's hidden state
    return model.eval()  # no dropout, as with adapters


def _parts(model: nn.Module, last_blocks: int | None, head: bool) -> Iterator[nn.Module]:
    if last_blocks is not None:
        yield from loop.last_of(model, last_blocks)
        return
    yield scoring.body_of(model)
    if head:
        yield model.get_output_embeddings()  # type: ignore[operator]


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights that gradients reach, tied ones once, by their name in the model."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def glimpse(model: nn.Module) -> dict[str, torch.Tensor]:
    """Some numbers of every trained weight as they are now, for `save` to tell whether it moved."""
    return {name: _some(parameter).clone() for name, parameter in trained(model).items()}


def _some(parameter: nn.Parameter) -> torch.Tensor:
    flat = parameter.detach().flatten()
    return flat[:: max(1, len(flat) // LOOKED_AT)]


def save(model: nn.Module, out: Path, before: dict[str, torch.Tensor]) -> None:
    """Write the trained weights to `out`; `SlmkitError` when most of them are what they were before."""
    weights = trained(model)
    still = [name for name, parameter in weights.items() if torch.equal(_some(parameter), before[name])]
    if len(still) > len(weights) // 2:
        raise SlmkitError(
            f"training left {len(still)} of {len(weights)} weights as they were ({still[0]}): no gradient came, "
            "or learning_rate is too small for 16 bits"
        )
    kept = {name: p.detach().to("cpu", _sixteen(p.dtype)).contiguous() for name, p in weights.items()}
    save_file(kept, out / TRAINED)


def _sixteen(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype == torch.float32 else dtype


@torch.no_grad()
def restore(model: nn.Module, folder: Path, source: ModelSource, bits: int) -> nn.Module:
    """The model with saved weights in the place of its own; `InputError` or `AssetError` says what does not fit."""
    _checks.check_weights(folder, source, bits)
    try:
        found = load_file(folder / TRAINED)
    except (SafetensorError, OSError) as error:
        raise AssetError(f"the weights in {folder} cannot be read: {error}") from error
    own = dict(model.named_parameters())
    misfit = f"the weights in {folder} do not fit {source.name}"
    _checks.check_counterparts({n: t.shape for n, t in found.items()}, {n: p.shape for n, p in own.items()}, misfit)
    for name, tensor in found.items():
        own[name].copy_(tensor)
    return model
