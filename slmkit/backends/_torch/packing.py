"""Chooses how a model's 4-bit weights lie in memory: as stored, or as bitsandbytes multiplies them on a CPU unopened.

On a CPU with AVX512-BF16 the second is eight times as fast for one token. No gradient passes through it and its scales,
in bfloat16, change a product by about 0.2 %. So it is taken while a model writes text and given up before it scores:
what a model scores never depends on what it wrote.
"""

from __future__ import annotations

import logging
from functools import cache

import bitsandbytes as bnb
import torch
from bitsandbytes import functional as bnbf
from torch import nn

from slmkit.backends._torch.nibbles import ROWS, pack, packed_state, unpack
from slmkit.backends._torch.quantise import QuantEmbedding, QuantLinear, TiedHead, quantise_tensor

log = logging.getLogger(__name__)


@cache
def available() -> bool:
    """Whether this CPU multiplies that layout, tried on a 64 x 64 weight."""
    if not getattr(bnbf, "has_avx512bf16", lambda: False)():
        return False
    noise = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(64, 64, generator=noise).bfloat16() for _ in range(2))
    packed, state = quantise_tensor(weight, 4, nested=False)
    exact = x.float() @ bnbf.dequantize_4bit(packed, state).float().T
    try:
        found = bnb.matmul_4bit(x, pack(packed, 64), quant_state=packed_state(state)).float()
    except Exception as error:  # whatever the kernel raises is the reason
        log.info("text is written with opened weights: %s", error)
        return False
    return bool((found - exact).norm() < 0.02 * exact.norm())


def for_writing(model: nn.Module) -> None:
    """Lay out a model's 4-bit weights for one token at a time, if it computes in bfloat16 on a CPU that can."""
    heads = {id(m.table) for m in model.modules() if isinstance(m, TiedHead)}
    for module in model.modules():
        wanted = isinstance(module, QuantLinear) or (isinstance(module, QuantEmbedding) and id(module) in heads)
        if wanted and module.packed is None and _can_be_packed(module):
            module.packed = packed_state(module.state)
            module.weight.data = pack(module.weight.data, module.state.shape[0])


def for_batches(model: nn.Module) -> None:
    """Lay out a model's weights as they were stored."""
    for module in model.modules():
        if isinstance(module, QuantLinear | QuantEmbedding) and module.packed is not None:
            module.weight.data = unpack(module.weight.data)
            module.packed = None


def _can_be_packed(module: QuantLinear | QuantEmbedding) -> bool:
    on_cpu = module.weight.device.type == "cpu" and module.bits == 4
    return on_cpu and module.state.shape[0] % ROWS == 0 and module.dtype == torch.bfloat16 and available()
