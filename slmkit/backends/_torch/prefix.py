"""Blocks below the first trained one never change: their outputs are computed once and reused by every epoch.

A model is cut in two by giving its body only some of its blocks. What the lower part puts out is what the upper part
takes as `inputs_embeds`; this holds for architectures that add nothing to their embeddings, and only those are cut.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from slmkit.backends import _shared as shared
from slmkit.backends._torch import scoring, traits

log = logging.getLogger(__name__)
CUTTABLE = {"llama", "mistral", "phi3"}
MAX_BYTES = 1 << 30  # of cached hidden states; above, every epoch computes the lower blocks anew


def can_cache(body: nn.Module, first_trained: int, n_tokens: int) -> bool:
    """Whether the blocks below `first_trained` can be computed once for `n_tokens` tokens."""
    config = body.config
    n_bytes = n_tokens * config.hidden_size * next(body.parameters()).element_size()  # type: ignore[operator, union-attr]
    if first_trained and config.model_type in CUTTABLE and n_bytes > MAX_BYTES:  # type: ignore[union-attr]
        log.info("%d MB of hidden states are too many to keep; lower blocks run in every epoch", n_bytes // 10**6)
    return bool(first_trained) and config.model_type in CUTTABLE and n_bytes <= MAX_BYTES  # type: ignore[union-attr]


@torch.no_grad()
def lower_states(
    body: nn.Module, first_trained: int, rows: Sequence[list[int]], pad_id: int, device: torch.device
) -> list[torch.Tensor]:
    """Outputs of the blocks below `first_trained` for each row of token ids: a tensor (T, H) each."""
    out: list[torch.Tensor | None] = [None] * len(rows)
    norm = body.norm
    with only_blocks(body, slice(0, first_trained)):
        body.norm = nn.Identity()
        try:
            border = traits.rope_border(body.config)
            for batch in shared.length_batches([len(row) for row in rows], scoring.BATCH_TOKENS, border=border):
                ids, mask = scoring.pad([rows[i] for i in batch], pad_id, device)
                states = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state  # (B, T, H)
                for i, state in zip(batch, states, strict=True):
                    out[i] = state[: len(rows[i])].clone()
        finally:
            body.norm = norm
    return [state for state in out if state is not None]


@contextmanager
def only_blocks(body: nn.Module, which: slice) -> Iterator[None]:
    """Let the body run only some of its blocks while inside."""
    blocks = body.layers
    body.layers = nn.ModuleList(list(blocks)[which])  # type: ignore[arg-type]
    try:
        yield
    finally:
        body.layers = blocks
