"""The mlx side of a training: gradients added up over micro-batches, one AdamW step a batch.

Lower blocks that do not train run in every epoch: mlx-lm's models have no place to begin in their middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_map_with_path, tree_unflatten

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
        self.last_blocks, self.freezes = config.last_blocks, config.freeze_after is not None
        self.optimiser = optim.AdamW(learning_rate=config.learning_rate, weight_decay=0.0, bias_correction=True)
        self.names = {path for path, _ in tree_flatten(learner.trainable_parameters())}
        self.value_and_grad = nn.value_and_grad(learner, learner.loss)
        self._gradients: Any = None

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Training mode while inside."""
        self.learner.train()
        try:
            yield
        finally:
            self.learner.eval()
            self._let_lower_blocks(nn.Module.unfreeze)

    def gradients(self, batch: np.ndarray, max_tokens: int) -> tuple[float, float]:
        """Mean loss of a batch and the norm of its gradients, which are then clipped."""
        loss, total = 0.0, None
        for some, tokens in self._parts(batch, max_tokens):
            value, grads = self.value_and_grad(tokens, some, batch)
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

    def freeze(self) -> None:
        """From here on, leave the adapters of all but the last blocks as they are."""
        self._let_lower_blocks(nn.Module.freeze)

    def _let_lower_blocks(self, way: Callable[..., Any]) -> None:
        for block in self.learner.net.layers[: -self.last_blocks] if self.freezes else []:
            way(block, keys=["lora_a", "lora_b"])

    def free(self) -> None:
        """Forget the gradients."""
        self._gradients = None
        mx.clear_cache()

    def recompute(self) -> bool:
        """Nothing: mlx-lm computes blocks anew for all models of a class at once, or not at all."""
        return False

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
        return _copied(self._trained())

    def moments(self) -> dict[str, np.ndarray]:
        """The optimiser's state, copied."""
        return _copied(self.optimiser.state)

    def restore(self, weights: Mapping[str, np.ndarray], moments: Mapping[str, np.ndarray] | None = None) -> None:
        """Put weights back, and the optimiser's state if it is given."""
        own = self._trained()
        self.learner.update(tree_map_with_path(lambda path, a: mx.array(weights[path]).astype(a.dtype), own))
        if moments:
            self.optimiser.init(own)
            kept = self.optimiser.state
            self.optimiser.state = tree_map_with_path(lambda path, a: mx.array(moments[path]).astype(a.dtype), kept)
        mx.eval(self.learner.trainable_parameters(), self.optimiser.state)

    def held_bytes(self) -> int:
        """Bytes of the trained weights and the optimiser's state."""
        trees = (self._trained(), self.optimiser.state)
        return sum(array.nbytes for tree in trees for _, array in tree_flatten(tree))

    def _trained(self) -> Any:
        """All that is trained in the course of the training, whether it is frozen by now or not."""
        return tree_unflatten([(path, a) for path, a in tree_flatten(self.learner.parameters()) if path in self.names])

    def _parts(self, rows: np.ndarray, max_tokens: int) -> Iterator[tuple[np.ndarray, mx.array]]:
        """Micro-batches: which rows, and their tokens (B, T)."""
        lengths = [len(self.rows[i]) for i in rows]
        for part in shared.length_batches(lengths, max_tokens, border=self.border):
            some = rows[part]
            read_as(self.learner.net, max(lengths[i] for i in part))
            yield some, mx.array(shared.pad_right([self.rows[i] for i in some]))


def _copied(tree: Any) -> dict[str, np.ndarray]:
    wide = {mx.bfloat16: mx.float32, mx.float16: mx.float32}  # NumPy knows no bfloat16; the way back is exact
    return {path: np.array(a.astype(wide.get(a.dtype, a.dtype))) for path, a in tree_flatten(tree)}
