"""Mistral for mlx-lm: its Llama, with the sliding window of the config.json in every block (Jiang et al. 2023)."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.models import llama

from slmkit.backends._mlx import windows

ModelArgs = llama.ModelArgs


class MistralModel(llama.LlamaModel):
    """Blocks that all see the same number of tokens."""

    @property
    def windows(self) -> windows.Windows:
        """Window of each block."""
        size = windows.effective(self.args.sliding_window, self.args.max_position_embeddings)
        return [size] * len(self.layers)

    def __call__(self, inputs: mx.array, cache: Any = None, input_embeddings: mx.array | None = None) -> mx.array:
        """Hidden states after the last norm, (B, T, H), of token ids (B, T)."""
        hidden = self.embed_tokens(inputs) if input_embeddings is None else input_embeddings
        return windows.run(self, hidden, cache, self.windows)


class Model(llama.Model):
    """The causal model."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        self.model = MistralModel(args)

    def make_cache(self) -> list[Any]:
        """An empty cache for each block."""
        return windows.caches(self.model.windows)
