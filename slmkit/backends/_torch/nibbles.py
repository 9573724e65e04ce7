"""The layout of 4-bit weights that bitsandbytes multiplies on CPUs with AVX512-BF16, and the way back.

Stored, a byte holds two neighbours of a row, the first in its high half. In the layout 32 rows lie together, column by
column, and a byte holds a number of one of rows 0 to 15 in its low half and that of the row 16 below in its high half;
the scales are bfloat16. It is that of `_convert_weight_packed_for_cpu` in bitsandbytes 0.50, made here some rows at a
time without widening the numbers.
"""

from __future__ import annotations

import copy

import torch
from bitsandbytes import functional as bnbf

ROWS = 32  # of a weight that lie together
PIECE_ROWS = 1 << 13


def pack(weight: torch.Tensor, n_rows: int) -> torch.Tensor:
    """A stored 4-bit weight of (n_rows, 2 x) numbers in the layout, uint8 (n_rows, x); `n_rows` a multiple of 32."""
    weight = weight.view(n_rows // ROWS, ROWS, -1)
    out = torch.empty(weight.shape[0], weight.shape[2], ROWS // 2, 2, dtype=torch.uint8)
    for at in range(0, len(weight), PIECE_ROWS // ROWS):
        some = weight[at : at + PIECE_ROWS // ROWS]
        low, high = some[:, : ROWS // 2], some[:, ROWS // 2 :]  # (blocks, 16, x)
        both = torch.stack([(high & 0xF0) | (low >> 4), (high << 4) | (low & 0xF)], dim=-1)
        out[at : at + PIECE_ROWS // ROWS] = both.transpose(1, 2)
    return out.view(n_rows, -1)


def unpack(weight: torch.Tensor) -> torch.Tensor:
    """The bytes that `pack` was given, uint8 (n, 1)."""
    n_rows, width = weight.shape
    weight = weight.view(n_rows // ROWS, width, ROWS // 2, 2)
    out = torch.empty(len(weight), ROWS, width, dtype=torch.uint8)
    for at in range(0, len(weight), PIECE_ROWS // ROWS):
        first, second = weight[at : at + PIECE_ROWS // ROWS].transpose(1, 2).unbind(-1)  # (blocks, 16, x) each
        out[at : at + PIECE_ROWS // ROWS, : ROWS // 2] = (first << 4) | (second & 0xF)
        out[at : at + PIECE_ROWS // ROWS, ROWS // 2 :] = (first & 0xF0) | (second >> 4)
    return out.view(-1, 1)


def unpack_rows(weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Some rows of a packed weight as they are stored, uint8 (n_ids, x)."""
    block, row = ids // ROWS, ids % ROWS
    pairs = weight.view(weight.shape[0] // ROWS, -1, ROWS // 2, 2)[block, :, row % (ROWS // 2)]  # (n, x, 2)
    nibbles = torch.where((row >= ROWS // 2)[:, None, None], pairs >> 4, pairs & 0xF)
    return (nibbles[..., 0] << 4) | nibbles[..., 1]


def packed_state(state: bnbf.QuantState) -> bnbf.QuantState:
    """The scales of a weight as the layout has them: bfloat16, (blocks of a row, rows)."""
    found = copy.copy(state)
    found.absmax = state.absmax.view(state.shape[0], -1).T.to(torch.bfloat16).contiguous()
    found.dtype = torch.bfloat16
    found.packing_format_for_cpu = True  # type: ignore[attr-defined]
    return found
