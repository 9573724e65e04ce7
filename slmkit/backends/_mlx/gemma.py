"""Gemma for mlx-lm: its own, with the tanh form of GELU that the models were trained with.

The published config.json says "gelu" and means the approximation (transformers does so too); mlx-lm 0.32 computes the
exact form.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import gemma

ModelArgs = gemma.ModelArgs


class MLP(gemma.MLP):
    """The gated MLP of a block."""

    def __call__(self, x: mx.array) -> mx.array:
        """Both of shape (B, T, H)."""
        out: mx.array = self.down_proj(nn.gelu_approx(self.gate_proj(x)) * self.up_proj(x))
        return out


class Model(gemma.Model):
    """The causal model."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        for block in self.layers:
            block.mlp = MLP(args.hidden_size, args.intermediate_size)
