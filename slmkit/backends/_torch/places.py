"""Past the last block's attention, states are computed at the places alone that are read.

A training reads of each row the last token, or those before an answer's tokens. What follows the last attention (its
output's projection, the MLP, norms) works on each token by itself, so that the others need not be there: a thirtieth of
a pass through 30 blocks, a tenth of one through the last 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import local

import torch
from torch import nn

AFTER = ("self_attn.o_proj", "mlp")  # attention, in a block
Places = tuple[torch.Tensor, torch.Tensor]  # rows and positions, int64 (N,) each, on the CPU


class LastBlock:
    """A body's last block, whose MLP and last projection of the attention can be kept to some places."""

    def __init__(self, block: nn.Module) -> None:
        self._threads = local()
        for name in AFTER:
            try:
                module = block.get_submodule(name)
            except AttributeError:  # another architecture: it computes all tokens
                continue
            module.forward = partial(self._there, module.forward)  # type: ignore[method-assign]

    @contextmanager
    def reading(self, places: Places | None) -> Iterator[None]:
        """Keep to these places in this thread while inside, the way back included; None stands for all."""
        self._threads.places = places
        try:
            yield
        finally:
            self._threads.places = None

    def _there(self, forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """(B, T, in) to (B, T, out), zeros where nobody reads."""
        places = getattr(self._threads, "places", None)
        if places is None:
            return forward(x)
        found = forward(x[places])  # (N, out)
        return found.new_zeros(*x.shape[:-1], found.shape[-1]).index_put(places, found)
