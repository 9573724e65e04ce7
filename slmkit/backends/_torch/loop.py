"""The training loop of every objective.

Gradients add up over micro-batches below a token budget, so that memory stays small and the effective batch does not
change; on a CPU micro-batches run side by side (`lanes`). Adapter weights compute in the model's number type while the
optimiser works on float32 copies (Micikevicius et al. 2018, arXiv 1710.03740). In float16, whose range is small, the
loss is amplified before its gradients are taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from slmkit.backends import _shared as shared
from slmkit.backends._torch import lanes, places, prefix, quick, scoring, traits
from slmkit.backends._torch.objectives import Gradients, Objective
from slmkit.backends.base import LoRAConfig
from slmkit.errors import InputError

AMPLIFIED, SCALE = 2.0**16, "loss scale"  # a power of two changes no digit (Micikevicius et al.)


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The model's blocks: its longest list of modules."""
    return max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)


def _computed_anew(forward: Any) -> Any:
    """A block's forward that keeps its input alone; transformers' own way of it acts in training mode only."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)  # draws no numbers

    return run


def last_of(model: nn.Module, last_blocks: int) -> list[nn.Module]:
    """The last blocks of a model; `InputError` for more than it has."""
    blocks = blocks_of(model)
    if not 1 <= last_blocks <= len(blocks):
        raise InputError(f"last_blocks must be between 1 and {len(blocks)} for this model; got {last_blocks}")
    return list(blocks)[-last_blocks:]


class Loop:
    """The torch side of a training: masters in float32, gradients added up over micro-batches.

    Parameters
    ----------
    model : nn.Module
        Only what is to be trained requires gradients.
    objective : Objective
    rows : sequence of token ids
        Those to learn, and after them those held out.
    n_train : int
        How many are to learn.
    pad_id : int
    config : LoRAConfig
    where : torch.device
    key : mapping
        What tells this model's hidden states from those of others, see `_states.Store`.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        rows: Sequence[Sequence[int]],
        n_train: int,
        pad_id: int,
        config: LoRAConfig,
        where: torch.device,
        key: Mapping[str, Any],
    ) -> None:
        self.model, self.objective, self.rows, self.n_train = model, objective, [list(row) for row in rows], n_train
        self.body = scoring.body_of(model)
        self.pad_id, self.config, self.where, self.key = pad_id, config, where, key
        self.border = traits.rope_border(self.body.config)
        self.attention, self.last = quick.Attention(self.body, where), places.LastBlock(blocks_of(self.body)[-1])
        self.no_cache = {"use_cache": False} if model.get_output_embeddings() is not None else {}  # encoders have none
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.lora = list(named.values())
        alone = config.trains == "weights" or self.border is not None or not objective.side_by_side
        alone |= key.get("bits", 16) != 16  # each thread would open the weights for itself
        self.lanes = lanes.Lanes(1 if alone else lanes.usable(where))
        self.masters = [p.detach().float().clone().requires_grad_(True) for p in self.lora]
        self.trained = [*self.masters, *objective.parameters()]
        self.names = [*named, *(f"objective.{i}" for i in range(len(self.trained) - len(named)))]
        how = {"lr": config.learning_rate, "weight_decay": 0.01, "fused": where.type == "cpu"}  # fewer passes there
        self.optimiser = torch.optim.AdamW(self.trained, **how)
        self.states: prefix.States | None = None  # outputs of the blocks below the first trained one, by row
        self.recomputes = False
        self.amplified = AMPLIFIED if self.lora[0].dtype == torch.float16 else 1.0

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Blocks below the first trained one run once, before the steps, where that can be."""
        first = len(blocks_of(self.body)) - self.config.last_blocks if self.config.last_blocks else 0
        self.states = prefix.states_of(self.body, first, self.rows, self.pad_id, self.where, self.key)
        with self.lanes.opened():
            if self.states is None:
                yield
                return
            with prefix.only_blocks(self.body, slice(first, None)):
                yield

    def gradients(self, batch: np.ndarray, max_tokens: int) -> tuple[float, float]:
        """Mean loss of a batch and the norm of its gradients, which are then clipped.

        In float16 the loss is amplified; where that is too much for it, half as much from there on, and again.
        """
        while True:
            loss, norm = self._gradients(batch, max_tokens)
            if math.isfinite(norm) or not math.isfinite(loss) or self.amplified == 1:
                return loss, norm
            self.amplified = max(1.0, self.amplified / 2)

    def _gradients(self, batch: np.ndarray, max_tokens: int) -> tuple[float, float]:
        self.free()
        lengths, total = [len(self.rows[i]) for i in batch], 0.0
        self.attention.fit(max(lengths))
        side_by_side = self.lanes.parts(lengths, max_tokens)
        if side_by_side is None:
            found: Iterator[Any] = map(partial(self._part, batch), self._parts(batch, max_tokens))
        else:
            found = self.lanes.map(partial(self._part, batch), [batch[part] for part in side_by_side])
        for loss, slopes in found:
            total += loss
            self._collect(slopes)
        if self.amplified != 1:
            for parameter in self.trained:
                parameter.grad = None if parameter.grad is None else parameter.grad / self.amplified
        return total, float(nn.utils.clip_grad_norm_(self.trained, 1.0))

    def _part(self, batch: np.ndarray, rows: np.ndarray) -> tuple[float, Gradients]:
        weights = [*self.lora, *self.objective.parameters()]
        with self.last.reading(self.objective.places(rows)):
            return self.objective.gradients(self._hidden(rows), rows, batch, weights, self.amplified)

    def update(self, rate: float) -> None:
        """Step the masters, and give the model their values."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self._hand_down()

    def free(self) -> None:
        """Forget all gradients."""
        self.optimiser.zero_grad(set_to_none=True)

    def recompute(self) -> bool:
        """Keep of every trained block its input alone, and compute the rest anew on the way back; False if that is so.

        Chen et al. 2016, arXiv 1604.06174.
        """
        if self.recomputes:
            return False
        for block in blocks_of(self.body):
            if any(parameter.requires_grad for parameter in block.parameters()):
                block.forward = _computed_anew(block.forward)
        self.recomputes = True
        return True

    def count(self, batch: np.ndarray) -> int:
        """Tokens of a batch that are spoken of as trained on."""
        return self.objective.count(batch)

    @torch.no_grad()
    def measure(self, max_tokens: int) -> dict[str, float]:
        """Mean loss on the held-out rows, and accuracy where there are labels."""
        sums: dict[str, float] = {}
        for rows in self._parts(np.arange(self.n_train, len(self.rows)), max_tokens):
            self.attention.fit(max(len(self.rows[i]) for i in rows))
            with self.last.reading(self.objective.places(rows)):
                found = self.objective.measure(self._hidden(rows), rows)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value
        return {name: value / sums["of"] for name, value in sums.items() if name != "of"}

    def weights(self) -> dict[str, np.ndarray]:
        """Masters and the objective's weights; on a CPU these very numbers, not a copy."""
        return {n: p.detach().cpu().numpy() for n, p in zip(self.names, self.trained, strict=True)}

    def moments(self) -> dict[str, np.ndarray]:
        """AdamW's state of each of them."""
        states = zip(self.names, (self.optimiser.state[p] for p in self.trained), strict=True)
        found = {f"{name}/{key}": value.cpu().numpy() for name, state in states for key, value in state.items()}
        return {**found, SCALE: np.array(self.amplified)} if self.amplified != 1 else found

    def restore(self, weights: Mapping[str, np.ndarray], moments: Mapping[str, np.ndarray] | None = None) -> None:
        """Put weights back, and AdamW's state if it is given."""
        with torch.no_grad():
            for name, parameter in zip(self.names, self.trained, strict=True):
                parameter.copy_(torch.from_numpy(weights[name].copy()))
        self._hand_down()
        for path, value in (moments or {}).items():
            if path == SCALE:
                self.amplified = float(value)
                continue
            name, _, key = path.rpartition("/")
            master = self.trained[self.names.index(name)]
            kept = torch.from_numpy(value.copy())
            self.optimiser.state[master][key] = kept if key == "step" else kept.to(master.device)

    def held_bytes(self) -> int:
        """Bytes of the trained weights, their masters and gradients, and the optimiser's states."""
        states = [value for p in self.trained for value in self.optimiser.state[p].values() if torch.is_tensor(value)]
        grads = [p.grad for p in self.trained if p.grad is not None]
        return sum(t.numel() * t.element_size() for t in [*self.lora, *self.trained, *grads, *states])

    def _parts(self, rows: np.ndarray, max_tokens: int) -> list[np.ndarray]:
        lengths = [len(self.rows[i]) for i in rows]
        return [rows[part] for part in shared.length_batches(lengths, max_tokens, border=self.border)]

    def _hidden(self, rows: np.ndarray) -> torch.Tensor:
        """The body's last hidden states of some rows, (B, T, H)."""
        ids, mask = scoring.pad([self.rows[i] for i in rows], self.pad_id, self.where)
        if self.states is None:
            given = {"input_ids": ids}
        else:
            given = {"inputs_embeds": nn.utils.rnn.pad_sequence([self.states(i) for i in rows], batch_first=True)}
        hidden: torch.Tensor = self.body(**given, attention_mask=mask, **self.no_cache).last_hidden_state
        return hidden

    def _hand_down(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.lora, self.masters)

    @torch.no_grad()
    def _collect(self, slopes: Gradients) -> None:
        """Add gradients to those there are, in few calls: the threads at the other parts want the interpreter too."""
        reached = [(m, slope) for m, slope in zip(self.trained, slopes, strict=True) if slope is not None]
        known = [(m.grad, slope) for m, slope in reached if m.grad is not None]
        if known:
            torch._foreach_add_(*map(list, zip(*known, strict=True)))
        if new := [(m, slope) for m, slope in reached if m.grad is None]:
            sums = [torch.empty_like(m) for m, _ in new]
            torch._foreach_copy_(sums, [slope for _, slope in new])
            for total, (master, _) in zip(sums, new, strict=True):
                master.grad = total
