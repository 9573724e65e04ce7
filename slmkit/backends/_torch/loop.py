"""The training loop, and what it may minimise: the loss of a label after the last token, or of an answer's tokens.

Gradients add up over micro-batches below a token budget, so that memory stays small and the effective batch does not
change. Adapter weights compute in the model's number type while the optimiser works on float32 copies (Micikevicius et
al. 2018, arXiv 1710.03740).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from slmkit.backends import _shared as shared
from slmkit.backends._torch import prefix, scoring, traits
from slmkit.backends.base import LoRAConfig, Progress
from slmkit.errors import InputError

LOGITS_AT_ONCE = 2**23  # logits over the vocabulary held together; a place of a large vocabulary has 256,000


class Objective(Protocol):
    """What is minimised, over rows of which the body gave the hidden states."""

    def parameters(self) -> list[nn.Parameter]:
        """Weights trained beside the adapter."""

    def count(self, batch: np.ndarray) -> int:
        """Tokens of a batch that are spoken of as trained on."""

    def backward(self, hidden: torch.Tensor, rows: np.ndarray, batch: np.ndarray) -> float:
        """Pass gradients back from hidden states (B, T, H) of some rows of a batch; their share of its mean loss."""


class LastToken:
    """Cross-entropy of a float32 head on the last token's hidden state; no vocabulary logits are computed."""

    def __init__(self, head: nn.Linear, y: torch.Tensor, lengths: Sequence[int]) -> None:
        self.head, self.y, self.lengths = head, y.to(head.weight.device), np.asarray(lengths)

    @property
    def scale(self) -> float:
        """What the vectors that the head was trained on are, as a multiple of those that `embed` gives."""
        return 1.0

    def parameters(self) -> list[nn.Parameter]:
        return list(self.head.parameters())

    def count(self, batch: np.ndarray) -> int:
        return int(self.lengths[batch].sum())

    def vectors(self, hidden: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """What the head reads of each row: float32, (B, H)."""
        return hidden[torch.arange(len(rows)), torch.as_tensor(self.lengths[rows] - 1)].float()

    def backward(self, hidden: torch.Tensor, rows: np.ndarray, batch: np.ndarray) -> float:
        logits = self.head(self.vectors(hidden, rows))
        loss = nn.functional.cross_entropy(logits, self.y[rows], reduction="sum") / len(batch)
        loss.backward()
        return loss.item()


class MeanToken(LastToken):
    """The same on the mean over a row's tokens, as `scoring.embed` gives it for an encoder: of length one.

    The head is trained on that vector at the length hidden states commonly have, for from one of length one it learns
    slowly; its weights are scaled when they are written.
    """

    @property
    def scale(self) -> float:
        return float(self.head.in_features**0.5)

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

    def __init__(self, model: Any, pairs: Sequence[shared.Pair]) -> None:
        self.head, self.config, self.pairs = model.get_output_embeddings(), model.config, pairs

    def parameters(self) -> list[nn.Parameter]:
        return []

    def count(self, batch: np.ndarray) -> int:
        return sum(len(self.pairs[i].target) for i in batch)

    def backward(self, hidden: torch.Tensor, rows: np.ndarray, batch: np.ndarray) -> float:
        some = [self.pairs[i] for i in rows]
        places = [(b, p.start + t, token) for b, p in enumerate(some) for t, token in enumerate(p.target)]
        row, position, token = (torch.tensor(column, device=hidden.device) for column in zip(*places, strict=True))
        picked = hidden[row, position]  # (N, H)
        at_once = max(1, LOGITS_AT_ONCE // int(self.config.vocab_size))
        total, slopes = 0.0, []
        for states, wanted in zip(picked.detach().split(at_once), token.split(at_once), strict=True):
            states.requires_grad_(True)
            logits = scoring.logits_of(self.head, self.config, states)  # (n, V)
            loss = nn.functional.cross_entropy(logits, wanted, reduction="sum") / self.count(batch)
            loss.backward()  # to the states, and to the head where it is trained too
            slopes.append(torch.as_tensor(states.grad))
            total += loss.item()
        picked.backward(torch.cat(slopes))
        return total


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The model's blocks: its longest list of modules."""
    return max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)


def last_of(model: nn.Module, last_blocks: int) -> list[nn.Module]:
    """The last blocks of a model; `InputError` for more than it has."""
    blocks = blocks_of(model)
    if not 1 <= last_blocks <= len(blocks):
        raise InputError(f"last_blocks must be between 1 and {len(blocks)} for this model; got {last_blocks}")
    return list(blocks)[-last_blocks:]


class Loop:
    """One training: masters in float32, gradients added up over micro-batches, one-cycle learning rate."""

    def __init__(
        self,
        model: Any,
        objective: Objective,
        rows: Sequence[Sequence[int]],
        pad_id: int,
        config: LoRAConfig,
        where: torch.device,
    ) -> None:
        self.model, self.objective, self.rows = model, objective, [list(row) for row in rows]
        self.body = scoring.body_of(model)
        self.pad_id, self.config, self.where = pad_id, config, where
        self.border = traits.rope_border(self.body.config)
        self.no_cache = {"use_cache": False} if model.get_output_embeddings() is not None else {}  # encoders have none
        self.lora = [p for p in model.parameters() if p.requires_grad]
        self.masters = [p.detach().float().clone().requires_grad_(True) for p in self.lora]
        trained = [*self.masters, *objective.parameters()]
        self.optimiser = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.01)
        self.states: list[torch.Tensor] | None = None  # outputs of the blocks below the first trained one, a row each

    def run(self, callback: Progress | None) -> list[dict[str, float]]:
        plan = shared.training_plan([len(row) for row in self.rows], self.config)
        first = len(blocks_of(self.body)) - self.config.last_blocks if self.config.last_blocks else 0
        if not prefix.can_cache(self.body, first, sum(map(len, self.rows))):
            return self._steps(plan, callback)
        self.states = prefix.lower_states(self.body, first, self.rows, self.pad_id, self.where)
        with prefix.only_blocks(self.body, slice(first, None)):
            return self._steps(plan, callback)

    def _steps(self, plan: list[tuple[int, np.ndarray]], callback: Progress | None) -> list[dict[str, float]]:
        history = shared.History(len(plan), callback)
        for step, (epoch, batch) in enumerate(plan):
            rate = shared.one_cycle(step, len(plan), self.config.learning_rate)
            loss, n_tokens = self._step(batch, rate)
            history.add(epoch, loss, rate, n_tokens)
        return history.entries

    def _step(self, batch: np.ndarray, rate: float) -> tuple[float, int]:
        total = 0.0
        self.optimiser.zero_grad(set_to_none=True)
        lengths = [len(self.rows[i]) for i in batch]
        for part in shared.length_batches(lengths, self.config.max_batch_tokens, border=self.border):
            rows = batch[part]
            ids, mask = scoring.pad([self.rows[i] for i in rows], self.pad_id, self.where)
            if self.states is None:
                given = {"input_ids": ids}
            else:
                given = {"inputs_embeds": nn.utils.rnn.pad_sequence([self.states[i] for i in rows], batch_first=True)}
            hidden = self.body(**given, attention_mask=mask, **self.no_cache).last_hidden_state  # (B, T, H)
            total += self.objective.backward(hidden, rows, batch)
            self._collect()
        nn.utils.clip_grad_norm_([*self.masters, *self.objective.parameters()], 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        with torch.no_grad():
            for parameter, master in zip(self.lora, self.masters, strict=True):
                parameter.copy_(master)
        return total, self.objective.count(batch)

    def held_bytes(self) -> int:
        """Bytes of the trained weights, their masters and gradients, and the optimiser's states."""
        trained = [*self.masters, *self.objective.parameters()]
        states = [value for p in trained for value in self.optimiser.state[p].values() if torch.is_tensor(value)]
        grads = [p.grad for p in trained if p.grad is not None]
        return sum(t.numel() * t.element_size() for t in [*self.lora, *trained, *grads, *states])

    def _collect(self) -> None:
        for parameter, master in zip(self.lora, self.masters, strict=True):
            if parameter.grad is not None:
                grad = parameter.grad.float()
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                parameter.grad = None
