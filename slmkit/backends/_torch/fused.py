"""Passes of a training, each with a way back of its own: fewer passes over memory and less kept than autograd would.

Frozen weights are multiplied where they are, so that a mapped file stays one: on a CPU a product with stacked weights
is no quicker than several products. What is worth stacking is LoRA's thin A matrices (Hu et al. 2021, arXiv 2106.09685)
of layers that read the same input, and the sum of what those layers pass back to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from slmkit.backends._torch import products

Tensors = Sequence[torch.Tensor]


class Layer(NamedTuple):
    """A frozen linear layer of weight (out, in) with a LoRA pair: a (r, in), b (out, r)."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    a: torch.Tensor
    b: torch.Tensor


def linear(x: torch.Tensor, layers: Sequence[Layer], scale: float) -> tuple[torch.Tensor, ...]:
    """x W' + bias + scale (x A') B' for each of the layers; (..., in) gives one (..., out) a layer."""
    found: tuple[torch.Tensor, ...] = _Linear.apply(x, scale, *(tensor for layer in layers for tensor in layer))
    return found


def gated(x: torch.Tensor, gate: Layer, up: Layer, down: Layer, scale: float) -> torch.Tensor:
    """down(silu(gate(x)) * up(x)), (..., H) to (..., H); of what is as wide as the MLP, two tensors are kept."""
    out: torch.Tensor = _Gated.apply(x, scale, *gate, *up, *down)
    return out


def norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """A root-mean-square norm (Zhang and Sennrich 2019, arXiv 1910.07467) in float32, rounded before the weight."""
    out: torch.Tensor = _Norm.apply(x, weight, epsilon)
    return out


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **ignored: Any,
) -> tuple[torch.Tensor, None]:
    """Plain attention of grouped queries, as transformers calls it: keys and values are not repeated for a group.

    Queries are (B, heads, T, D), keys and values (B, key heads, S, D), the mask is added to the scores; gives
    (B, T, heads, D). The probabilities are kept in the number type of the values alone. Nothing is dropped out.
    """
    out: torch.Tensor = _Attend.apply(query, key, value, attention_mask, scaling)
    return out, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float, *tensors: Any) -> Any:
        rows, layers = _rows(x), _layers(tensors)
        outs, thin = _forward(rows, layers, scale)
        ctx.save_for_backward(rows, thin, *tensors)
        ctx.scale = scale
        return tuple(out.view(*x.shape[:-1], -1) for out in outs)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        rows, thin, *tensors = ctx.saved_tensors
        given = [_rows(slope) for slope in slopes]
        of_x, pairs = _backward(given, rows, thin, _layers(tensors), ctx.scale, ctx.needs_input_grad[0])
        return None if of_x is None else of_x.view(*slopes[0].shape[:-1], -1), None, *_slopes(pairs)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float, *tensors: Any) -> Any:
        rows, layers = _rows(x), _layers(tensors)
        (gate, up), thin = _forward(rows, layers[:2], scale)
        (out,), thin_down = _forward(nn.functional.silu(gate).mul_(up), layers[2:], scale)
        ctx.save_for_backward(rows, gate, up, thin, thin_down, *tensors)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        rows, gate, up, thin, thin_down, *tensors = ctx.saved_tensors
        layers = _layers(tensors)
        lit = nn.functional.silu(gate)
        of_inner, of_down = _backward([_rows(slopes[0])], lit * up, thin_down, layers[2:], ctx.scale, True)
        of_up = lit.mul_(of_inner)
        of_gate = torch.ops.aten.silu_backward(of_inner.mul_(up), gate)  # type: ignore[union-attr]
        of_x, of_both = _backward([of_gate, of_up], rows, thin, layers[:2], ctx.scale, ctx.needs_input_grad[0])
        return None if of_x is None else of_x.view(slopes[0].shape), None, *_slopes([*of_both, *of_down])


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> Any:
        wide = x.float()
        inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)  # (..., 1)
        normal = (wide * inverse if wide is x else wide.mul_(inverse)).to(x.dtype)
        ctx.save_for_backward(normal, inverse, weight)
        return weight * normal

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        normal, inverse, weight = ctx.saved_tensors
        slope = (slopes[0] * weight).float()
        wide = normal.float()
        along = (wide * slope).mean(-1, keepdim=True)
        return slope.sub_(wide * along).mul_(inverse).to(normal.dtype), None, None


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: torch.Tensor | None, scaling: float) -> Any:
        rows, heads, tokens, width = query.shape
        groups = heads // key.shape[1]
        q = query.reshape(-1, groups * tokens, width)  # (B key heads, G T, D)
        k, v = (states.reshape(-1, *states.shape[2:]) for states in (key, value))  # (B key heads, S, D)
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(scaling)  # (B key heads, G T, S)
        if mask is not None:
            scores.view(rows, heads, tokens, -1).add_(mask)
        probabilities = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, probabilities)
        ctx.scaling, ctx.shapes = scaling, (query.shape, key.shape, value.shape)
        out = torch.bmm(probabilities, v).view(rows, heads, tokens, -1)
        return out.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        q, k, v, probabilities = ctx.saved_tensors
        of_out = slopes[0].transpose(1, 2).reshape(*q.shape[:2], v.shape[-1])
        of_v = torch.bmm(probabilities.transpose(1, 2), of_out)
        of_p = torch.bmm(of_out, v.transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_p, probabilities, -1, probabilities.dtype).mul_(ctx.scaling)
        of_q, of_k = torch.bmm(of_scores, k), torch.bmm(of_scores.transpose(1, 2), q)
        return *(slope.view(shape) for slope, shape in zip((of_q, of_k, of_v), ctx.shapes, strict=True)), None, None


def _forward(rows: torch.Tensor, layers: Sequence[Layer], scale: float) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Outputs (N, out) of layers on rows (N, in), and the rows' products (N, n r) with all their A."""
    x = products.opened(rows)
    thin = nn.functional.linear(x, _stacked(layers).to(x.dtype))
    parts = thin.split([len(layer.a) for layer in layers], 1)
    outs = []
    for part, layer in zip(parts, layers, strict=True):
        out = products.forward(x, layer.weight, layer.bias)
        outs.append(out.addmm_(part, layer.b.t().to(x.dtype), alpha=scale).to(rows.dtype))
    return outs, thin.to(rows.dtype)


def _backward(
    slopes: Tensors, rows: torch.Tensor, thin: torch.Tensor, layers: Sequence[Layer], scale: float, wants_x: bool
) -> tuple[torch.Tensor | None, list[tuple[torch.Tensor, torch.Tensor]]]:
    """From gradients (N, out) of the outputs: the gradient of the rows if it is wanted, and of each layer's a and b."""
    kept, ranks = rows.dtype, [len(layer.a) for layer in layers]
    rows = products.opened(rows)
    given, thin = [slope.to(rows.dtype) for slope in slopes], thin.to(rows.dtype)
    each = [slope @ layer.b.to(rows.dtype) for slope, layer in zip(given, layers, strict=True)]
    of_thin = (each[0] if len(each) == 1 else torch.cat(each, 1)).mul_(scale)  # (N, n r)
    of_a = (of_thin.t() @ rows).to(kept).split(ranks)
    of_b = [(slope.t() @ part).mul_(scale).to(kept) for slope, part in zip(given, thin.split(ranks, 1), strict=True)]
    of_x = None
    if wants_x:
        for slope, layer in zip(given, layers, strict=True):
            of_x = products.backward(slope, layer.weight, of_x)
        assert of_x is not None
        of_x = of_x.addmm_(of_thin, _stacked(layers).to(rows.dtype)).to(kept)
    return of_x, list(zip(of_a, of_b, strict=True))


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


def _layers(tensors: Sequence[Any]) -> list[Layer]:
    return [Layer(*tensors[i : i + 4]) for i in range(0, len(tensors), 4)]


def _slopes(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor | None]:
    """Of all tensors of layers, of which weight and bias are frozen."""
    return [slope for of_a, of_b in pairs for slope in (None, None, of_a, of_b)]


def _stacked(layers: Sequence[Layer]) -> torch.Tensor:
    return layers[0].a if len(layers) == 1 else torch.cat([layer.a for layer in layers])  # (n r, in)
