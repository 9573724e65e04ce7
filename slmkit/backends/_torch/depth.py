"""How far apart the hidden states before and after blocks are: what blocks change little can be left out.

Read with hooks on the blocks, since the last of the hidden states that transformers hands out has been through the
final norm and the others have not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from slmkit.assets import ModelSource
from slmkit.backends import _shared as shared
from slmkit.backends._torch import device as devices
from slmkit.backends._torch import loading, loop, scoring, traits

BATCH_TOKENS = 256  # whose states before every block are held at once
States = list[torch.Tensor]


@contextmanager
def caught(model: nn.Module) -> Iterator[States]:
    """A list that each pass through the model fills anew: each block's input (B, T, H), and the last one's output."""
    states: States = []
    blocks = loop.blocks_of(model)

    def before(index: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if index == 0:
                states.clear()
            states.append(args[0] if args else kwargs["hidden_states"])

        return hook

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_pre_hook(before(i), with_kwargs=True) for i, block in enumerate(blocks)]
    handles.append(blocks[-1].register_forward_hook(after))
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def distances(source: ModelSource, texts: Sequence[str], *, last: bool, angles: bool, max_length: int) -> np.ndarray:
    """Distances between hidden states; see `slmkit.backends.block_distances`."""
    where = devices.pick_device()
    loading.check_architecture(source)
    tokenizer: Any = loading.load_tokenizer(source)
    model: Any = loading.load_module(source, 16, devices.choose_dtype(None, where), where)
    rows = shared.encode(tokenizer, texts, max_length, getattr(model.config, "max_position_embeddings", None))
    body, total, n = scoring.body_of(model), None, 0
    border, extra = traits.rope_border(model.config), {"use_cache": False} if source.kind == "decoder" else {}
    with caught(body) as states:
        for batch in shared.length_batches([len(row) for row in rows], BATCH_TOKENS, border=border):
            ids, mask = scoring.pad([rows[i] for i in batch], tokenizer.pad_token_id, where)
            body(input_ids=ids, attention_mask=mask, **extra)
            read = _last(mask) if last else mask.bool()
            units = nn.functional.normalize(torch.stack([s[read].float() for s in states]), dim=-1)  # (L + 1, N, H)
            cosines = torch.einsum("inh,jnh->ijn", units, units).clamp(-1, 1)
            found = (cosines.arccos() / torch.pi if angles else 1 - cosines).sum(-1).double().cpu().numpy()
            total, n = found if total is None else total + found, n + units.shape[1]
    assert total is not None
    return np.asarray(total / n)


def _last(mask: torch.Tensor) -> torch.Tensor:
    """Where the last token of each row is, as a mask (B, T)."""
    picked = torch.zeros_like(mask, dtype=torch.bool)
    picked[torch.arange(len(mask), device=mask.device), mask.sum(1) - 1] = True
    return picked
