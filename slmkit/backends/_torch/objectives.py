"""What a training may minimise: the loss of a label after the last token, or of an answer's tokens.

Each reads the body's hidden states at few places, which it names, so that no more is computed of the last block, and
logits over the vocabulary exist at those of an answer alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from slmkit.backends import _shared as shared
from slmkit.backends._torch import scoring
from slmkit.backends._torch.places import Places

LOGITS_AT_ONCE = 2**23  # logits over the vocabulary held together; a place of a large vocabulary has 256,000

Weights = Sequence[nn.Parameter]
Gradients = Sequence[torch.Tensor | None]


class Objective(Protocol):
    """What is minimised, over rows of which the body gave the hidden states."""

    side_by_side: bool  # whether several micro-batches may be at it at once

    def parameters(self) -> list[nn.Parameter]:
        """Weights trained beside the adapter."""

    def count(self, batch: np.ndarray) -> int:
        """Tokens of a batch that are spoken of as trained on."""

    def places(self, rows: np.ndarray) -> Places | None:
        """Where the hidden states of some rows are read; None: everywhere."""

    def gradients(
        self, hidden: torch.Tensor, rows: np.ndarray, batch: np.ndarray, weights: Weights, times: float
    ) -> tuple[float, Gradients]:
        """From hidden states (B, T, H) of some rows of a batch: their share of its mean loss, and what it passes back.

        Gradients are of the loss multiplied by `times`, so that float16 can hold them; None for what is not reached.
        """

    def measure(self, hidden: torch.Tensor, rows: np.ndarray) -> dict[str, float]:
        """Sums over rows of which the body gave the hidden states: "loss" in nats, what it is "of", "accuracy"."""


class LastToken:
    """Cross-entropy of a float32 head on the last token's hidden state; no vocabulary logits are computed.

    `y` holds class indices (n,) or the classes' probabilities (n, C), `weights` what the loss of each class counts.
    """

    side_by_side = True

    def __init__(
        self, head: nn.Linear, y: np.ndarray, lengths: Sequence[int], weights: Sequence[float] | None = None
    ) -> None:
        self.head, self.lengths = head, np.asarray(lengths)
        self.class_weights = None if weights is None else torch.tensor(weights, device=head.weight.device)
        self.y = torch.as_tensor(y, dtype=torch.float32 if y.ndim == 2 else torch.int64, device=head.weight.device)

    @property
    def scale(self) -> float:
        """What the vectors that the head was trained on are, as a multiple of those that `embed` gives."""
        return 1.0

    def parameters(self) -> list[nn.Parameter]:
        return list(self.head.parameters())

    def count(self, batch: np.ndarray) -> int:
        return int(self.lengths[batch].sum())

    def gradients(
        self, hidden: torch.Tensor, rows: np.ndarray, batch: np.ndarray, weights: Weights, times: float
    ) -> tuple[float, Gradients]:
        loss = self._loss(self._logits(hidden, rows), self.y[rows]) / len(batch)
        return loss.item(), torch.autograd.grad(loss * times, weights, allow_unused=True)

    def measure(self, hidden: torch.Tensor, rows: np.ndarray) -> dict[str, float]:
        logits, y = self._logits(hidden, rows), self.y[rows]
        loss = self._loss(logits, y).item()
        own = y.argmax(dim=1) if y.ndim == 2 else y
        return {"loss": loss, "of": len(rows), "accuracy": int((logits.argmax(dim=1) == own).sum())}

    def _loss(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, y, weight=self.class_weights, reduction="sum")

    def places(self, rows: np.ndarray) -> Places | None:
        return torch.arange(len(rows)), torch.as_tensor(self.lengths[rows] - 1)

    def vectors(self, hidden: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """What the head reads of each row: float32, (B, H)."""
        return hidden[self.places(rows)].float()  # type: ignore[index]

    def _logits(self, hidden: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        return self.head(self.vectors(hidden, rows))  # (B, n_classes)


class MeanToken(LastToken):
    """The same on the mean over a row's tokens, as `scoring.embed` gives it for an encoder: of length one.

    The head is trained on that vector at the length hidden states commonly have, for from one of length one it learns
    slowly; its weights are scaled when they are written.
    """

    @property
    def scale(self) -> float:
        return float(self.head.in_features**0.5)

    def places(self, rows: np.ndarray) -> None:
        return None

    def vectors(self, hidden: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        lengths = torch.as_tensor(self.lengths[rows], device=hidden.device)[:, None]
        mask = torch.arange(hidden.shape[1], device=hidden.device) < lengths  # (B, T)
        mean = (hidden.float() * mask.unsqueeze(-1)).sum(1) / lengths
        return self.scale * nn.functional.normalize(mean, dim=1)


class Answers:
    """Cross-entropy of the model's own head over answers and their ends: one mean over all such tokens of a batch.

    Logits exist for these places alone, some at a time: each chunk's gradient goes to its hidden states at once, and
    the blocks are passed through once for all.
    """

    side_by_side = True

    def __init__(self, model: Any, pairs: Sequence[shared.Pair]) -> None:
        self.head, self.config, self.pairs = model.get_output_embeddings(), model.config, pairs

    def parameters(self) -> list[nn.Parameter]:
        return []

    def count(self, batch: np.ndarray) -> int:
        return sum(len(self.pairs[i].target) for i in batch)

    def gradients(
        self, hidden: torch.Tensor, rows: np.ndarray, batch: np.ndarray, weights: Weights, times: float
    ) -> tuple[float, Gradients]:
        picked, token = hidden[self.places(rows)], self._tokens(rows, hidden.device)
        at_once = self._at_once()
        total, slopes, of_head = 0.0, [], [None] * len(weights)
        for states, wanted in zip(picked.detach().split(at_once), token.split(at_once), strict=True):
            states.requires_grad_(True)
            logits = scoring.logits_of(self.head, self.config, states)  # (n, V)
            loss = nn.functional.cross_entropy(logits, wanted, reduction="sum") / self.count(batch)
            slope, *more = torch.autograd.grad(loss * times, [states, *weights], allow_unused=True)
            slopes.append(slope)
            of_head = _added(of_head, more)  # where it is trained too
            total += loss.item()
        passed = torch.autograd.grad(picked, weights, torch.cat(slopes), allow_unused=True)
        return total, _added(of_head, passed)

    def measure(self, hidden: torch.Tensor, rows: np.ndarray) -> dict[str, float]:
        picked, token = hidden[self.places(rows)], self._tokens(rows, hidden.device)
        loss = 0.0
        for states, wanted in zip(picked.split(self._at_once()), token.split(self._at_once()), strict=True):
            logits = scoring.logits_of(self.head, self.config, states)  # (n, V)
            loss += nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
        return {"loss": loss, "of": len(token)}

    def places(self, rows: np.ndarray) -> Places:
        some = [self.pairs[i] for i in rows]
        found = [(b, p.start + t) for b, p in enumerate(some) for t in range(len(p.target))]
        row, position = torch.tensor(found).unbind(1)
        return row, position

    def _tokens(self, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """What is to be predicted at those places, (N,)."""
        return torch.tensor([token for i in rows for token in self.pairs[i].target], device=device)

    def _at_once(self) -> int:
        return max(1, LOGITS_AT_ONCE // int(self.config.vocab_size))


def _added(some: Gradients, more: Gradients) -> list[torch.Tensor | None]:
    return [b if a is None else a if b is None else a.add_(b) for a, b in zip(some, more, strict=True)]
