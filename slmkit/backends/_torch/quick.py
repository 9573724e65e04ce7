"""What a training on a CPU computes in another way than transformers and PEFT do: the same numbers in less time.

PyTorch's fused attention passes back slowly through short rows in bfloat16; plain attention takes a fifth of that time
and keeps its scores, which for short rows are few. PEFT adds its two thin products to a frozen layer's output, and to
the gradient of its input, in passes of their own over both; here they are added in place, as the product is made.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn

SHORT_TOKENS = 128  # a row's, up to which plain attention is the quicker one; at 256 they are alike


class Attention:
    """Lets a body attend in the way that is quickest for a batch, on a CPU in bfloat16; elsewhere it is left alone."""

    def __init__(self, body: Any, where: torch.device) -> None:
        dtype = next(p.dtype for p in body.parameters() if p.is_floating_point())
        self.body, self.way = body, body.config._attn_implementation
        self.applies = where.type == "cpu" and dtype == torch.bfloat16 and self.way == "sdpa"

    def fit(self, tokens: int) -> None:
        """Choose for rows of so many tokens."""
        way = "eager" if tokens <= SHORT_TOKENS else "sdpa"
        if self.applies and way != self.way:
            self.body.set_attn_implementation(way)
            self.way = way


def fuse(wrapped: nn.Module) -> None:
    """Let PEFT's pairs of one adapter, without dropout, be multiplied with the frozen layers they are around."""
    for module in wrapped.modules():
        if isinstance(module, LoraLinear) and type(module.base_layer) is nn.Linear:
            module.forward = partial(_forward, module)  # type: ignore[method-assign]


def _forward(module: Any, x: torch.Tensor) -> torch.Tensor:
    (name,) = module.active_adapters
    base, a, b = module.base_layer, module.lora_A[name].weight, module.lora_B[name].weight
    out: torch.Tensor = _Fused.apply(x, base.weight, base.bias, a, b, module.scaling[name])
    return out


class _Fused(torch.autograd.Function):
    """x W' + bias + scale (x A') B' for a frozen W (out, in), with gradients of x, A (r, in) and B (out, r)."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scale: float) -> Any:  # (..., in)
        rows = x.reshape(-1, x.shape[-1])
        thin = nn.functional.linear(rows, a)  # (N, r)
        out = nn.functional.linear(rows, weight, bias).addmm_(thin, b.t(), alpha=scale)
        ctx.save_for_backward(rows, weight, a, b, thin)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        rows, weight, a, b, thin = ctx.saved_tensors
        slope = slopes[0].reshape(-1, slopes[0].shape[-1])  # (N, out)
        of_thin = (slope @ b).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (slope @ weight).addmm_(of_thin, a).view(*slopes[0].shape[:-1], -1)
        return of_x, None, None, of_thin.t() @ rows, (slope.t() @ thin).mul_(ctx.scale), None
