"""Products in bfloat16 on a CPU that multiplies float32 quicker: the weights stay as they are and are opened for each.

A CPU may have instructions for bfloat16 that take longer than two for float32 (Intel's where AMX is switched off), or
only emulate them (AVX-512 without BF16): half or a fifth of the rate. Which is quicker is tried, since no flag tells.
Inputs and outputs stay bfloat16; sums are in float32 either way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from functools import cache, partial
from threading import local
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)
LEAST_ROWS = 48  # of an input: below it, opening the weights takes longer than the product
OPENED = 1 << 21  # numbers of a weight that are opened at once
MARGIN = 1.25  # times as quick as bfloat16 that float32 has to be
TRIES, SIZE = 7, 384
_buffers = local()  # by number type


@cache
def widens() -> bool:
    """Whether this CPU is quicker in float32: two products, each tried a few times, some milliseconds in all."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # nothing is computed in bfloat16 then (`device`)
        return False
    noise = torch.Generator().manual_seed(0)
    given = torch.randn(2, SIZE, SIZE, generator=noise)
    seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(TRIES):
        for dtype in seconds:
            x, weight = given.to(dtype)
            began = time.perf_counter()
            nn.functional.linear(x, weight)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - began)
    ratio = seconds[torch.bfloat16] / seconds[torch.float32]
    if ratio > MARGIN:
        log.info("products are computed in float32, %.1f times as quick as bfloat16 on this CPU", ratio)
    return ratio > MARGIN


def opened(x: torch.Tensor) -> torch.Tensor:
    """An input (..., in) in the number type that its product is to be computed in: itself, or float32."""
    narrow = x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.numel() >= LEAST_ROWS * x.shape[-1]
    return x.float() if narrow and widens() else x


def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x W' + bias for a weight (out, in), in the number type of x; no gradient passes where the two types differ."""
    return product(x, pieces(weight, x.dtype), bias)


def backward(slope: torch.Tensor, weight: torch.Tensor, total: torch.Tensor | None = None) -> torch.Tensor:
    """What a gradient (N, out) of the output passes back to the input, (N, in), added to `total` in place if given."""
    return passed_back(slope, pieces(weight, slope.dtype), total)


def product(x: torch.Tensor, opened: Iterable[torch.Tensor], bias: torch.Tensor | None = None) -> torch.Tensor:
    """`forward` for a weight that comes some rows (n, in) at a time."""
    found, at = [], 0
    for piece in opened:
        some = None if bias is None else bias[at : at + len(piece)].to(x.dtype)
        found.append(nn.functional.linear(x, piece, some))
        at += len(piece)
    return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def passed_back(slope: torch.Tensor, opened: Iterable[torch.Tensor], total: torch.Tensor | None = None) -> torch.Tensor:
    """`backward` for a weight that comes some rows (n, in) at a time."""
    at = 0
    for piece in opened:
        part = slope[:, at : at + len(piece)]
        total = part @ piece if total is None else total.addmm_(part, piece)
        at += len(piece)
    assert total is not None
    return total


def pieces(weight: torch.Tensor, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """The rows of a weight in another number type, on a CPU some at a time, each good until the next is asked for."""
    if weight.dtype == dtype or weight.device.type != "cpu":
        yield weight.to(dtype)
        return
    for rows in weight.split(rows_at_once(weight.shape[1])):
        yield buffer(rows.shape, dtype).copy_(rows)


def rows_at_once(width: int) -> int:
    """Rows of a weight that are opened at once."""
    return max(1, OPENED // width)


def buffer(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """Room of this thread for what it opens next.

    It is allocated once: where each product has its own, what is kept for the way back is put into the holes that they
    leave in the heap, and the heap grows.
    """
    held = _buffers.__dict__
    n = shape.numel()
    if dtype not in held or held[dtype].numel() < n:
        with torch.inference_mode(False):  # or no other mode might write to it
            held[dtype] = torch.empty(max(n, OPENED), dtype=dtype)
    room: torch.Tensor = held[dtype][:n].view(shape)
    return room


def widen(model: nn.Module) -> nn.Module:
    """Let a model's linear layers, in bfloat16 on a CPU, multiply in the quicker number type; quantised ones do so."""
    for module in model.modules():
        narrow = type(module) is nn.Linear and module.weight.dtype == torch.bfloat16
        if narrow and module.weight.device.type == "cpu" and widens():  # type: ignore[union-attr]
            module.forward = partial(_linear, module)  # type: ignore[method-assign]
    return model


def _linear(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    wide = opened(x)
    if wide is x:
        return nn.functional.linear(x, module.weight, module.bias)
    if torch.is_grad_enabled():
        out: torch.Tensor = _Linear.apply(x, wide.detach(), module.weight, module.bias)
        return out
    return forward(wide, module.weight, module.bias).to(x.dtype)


class _Linear(torch.autograd.Function):
    """A layer's product, of an input that is given opened too; what is kept for the way back is in bfloat16."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, wide: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return forward(wide, weight, bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        slope = slopes[0].reshape(-1, len(weight)).float()
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = backward(slope, weight).to(weight.dtype).view(*slopes[0].shape[:-1], -1)
        if ctx.needs_input_grad[2]:
            of_weight = (slope.t() @ x.reshape(-1, x.shape[-1]).float()).to(weight.dtype)
        if ctx.needs_input_grad[3]:
            of_bias = slope.sum(0).to(weight.dtype)
        return of_x, None, of_weight, of_bias
