"""Gemma 2 for mlx-lm: its own, with the sliding window of every other block (Gemma Team 2024, arXiv 2408.00118)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models import gemma2

from slmkit.backends._mlx import windows


@dataclass
class ModelArgs(gemma2.ModelArgs):
    """Settings of a config.json."""

    sliding_window: int | None = 4096
    layer_types: list[str] | None = None
    max_position_embeddings: int | None = None


class Gemma2Model(gemma2.GemmaModel):
    """Blocks that slide and blocks that see everything, in turn unless the config says otherwise."""

    args: ModelArgs

    @property
    def windows(self) -> windows.Windows:
        """Window of each block."""
        size = windows.effective(self.args.sliding_window, self.args.max_position_embeddings)
        types = self.args.layer_types or ["sliding_attention", "full_attention"] * len(self.layers)
        return [size if kind == "sliding_attention" else None for kind in types[: len(self.layers)]]

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        """Hidden states after the last norm, (B, T, H), of token ids (B, T)."""
        hidden = self.embed_tokens(inputs) * self.args.hidden_size**0.5
        return windows.run(self, hidden, cache, self.windows, as_array=True)


class Model(gemma2.Model):
    """The causal model."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        self.model = Gemma2Model(args)

    def make_cache(self) -> list[Any]:
        """An empty cache for each block."""
        return windows.caches(self.model.windows)
