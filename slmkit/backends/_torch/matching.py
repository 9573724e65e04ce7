"""Trains a student until its hidden states are its teacher's, of the same width and on the same tokens.

The teacher reads every row once; what is kept are its states at the places asked for, in 16 bits. The loss is relative
to the length of the teacher's vector, token by token: the first token of a decoder has vectors a hundred times as long
as the others', and would be all that counts otherwise.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from slmkit.assets import ModelSource
from slmkit.backends import _shared as shared
from slmkit.backends._torch import depth, loading, objectives, scoring, training, traits
from slmkit.backends._torch import device as devices
from slmkit.backends.base import LoRAConfig, Progress, Watch
from slmkit.errors import InputError, SlmkitError

MAX_BYTES = 2 << 30  # of the teacher's states


class Match:
    """Distance to the teacher's states, a mean over tokens and places: squared and relative, or 1 minus the cosine."""

    side_by_side = False  # `states` are those of one pass

    def __init__(
        self, told: Sequence[torch.Tensor], blocks: Sequence[int], states: depth.States, *, cosine: bool
    ) -> None:
        self.told, self.blocks, self.states, self.cosine = told, blocks, states, cosine  # told: (P, T, H) a row

    def parameters(self) -> list[nn.Parameter]:
        return []

    def count(self, batch: np.ndarray) -> int:
        return sum(self.told[i].shape[1] for i in batch)

    def places(self, rows: np.ndarray) -> None:
        return None

    def gradients(
        self, hidden: torch.Tensor, rows: np.ndarray, batch: np.ndarray, weights: objectives.Weights, times: float
    ) -> tuple[float, objectives.Gradients]:
        loss = self._sum(hidden, rows) / self.count(batch)
        return loss.item(), torch.autograd.grad(loss * times, weights, allow_unused=True)

    def measure(self, hidden: torch.Tensor, rows: np.ndarray) -> dict[str, float]:
        return {"loss": self._sum(hidden, rows).item(), "of": self.count(rows)}

    def _sum(self, hidden: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Distances of some rows, of which the body gave the last hidden states (B, T, H): summed over their tokens."""
        here = torch.stack([*(self.states[block + 1] for block in self.blocks), hidden])  # (P, B, T, H)
        total = hidden.new_zeros((), dtype=torch.float32)
        for b, row in enumerate(rows):
            told = self.told[row].to(hidden.device).float()
            said = here[:, b, : told.shape[1]].float()
            if self.cosine:
                far = 1 - nn.functional.cosine_similarity(said, told, dim=-1)
            else:
                far = (said - told).square().sum(-1) / told.square().sum(-1).clamp_min(1e-6)
            total = total + far.mean(0).sum()
        return total


def match(
    teacher: ModelSource,
    student: ModelSource,
    texts: Sequence[str],
    *,
    layers: Mapping[int, int],
    cosine: bool,
    config: LoRAConfig,
    out: Path,
    callback: Progress | None,
) -> list[dict[str, float]]:
    """Train and write the student; see `slmkit.backends.match`."""
    rows = _same_rows(teacher, student, texts, config.max_length)
    told = _states(teacher, rows, list(layers.values()))
    opened = training._open(student, 16, config, head=False)
    if opened.model.config.hidden_size != told[0].shape[-1]:
        raise InputError(
            f"teacher and student must have hidden states of one width; got {told[0].shape[-1]} "
            f"({teacher.name}) and {opened.model.config.hidden_size} ({student.name})"
        )
    with depth.caught(opened.model) as states, tempfile.TemporaryDirectory(prefix="slmkit-match-") as adapter:
        objective, lengths = Match(told, list(layers), states, cosine=cosine), [len(row) for row in rows]
        history = training._fit(opened, rows, lengths, len(rows), objective, config, Path(adapter), callback, Watch())
    model: Any = opened.model if opened.wrapped is None else opened.wrapped.merge_and_unload()
    model.to(torch.bfloat16).save_pretrained(str(out), safe_serialization=True)
    return history


def _same_rows(teacher: ModelSource, student: ModelSource, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Token rows of the texts; `InputError` when the two models do not read the same tokens."""
    for source in (teacher, student):
        loading.check_architecture(source)
    theirs, ours = (loading.load_tokenizer(source) for source in (teacher, student))
    rows, own = (shared.encode(tokenizer, texts, max_length) for tokenizer in (theirs, ours))
    for text, a, b in zip(texts, rows, own, strict=True):
        if a != b:
            raise InputError(
                f"teacher and student must read the same tokens to have their hidden states matched; of {text[:60]!r} "
                f"{teacher.name} makes {a[:8]} and {student.name} {b[:8]}. Distil label probabilities instead, which "
                "needs no shared tokenizer (slmkit.distill)"
            )
    return rows


@torch.inference_mode()
def _states(source: ModelSource, rows: Sequence[list[int]], blocks: Sequence[int]) -> list[torch.Tensor]:
    """The teacher's states after those blocks and its last ones, bfloat16 (P, T, H) a row."""
    where = devices.pick_device()
    model: Any = loading.load_module(source, 16, devices.choose_dtype(None, where), where)
    n_bytes = 2 * sum(map(len, rows)) * (len(blocks) + 1) * model.config.hidden_size
    if n_bytes > MAX_BYTES:
        raise SlmkitError(
            f"the teacher's states of {len(rows):,} texts at {len(blocks) + 1} places take {n_bytes / 1e9:.1f} GB, and "
            f"{MAX_BYTES / 1e9:.1f} GB are allowed: take fewer texts, a smaller max_length, or fewer layers"
        )
    body, out = scoring.body_of(model), [torch.empty(0)] * len(rows)
    extra = {"use_cache": False} if source.kind == "decoder" else {}
    pad_id = loading.load_tokenizer(source).pad_token_id
    with depth.caught(body) as states:
        border = traits.rope_border(model.config)
        for batch in shared.length_batches([len(row) for row in rows], depth.BATCH_TOKENS, border=border):
            ids, mask = scoring.pad([rows[i] for i in batch], pad_id, where)
            last = body(input_ids=ids, attention_mask=mask, **extra).last_hidden_state
            picked = torch.stack([*(states[block + 1] for block in blocks), last])  # (P, B, T, H)
            for b, row in enumerate(batch):
                out[row] = picked[:, b, : len(rows[row])].to("cpu", torch.bfloat16, copy=True)
    del model, body
    gc.collect()
    return out
