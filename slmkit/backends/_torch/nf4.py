"""Weights as NF4 with the scale of each block looked for: the one whose 16 levels lie nearest to its numbers.

bitsandbytes takes a block's largest magnitude as its scale (Dettmers et al. 2023, arXiv 2305.14314). A few tries around
it, of either sign, each followed by the scale of least squared error for the levels it chose, leave about a fifth less
of that error, in the same bytes and for the same kernels. Signs count: NF4 has one level more above zero than below.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from bitsandbytes import functional as bnbf

TRIES = tuple(sign * factor for sign in (1, -1) for factor in (0.8, 0.88, 0.96, 1.04))  # of the largest magnitude
STEPS = 1024  # a number's level is looked up in a table of so many steps a unit, ten times as fast as among its bounds
PIECE = 3 << 13  # numbers at once: in the cache, and so few that torch takes one thread and none waits for another
TINY = 1e-30
NESTED_BLOCK = 256  # scales that share a scale, as in bitsandbytes


def quantise(weight: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels and scales of a weight, in blocks along its rows.

    Parameters
    ----------
    weight : tensor of any floating type, (rows, columns)
        A block divides the columns.
    block : int

    Returns
    -------
    levels : uint8 tensor, (numbers / 2, 1)
        As bitsandbytes packs them: two in a byte, the first in its high half.
    scales : float32 tensor, (numbers / block,)
        Also negative ones.
    """
    pieces = weight.reshape(-1, block).split(max(1, PIECE // block))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        levels, scales = zip(*pool.map(_quantise, pieces), strict=True)
    return torch.cat(levels).view(-1, 1), torch.cat(scales)


def state_of(scales: torch.Tensor, shape: torch.Size, block: int, *, nested: bool) -> bnbf.QuantState:
    """What bitsandbytes needs beside the levels: the scales, quantised as well (`nested`) or in bfloat16.

    Quantised around zero, not around their mean as bitsandbytes does it: they have either sign.
    """
    code = _tables(scales.device)[2].clone()
    how = {"shape": shape, "code": code, "blocksize": block, "quant_type": "nf4", "dtype": torch.bfloat16}
    if not nested:
        return bnbf.QuantState(scales.to(torch.bfloat16), **how)
    absmax, around_zero = bnbf.quantize_blockwise(scales, blocksize=NESTED_BLOCK)
    return bnbf.QuantState(absmax, offset=torch.zeros((), device=scales.device), state2=around_zero, **how)


def _quantise(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # (n, block) -> (n, block / 2), (n,)
    levels, values, _ = _tables(blocks.device)
    blocks = blocks.float()
    top = blocks.abs().amax(dim=1, keepdim=True)
    best, most = top, torch.full_like(top, -1.0)
    for factor in TRIES:
        found = values.index_select(0, _steps(blocks, top * factor)).view_as(blocks)
        along = (blocks * found).sum(dim=1, keepdim=True)
        length = (found * found).sum(dim=1, keepdim=True).clamp_(min=TINY)
        gain = along * along / length  # of the block's own square; the rest is the error of scale along / length
        better = gain > most
        best, most = torch.where(better, along / length, best), torch.where(better, gain, most)
    chosen = levels.index_select(0, _steps(blocks, best)).view_as(blocks)
    return (chosen[:, ::2] << 4) | chosen[:, 1::2], best.view(-1)


def _steps(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:  # (n, block), (n, 1) -> (n * block,)
    per_step = STEPS / torch.where(scales == 0, TINY, scales)
    return (blocks * per_step).clamp_(-STEPS, STEPS).add_(STEPS + 0.5).to(torch.int32).view(-1)


@cache
def _tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Level (uint8) and value of each step from -1 to 1, and the values of the 16 levels."""
    code = bnbf.get_4bit_type("nf4", device=device)
    steps = torch.linspace(-1, 1, 2 * STEPS + 1, device=device)
    levels = torch.bucketize(steps, (code[1:] + code[:-1]) / 2)
    return levels.to(torch.uint8), code[levels], code
