"""Falcon for mlx-lm: decoders with one head of keys and values (7B), groups of them (40B, 180B, 11B) or all (RW).

The architecture is that of Almazrouei et al., "The Falcon Series of Open Language Models" (arXiv 2311.16867); each
setting means what it means in transformers' `FalconConfig`. One layout holds all three kinds of attention: the fused
projection gives, for each head of keys and values, its query heads, then its key, then its value.

The file follows mlx-lm's conventions and imports nothing but mlx and mlx-lm, so that it can stand in `mlx_lm/models`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import BaseModelArgs, create_attention_mask, scaled_dot_product_attention
from mlx_lm.models.cache import BatchRotatingKVCache, RotatingKVCache
from mlx_lm.models.rope_utils import initialize_rope

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": nn.gelu,
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "relu": nn.relu,
    "silu": nn.silu,
}
ROPES = ("default", "linear", "dynamic", "llama3", "yarn")
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")


@dataclass
class ModelArgs(BaseModelArgs):
    """Settings of a config.json; the defaults are those of Falcon 7B.

    Raises
    ------
    ValueError
        Settings that no Falcon can have, all of them, each by its key.
    """

    model_type: str = "falcon"
    vocab_size: int = 65024
    hidden_size: int = 4544
    num_hidden_layers: int = 32
    num_attention_heads: int = 71
    num_kv_heads: int | None = None
    num_ln_in_parallel_attn: int | None = None
    layer_norm_epsilon: float = 1e-5
    new_decoder_architecture: bool = False
    multi_query: bool = True
    parallel_attn: bool = True
    alibi: bool = False
    bias: bool = False
    ffn_hidden_size: int | None = None
    activation: str = "gelu"
    max_position_embeddings: int = 2048
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.new_decoder_architecture:  # always grouped and parallel, whatever the other flags say
            self.num_kv_heads = self.num_kv_heads or self.num_attention_heads
            self.num_ln_in_parallel_attn = self.num_ln_in_parallel_attn or 2
            self.parallel_attn = True
        else:
            self.num_kv_heads = 1 if self.multi_query else self.num_attention_heads
        if self.ffn_hidden_size is None and _is_size(self.hidden_size):
            self.ffn_hidden_size = 4 * self.hidden_size
        moved = self.rope_parameters or {}  # where transformers 5 writes them
        self.rope_theta = self.rope_theta or moved.get("rope_theta", 10000.0)
        if self.rope_scaling is None and moved.get("rope_type", "default") != "default":
            self.rope_scaling = moved
        if wrong := self._wrong():
            raise ValueError("; ".join(wrong))

    def _wrong(self) -> list[str]:
        sizes = {name: getattr(self, name) for name in SIZES}
        found = [f"{name} must be a whole number above 0; got {n!r}" for name, n in sizes.items() if not _is_size(n)]
        return found or self._wrong_together()

    def _wrong_together(self) -> list[str]:
        heads, shared, norms = self.num_attention_heads, self.num_kv_heads or 1, self.num_ln_in_parallel_attn
        rope, found = self.rope_scaling or {}, []
        if self.hidden_size % heads:
            found.append(f"hidden_size must be a multiple of num_attention_heads; got {self.hidden_size} and {heads}")
        if heads % shared:
            found.append(f"num_attention_heads must be a multiple of num_kv_heads; got {heads} and {shared}")
        if self.activation not in ACTIVATIONS:
            found.append(f"activation must be one of {', '.join(ACTIVATIONS)}; got {self.activation!r}")
        if norms not in (None, 1, 2):
            found.append(f"num_ln_in_parallel_attn must be 1 or 2; got {norms!r}")
        if norms == 2 and not self.new_decoder_architecture:
            found.append("num_ln_in_parallel_attn can be 2 only with new_decoder_architecture; got 2 without it")
        kind = rope.get("rope_type") or rope.get("type", "default")
        if kind not in ROPES:
            found.append(f"rope_type must be one of {', '.join(ROPES)}; got {kind!r}")
        return found

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads


def _is_size(value: object) -> bool:
    return isinstance(value, int) and value > 0


class Attention(nn.Module):
    """Causal attention over shared heads of keys and values, with rotary positions or ALiBi."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.n_kv_heads, self.head_dim = args.num_kv_heads or 1, args.head_dim
        self.scale = self.head_dim**-0.5
        width = (args.num_attention_heads + 2 * self.n_kv_heads) * self.head_dim
        self.query_key_value = nn.Linear(args.hidden_size, width, bias=args.bias)
        self.dense = nn.Linear(args.hidden_size, args.hidden_size, bias=args.bias)
        if not args.alibi:
            limit = args.max_position_embeddings
            self.rope = initialize_rope(self.head_dim, args.rope_theta, False, args.rope_scaling, limit)

    def __call__(self, x: mx.array, mask: Any = None, cache: Any | None = None) -> mx.array:
        B, L, _ = x.shape
        qkv = self.query_key_value(x).reshape(B, L, self.n_kv_heads, -1, self.head_dim)  # (B, L, G, H / G + 2, D)
        queries = qkv[..., :-2, :].reshape(B, L, -1, self.head_dim).transpose(0, 2, 1, 3)  # (B, H, L, D)
        keys = qkv[..., -2, :].transpose(0, 2, 1, 3)  # (B, G, L, D)
        values = qkv[..., -1, :].transpose(0, 2, 1, 3)
        if "rope" in self:
            offset = 0 if cache is None else cache.offset
            queries, keys = self.rope(queries, offset=offset), self.rope(keys, offset=offset)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        output = scaled_dot_product_attention(queries, keys, values, cache=cache, scale=self.scale, mask=mask)
        return self.dense(output.transpose(0, 2, 1, 3).reshape(B, L, -1))


class MLP(nn.Module):
    """Two layers without a gate."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(args.hidden_size, args.ffn_hidden_size, bias=args.bias)
        self.dense_4h_to_h = nn.Linear(args.ffn_hidden_size, args.hidden_size, bias=args.bias)
        self._act = ACTIVATIONS[args.activation]

    def __call__(self, x: mx.array) -> mx.array:
        return self.dense_4h_to_h(self._act(self.dense_h_to_4h(x)))


class TransformerBlock(nn.Module):
    """Attention and MLP side by side (one norm for both, or one each), or one after the other."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.parallel = args.parallel_attn
        self.self_attention = Attention(args)
        self.mlp = MLP(args)
        if args.num_ln_in_parallel_attn == 2:
            names = ["ln_attn", "ln_mlp"]
        else:
            names = ["input_layernorm"] if self.parallel else ["input_layernorm", "post_attention_layernorm"]
        for name in names:
            setattr(self, name, nn.LayerNorm(args.hidden_size, eps=args.layer_norm_epsilon))

    def __call__(self, x: mx.array, mask: Any = None, cache: Any | None = None) -> mx.array:
        if "ln_attn" in self:
            return x + self.self_attention(self.ln_attn(x), mask, cache) + self.mlp(self.ln_mlp(x))
        normed = self.input_layernorm(x)
        attended = self.self_attention(normed, mask, cache)
        if self.parallel:
            return x + attended + self.mlp(normed)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x))


class FalconModel(nn.Module):
    """Embeddings, blocks and the last norm."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args = args
        self.word_embeddings = nn.Embedding(args.vocab_size, args.hidden_size)
        self.h = [TransformerBlock(args) for _ in range(args.num_hidden_layers)]
        self.ln_f = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_epsilon)

    def __call__(self, inputs: mx.array, cache: Any | None = None) -> mx.array:
        """Hidden states after the last norm, (B, L, hidden), of token ids (B, L)."""
        x = self.word_embeddings(inputs)
        cache = cache or [None] * len(self.h)
        if self.args.alibi:
            mask = alibi_mask(x, cache[0], self.args)
        else:
            mask = create_attention_mask(x, cache[0])
        for layer, c in zip(self.h, cache, strict=True):
            x = layer(x, mask, c)
        return self.ln_f(x)


class Model(nn.Module):
    """The causal model: logits over the vocabulary."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args = args
        self.model_type = args.model_type
        self.model = FalconModel(args)
        if not args.tie_word_embeddings:
            self.lm_head = nn.Linear(args.hidden_size, args.vocab_size, bias=False)

    def __call__(self, inputs: mx.array, cache: Any | None = None) -> mx.array:
        """Logits (B, L, vocabulary) of token ids (B, L)."""
        x = self.model(inputs, cache)
        return self.model.word_embeddings.as_linear(x) if self.args.tie_word_embeddings else self.lm_head(x)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Names of published checkpoints as names of this model; tables and tied copies it computes are left out."""
        kept = {}
        for name, array in weights.items():
            if name.endswith("inv_freq") or (self.args.tie_word_embeddings and name.startswith("lm_head.")):
                continue
            if not name.startswith(("model.", "lm_head.")):
                name = f"model.{name.removeprefix('transformer.')}"
            kept[name] = array
        return kept

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks."""
        return self.model.h


def alibi_slopes(n_heads: int) -> list[float]:
    """Slope of each head's penalty per token: a geometric series, as in Press et al. (arXiv 2108.12409).

    Heads beyond a power of two get every other slope of the series twice as long.
    """

    def series(n: int) -> list[float]:
        return [2 ** (-8 * (i + 1) / n) for i in range(n)]

    whole = 2 ** int(math.log2(n_heads))
    return series(whole) + series(2 * whole)[::2][: n_heads - whole]


def alibi_mask(x: mx.array, cache: Any | None, args: ModelArgs) -> mx.array:
    """Causal mask with ALiBi's bias added, broadcastable to (B, H, L, K), in the type of `x` (B, L, hidden).

    The bias grows with the key's position, which a softmax takes as a penalty for distance. It is rounded to bfloat16
    as it was in training (so does transformers), and scaled like the scores.

    Raises `ValueError` for a rotating cache, whose keys do not lie in the order of their positions.
    """
    if isinstance(cache, (RotatingKVCache, BatchRotatingKVCache)):
        raise ValueError("alibi needs keys in order, which a rotating cache does not keep; leave max_kv_size unset")
    mask = create_attention_mask(x, cache, return_array=True)
    n_keys = mask.shape[-1] if mask is not None else 1 + (cache.offset if cache is not None else 0)
    slopes = mx.array(alibi_slopes(args.num_attention_heads)).astype(mx.bfloat16)
    bias = slopes[:, None, None] * mx.arange(n_keys).astype(mx.bfloat16)  # (H, 1, K)
    bias = bias.astype(x.dtype) * args.head_dim**-0.5
    return bias if mask is None else mx.where(mask, bias, mx.finfo(x.dtype).min)
