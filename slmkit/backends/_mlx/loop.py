"""The mlx side of a training: gradients added up over micro-batches, one AdamW step a batch.

Lower blocks that do not train run in every epoch: mlx-lm's models have no place to begin in their middle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_map_with_path

from slmkit.backends import _shared as shared
from slmkit.backends._mlx.phi3 import border_of, read_as
from slmkit.backends.base import LoRAConfig

MAX_NORM = 1.0


class Loop:
    """One training of a `lora.Classifier` or `lora.Answerer`.

    Parameters
    ----------
    learner : nn.Module
        With `loss`, `count` and `right`.
    rows : sequence of token ids
        Those to learn, and after them those held out.
    n_train : int
        How many are to learn.
    config : LoRAConfig
    """

    def __init__(self, learner: Any, rows: Sequence[Sequence[int]], n_train: int, config: LoRAConfig) -> None:
        self.learner, self.rows, self.n_train = learner, rows, n_train
        self.border = border_of(learner.net)
        self.optimiser = optim.AdamW(learning_rate=config.learning_rate, weight_decay=0.0, bias_correction=True)
        self.value_and_grad = nn.value_and_grad(learner, learner.loss)
        self._gradients: Any = None
        self.recomputes = False

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Training mode while inside."""
        self.learner.train()
        try:
            yield
        finally:
            self.learner.eval()

    def gradients(self, batch: np.ndarray, max_tokens: int) -> tuple[float, float]:
        """Mean loss of a batch and the norm of its gradients, which are then clipped."""
        loss, total = 0.0, None
        own = self.learner.trainable_parameters()
        for some, tokens in self._parts(batch, max_tokens):
            value, grads = self.value_and_grad(tokens, some, batch)
            if self.recomputes:
                self.learner.update(own)  # its blocks hold what they were given to be computed anew
            total = grads if total is None else tree_map(mx.add, total, grads)
            mx.eval(value, total)
            loss += value.item()
        self._gradients, norm = optim.clip_grad_norm(total, MAX_NORM)
        return loss, norm.item()

    def update(self, rate: float) -> None:
        """Take the step."""
        self.optimiser.learning_rate = rate
        self.optimiser.update(self.learner, self._gradients)
        mx.eval(self.learner.trainable_parameters(), self.optimiser.state)

    def free(self) -> None:
        """Forget the gradients."""
        self._gradients = None
        mx.clear_cache()

    def recompute(self) -> bool:
        """Keep of every trained block its input alone, and compute the rest anew on the way back; False if that is so.

        Chen et al. 2016, arXiv 1604.06174.
        """
        if self.recomputes:
            return False
        for block in self.learner.net.layers:
            if tree_flatten(block.trainable_parameters()):
                block.__class__ = _computed_anew(block.__class__)
        self.recomputes = True
        return True

    def count(self, batch: np.ndarray) -> int:
        """Tokens of a batch that are spoken of as trained on."""
        return int(self.learner.count(batch))

    def measure(self, max_tokens: int) -> dict[str, float]:
        """Mean loss on the held-out rows, and accuracy where there are labels."""
        held_out = np.arange(self.n_train, len(self.rows))
        loss, n_right = 0.0, list[bool]()
        for some, tokens in self._parts(held_out, max_tokens):
            loss += self.learner.loss(tokens, some, held_out).item()
            n_right += self.learner.right(tokens, some)
        return {"loss": loss} | ({"accuracy": sum(n_right) / len(held_out)} if n_right else {})

    def weights(self) -> dict[str, np.ndarray]:
        """The trained weights, copied."""
        return _copied(self.learner.trainable_parameters())

    def moments(self) -> dict[str, np.ndarray]:
        """The optimiser's state, copied."""
        return _copied(self.optimiser.state)

    def restore(self, weights: Mapping[str, np.ndarray], moments: Mapping[str, np.ndarray] | None = None) -> None:
        """Put weights back, and the optimiser's state if it is given."""
        own = self.learner.trainable_parameters()
        self.learner.update(tree_map_with_path(lambda path, a: mx.array(weights[path]).astype(a.dtype), own))
        if moments:
            self.optimiser.init(own)
            kept = self.optimiser.state
            self.optimiser.state = tree_map_with_path(lambda path, a: mx.array(moments[path]).astype(a.dtype), kept)
        mx.eval(self.learner.trainable_parameters(), self.optimiser.state)

    def held_bytes(self) -> int:
        """Bytes of the trained weights and the optimiser's state."""
        trees = (self.learner.trainable_parameters(), self.optimiser.state)
        return sum(array.nbytes for tree in trees for _, array in tree_flatten(tree))

    def _parts(self, rows: np.ndarray, max_tokens: int) -> Iterator[tuple[np.ndarray, mx.array]]:
        """Micro-batches: which rows, and their tokens (B, T)."""
        lengths = [len(self.rows[i]) for i in rows]
        for part in shared.length_batches(lengths, max_tokens, border=self.border):
            some = rows[part]
            read_as(self.learner.net, max(lengths[i] for i in part))
            yield some, mx.array(shared.pad_right([self.rows[i] for i in some]))


@cache
def _computed_anew(kind: type) -> type:
    """A kind of block like the one given, that is called through `mx.checkpoint`; mlx-lm's way changes the kind itself,
    for every model there is."""

    def call(block: Any, *args: Any, **kwargs: Any) -> Any:
        def run(trained: Any, *args: Any, **kwargs: Any) -> Any:
            block.update(trained)
            return kind.__call__(block, *args, **kwargs)  # type: ignore[operator]

        return mx.checkpoint(run)(block.trainable_parameters(), *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})


def _copied(tree: Any) -> dict[str, np.ndarray]:
    wide = {mx.bfloat16: mx.float32, mx.float16: mx.float32}  # NumPy knows no bfloat16; the way back is exact
    return {path: np.array(a.astype(wide.get(a.dtype, a.dtype))) for path, a in tree_flatten(tree)}
