"""Phi-3 for mlx-lm: its own, with the sliding window of the config.json and both lists of LongRoPE factors.

mlx-lm 0.32 reads every text with the long factors. The models were made to read a text of up to
`original_max_position_embeddings` tokens with the short ones (Ding et al. 2024, arXiv 2402.13753); transformers does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import phi3

from slmkit.backends._mlx import windows


@dataclass
class ModelArgs(phi3.ModelArgs):
    """Settings of a config.json."""

    sliding_window: int | None = None


class LongRoPE(nn.Module):
    """Rotary positions whose frequencies depend on the length of the text: `read_as` says which hold.

    The keys of a cache were made with one of the two lists, so a text that grows beyond the border is read anew.
    """

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        scaling: dict[str, Any] = args.rope_scaling or {}
        self.dims = int(args.hidden_size // args.num_attention_heads * args.partial_rotary_factor)
        self.border, self.long = args.original_max_position_embeddings, False
        base = args.rope_theta ** (mx.arange(0, self.dims, 2, dtype=mx.float32) / self.dims)
        self._short = base * mx.array(scaling["short_factor"], dtype=mx.float32)
        self._long = base * mx.array(scaling["long_factor"], dtype=mx.float32)
        factor = scaling.get("factor") or args.max_position_embeddings / self.border
        default = math.sqrt(1 + math.log(factor) / math.log(self.border)) if factor > 1 else 1.0
        self.scale = float(scaling.get("attention_factor") or default)

    def __call__(self, x: mx.array, offset: int = 0) -> mx.array:
        """Rotate queries or keys (B, heads, T, head_dim)."""
        scaled = x.at[..., : self.dims].multiply(self.scale)
        freqs = self._long if self.long else self._short
        return mx.fast.rope(scaled, self.dims, traditional=False, base=None, scale=1.0, offset=offset, freqs=freqs)


class Phi3Model(phi3.Phi3Model):
    """Blocks that all see the same number of tokens."""

    args: ModelArgs

    @property
    def windows(self) -> windows.Windows:
        """Window of each block."""
        size = windows.effective(self.args.sliding_window, self.args.max_position_embeddings)
        return [size] * len(self.layers)

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        """Hidden states after the last norm, (B, T, H), of token ids (B, T)."""
        return windows.run(self, self.embed_tokens(inputs), cache, self.windows)


class Model(phi3.Model):
    """The causal model."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        self.model = Phi3Model(args)
        if args.rope_scaling and args.rope_scaling["type"] in ("longrope", "su"):
            for block in self.layers:
                block.self_attn.rope = LongRoPE(args)

    def make_cache(self) -> list[Any]:
        """An empty cache for each block."""
        return windows.caches(self.model.windows)


def border_of(net: nn.Module) -> int | None:
    """Tokens up to which a model with LongRoPE uses its short factors; None for other models."""
    return next((rope.border for rope in _ropes(net)), None)


def read_as(net: nn.Module, n_tokens: int) -> None:
    """Make a model with LongRoPE ready for texts of that many tokens; nothing to do for other models."""
    for rope in _ropes(net):
        rope.long = n_tokens > rope.border


def _ropes(net: Any) -> list[LongRoPE]:
    found = [getattr(getattr(block, "self_attn", None), "rope", None) for block in net.layers]
    return [rope for rope in found if isinstance(rope, LongRoPE)]
