"""Sliding windows for mlx-lm's architectures that have them in their config.json but attend to everything.

mlx-lm 0.32 runs Mistral, Phi-3 and Gemma 2 with full attention: their numbers leave those of the published models as
soon as a text is longer than the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache

Windows = Sequence[int | None]  # of each block: tokens it sees, itself included; None for all


def run(body: Any, hidden: mx.array, cache: Any, windows: Windows, *, as_array: bool = False) -> mx.array:
    """Send embeddings (B, T, H) through the blocks of a body and its last norm, each block with its own mask.

    `as_array` is for attention that cannot take mlx's word for a causal mask.
    """
    cache = cache or [None] * len(body.layers)
    masks = {
        size: create_attention_mask(hidden, cache[windows.index(size)], window_size=size, return_array=as_array)
        for size in dict.fromkeys(windows)
    }
    for block, state, size in zip(body.layers, cache, windows, strict=True):
        hidden = block(hidden, masks[size], state)
    out: mx.array = body.norm(hidden)
    return out


def caches(windows: Windows) -> list[Any]:
    """Caches of keys and values, those of a window no longer than it."""
    return [KVCache() if size is None else RotatingKVCache(max_size=size) for size in windows]


def effective(size: int | None, context: int | None) -> int | None:
    """The window, or None where the context is no longer than it."""
    return None if not size or (context and size >= context) else size
