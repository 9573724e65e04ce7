"""Blocks below the first trained one never change: their outputs are computed once, and kept for later runs too.

A model is cut in two by giving its body only some of its blocks. What the lower part puts out is what the upper part
takes as `inputs_embeds`; this holds for architectures that add nothing to their embeddings, and only those are cut.
States are kept on the disk by row (`_states`), in the number type they were computed in, and mapped into memory; where
the disk has no room they stay in memory, or the blocks run in every epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from slmkit.backends import _shared as shared
from slmkit.backends._states import Row, Store
from slmkit.backends._torch import scoring, traits

log = logging.getLogger(__name__)
CUTTABLE = {"llama", "mistral", "phi3"}
MEMORY_BYTES = 1 << 30  # of hidden states held in memory where they cannot be kept on the disk
SEGMENT_BYTES = 1 << 26  # of states computed before they are written
States = Callable[[int], torch.Tensor]  # of a row by its number: (T, H)


def states_of(
    body: nn.Module, first_trained: int, rows: Sequence[Sequence[int]], pad_id: int, device: torch.device, key: Any
) -> States | None:
    """Outputs of the blocks below `first_trained` for each row of token ids, or None where every epoch computes them.

    Parameters
    ----------
    body : nn.Module
    first_trained : int
        0 leaves nothing below it.
    rows : sequence of token ids
    pad_id : int
    device : torch.device
    key : mapping
        What tells this model from others, see `_states.Store`.
    """
    config: Any = body.config
    if not first_trained or config.model_type not in CUTTABLE:
        return None
    dtype = next(p.dtype for p in body.parameters() if p.is_floating_point())
    width = config.hidden_size * dtype.itemsize
    known = [tuple(row) for row in rows]
    store = Store({**key, "blocks": first_trained, "dtype": str(dtype), "device": device.type}, width)
    missing = store.look(known)
    n_bytes = sum(map(len, missing)) * width
    say = "states below block %d of %d rows: %d there, %.1f MB to compute and keep in %s"
    log.info(say, first_trained, len(set(known)), len(set(known)) - len(missing), n_bytes / 1e6, store.folder)
    work = lower_states(body, first_trained, missing, pad_id, device)
    try:
        if store.room(n_bytes):
            _fill(store, work)
            return lambda i: _tensor(store[known[i]], dtype).to(device)
        why = "the cache has no room for them"
    except OSError as error:
        why = str(error)
    whole = sum(map(len, set(known))) * width
    if whole > MEMORY_BYTES:
        log.warning("%d MB of hidden states are not kept (%s); lower blocks run in every epoch", whole // 10**6, why)
        return None
    log.warning("%d MB of hidden states are held in memory (%s)", whole // 10**6, why)
    held: dict[Row, torch.Tensor] = {}
    for batch in lower_states(body, first_trained, list(dict.fromkeys(known)), pad_id, device):
        held |= batch
    return lambda i: held[known[i]]


@torch.no_grad()
def lower_states(
    body: Any, first_trained: int, rows: Sequence[Row], pad_id: int, device: torch.device
) -> Iterator[dict[Row, torch.Tensor]]:
    """Outputs (T, H) of the blocks below `first_trained` for each row, a batch of rows of like length at a time.

    What is left of the rows after some batches is batched as before, so that a run that was killed computes the rest to
    the same bits.
    """
    border = traits.rope_border(body.config)
    for batch in shared.length_batches([len(row) for row in rows], scoring.BATCH_TOKENS, border=border):
        ids, mask = scoring.pad([rows[i] for i in batch], pad_id, device)
        norm = body.norm
        with only_blocks(body, slice(0, first_trained)):
            body.norm = nn.Identity()
            try:
                states = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state  # (B, T, H)
            finally:
                body.norm = norm
        yield {rows[i]: state[: len(rows[i])].clone() for i, state in zip(batch, states, strict=True)}


def _fill(store: Store, batches: Iterable[dict[Row, torch.Tensor]]) -> None:
    """Write segments, which end where a batch does."""
    waiting: dict[Row, torch.Tensor] = {}
    for batch in batches:
        waiting |= batch
        if sum(map(len, waiting)) * store.width >= SEGMENT_BYTES:
            store.add(list(waiting), [_bytes(state) for state in waiting.values()])
            waiting = {}
    if waiting:
        store.add(list(waiting), [_bytes(state) for state in waiting.values()])


def _bytes(state: torch.Tensor) -> np.ndarray:
    return state.cpu().contiguous().view(torch.uint8).numpy()  # (T, width)


def _tensor(states: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(states.copy()).view(dtype)  # (T, H)


@contextmanager
def only_blocks(body: nn.Module, which: slice) -> Iterator[None]:
    """Let the body run only some of its blocks while inside."""
    blocks = body.layers
    body.layers = nn.ModuleList(list(blocks)[which])  # type: ignore[arg-type]
    try:
        yield
    finally:
        body.layers = blocks
