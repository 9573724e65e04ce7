"""Label log-likelihoods and embeddings in length-sorted batches: a shared prefix is computed once, padding is small.

The vocabulary head is applied to the positions that are read and to no other.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from slmkit.backends import _shared as shared
from slmkit.backends._torch import traits

BATCH_TOKENS = 2048
LOGITS_AT_ONCE = 1 << 22  # logits over the vocabulary that are held together, of as many positions as that makes
MIN_PREFIX = 8  # a shorter shared beginning is not worth a pass of its own


def pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and mask, both int64, shape (n_rows, longest)."""
    ids = torch.from_numpy(shared.pad_right(rows, pad_id)).to(device, torch.int64)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()


def body_of(model: nn.Module) -> nn.Module:
    """The part of a model that ends in hidden states, without the vocabulary head."""
    return model.get_decoder() if hasattr(model, "get_decoder") and model.get_output_embeddings() is not None else model  # type: ignore[operator]


@torch.inference_mode()
def embed(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    pooling: str,
    normalise: bool,
    max_length: int | None,
    context: int,
    device: torch.device,
) -> np.ndarray:
    """Pooled last hidden states, float32, shape (n_texts, hidden), in the order of `texts`."""
    ids = shared.encode(tokenizer, texts, max_length, context)
    body, out = body_of(model), None
    border = traits.rope_border(model.config)
    for rows in shared.length_batches([len(row) for row in ids], BATCH_TOKENS, border=border):
        tokens, mask = pad([ids[i] for i in rows], tokenizer.pad_token_id, device)
        extra = {} if normalise else {"use_cache": False}
        hidden = body(input_ids=tokens, attention_mask=mask, **extra).last_hidden_state  # (B, T, H)
        if pooling == "last":
            pooled = hidden[torch.arange(len(rows), device=device), mask.sum(1) - 1].float()
        else:
            pooled = (hidden.float() * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        if normalise:
            pooled = nn.functional.normalize(pooled, dim=1)
        if out is None:
            out = np.zeros((len(ids), pooled.shape[1]), dtype=np.float32)
        out[rows] = pooled.cpu().numpy()
    assert out is not None
    return out


def logits_of(head: nn.Module, config: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Float32 logits over the vocabulary (..., V) of hidden states (..., H), capped where the model caps them."""
    logits = head(hidden)
    cap = getattr(config, "final_logit_softcapping", None)
    if cap:
        logits = torch.tanh(logits / cap) * cap
    return torch.as_tensor(logits.float())


def contexts_and_tails(pairs: Sequence[Sequence[shared.Pair]]) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Each prompt's ids and, for each of its continuations, theirs."""
    contexts = [list(row[0].read[: row[0].start + 1]) for row in pairs]
    return contexts, [[list(pair.target) for pair in row] for row in pairs]


class LabelScorer:
    """Scores continuations after prompts for one model; the shared prefix's keys and values are computed once."""

    def __init__(self, model: nn.Module, pad_id: int, device: torch.device) -> None:
        self.body, self.head = body_of(model), model.get_output_embeddings()  # type: ignore[operator]
        self.config: Any = model.config
        self.pad_id, self.device = pad_id, device
        self.border, window = traits.rope_border(self.config), traits.window(self.config)
        self._simple = min(filter(None, (self.border, window)), default=None)

    @torch.inference_mode()
    def score_rows(self, table: Sequence[Sequence[shared.Pair]], max_length: int) -> np.ndarray:
        """Log-likelihoods in nats, float64, (n_prompts, n_continuations); every row is read from end to end.

        For contexts that differ between continuations, and for models whose numbers depend on the length (`traits`).
        """
        reads, places = shared.plan_reads(table, self.border)
        out = np.zeros(len(places))
        for group in shared.alike(reads, max_length, self.border):
            chosen = {p: place for p, place in enumerate(places) if place[0] in set(group)}
            starts = [start for _, start, _ in chosen.values()]
            n_shared = shared.shared_beginning([reads[k] for k in group], starts, self.border)
            n_shared = n_shared if n_shared >= MIN_PREFIX else 0
            prefix = self._prefix(list(reads[group[0]][:n_shared])) if n_shared else None
            for batch in shared.length_batches([len(reads[k]) - n_shared for k in group], BATCH_TOKENS):
                here = {group[b]: i for i, b in enumerate(batch)}
                hidden = self._read([list(reads[k][n_shared:]) for k in here], prefix, n_shared)
                cells = [
                    (p, here[row], start - n_shared + i, token)
                    for p, (row, start, target) in chosen.items()
                    if row in here
                    for i, token in enumerate(target)
                ]
                self._add_cells(hidden, cells, out)
        return out.reshape(len(table), -1)

    def is_simple(self, table: Sequence[Sequence[shared.Pair]]) -> bool:
        """Whether `score` may continue padded contexts: one context a prompt, too short for a window or a border."""
        same = all(row[0].read[: row[0].start + 1] == pair.read[: pair.start + 1] for row in table for pair in row)
        longest = max(pair.start + 1 for row in table for pair in row)
        longest += max(len(pair.target) for row in table for pair in row)
        return same and (self._simple is None or longest <= self._simple)

    def _read(self, rows: list[list[int]], prefix: DynamicCache | None, n_shared: int) -> torch.Tensor:
        """Hidden states (B, T, H) of rows that follow the prefix."""
        ids, mask = pad(rows, self.pad_id, self.device)
        mask = torch.cat([torch.ones((len(rows), n_shared), dtype=mask.dtype, device=self.device), mask], dim=1)
        cache = self._expanded(prefix, len(rows)) if prefix is not None else None
        hidden: torch.Tensor = self.body(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state
        return hidden

    def _add_cells(self, hidden: torch.Tensor, cells: list[tuple[int, int, int, int]], out: np.ndarray) -> None:
        """Add each cell's log-probability (place, row, position, token) to its place."""
        at_once = max(1, LOGITS_AT_ONCE // int(self.config.get_text_config().vocab_size))
        for first in range(0, len(cells), at_once):
            places, rows, positions, tokens = zip(*cells[first : first + at_once], strict=True)
            logp = self._log_softmax(hidden[list(rows), list(positions)])  # (N, V)
            values = logp.gather(1, torch.tensor(tokens, device=self.device)[:, None])[:, 0]
            np.add.at(out, list(places), values.double().cpu().numpy())

    @torch.inference_mode()
    def score(self, contexts: list[list[int]], tails: list[list[list[int]]]) -> np.ndarray:
        """Log-likelihoods in nats, float64, shape (n_prompts, n_continuations)."""
        n_shared = min(shared.common_prefix(contexts), min(map(len, contexts)) - 1)  # each row keeps a token of its own
        n_shared = n_shared if n_shared >= MIN_PREFIX and len(contexts) > 1 else 0
        prefix = self._prefix(contexts[0][:n_shared]) if n_shared else None
        own = [c[n_shared:] for c in contexts]
        out = np.zeros((len(contexts), len(tails[0])))
        for rows in shared.length_batches([len(o) + n_shared // 4 for o in own], BATCH_TOKENS):
            out[rows] = self._batch([own[i] for i in rows], [tails[i] for i in rows], prefix, n_shared)
        return out

    def _prefix(self, ids: list[int]) -> DynamicCache:
        cache = DynamicCache()  # which keeps all tokens, also those that a window no longer shows
        self.body(input_ids=torch.tensor([ids], device=self.device), past_key_values=cache, use_cache=True)
        return cache

    def _expanded(self, prefix: DynamicCache | None, n_rows: int) -> DynamicCache:
        """A cache that begins with the prefix for every row: views of it, copied only where a row's own tokens join."""
        if prefix is None:
            return DynamicCache()
        cache = copy.copy(prefix)
        cache.layers = [copy.copy(layer) for layer in prefix.layers]
        for layer in cache.layers:
            layer.keys = layer.keys.expand(n_rows, -1, -1, -1)
            layer.values = layer.values.expand(n_rows, -1, -1, -1)
        return cache

    def _batch(
        self, own: list[list[int]], tails: list[list[list[int]]], prefix: DynamicCache | None, n_shared: int
    ) -> np.ndarray:
        ids, mask = pad(own, self.pad_id, self.device)
        seen = torch.ones((len(own), n_shared), dtype=torch.int64, device=self.device)
        mask = torch.cat([seen, mask], dim=1)
        longest = max(len(t) for row in tails for t in row)
        cache = self._expanded(prefix, len(own)) if prefix is not None or longest > 1 else None
        hidden = self.body(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state
        lengths = torch.tensor([len(o) for o in own], device=self.device)
        last = hidden[torch.arange(len(own), device=self.device), lengths - 1]  # (B, H)
        logp = self._log_softmax(last)  # (B, V)
        out = np.zeros((len(own), len(tails[0])))
        for column in range(len(tails[0])):
            targets = [row[column] for row in tails]
            first = torch.tensor([t[0] for t in targets], device=self.device)
            scores = logp.gather(1, first[:, None])[:, 0]
            if any(len(t) > 1 for t in targets):
                assert cache is not None
                scores = scores + self._rest(targets, cache, mask, n_shared + lengths)
            out[:, column] = scores.double().cpu().numpy()
        return out

    def _rest(
        self, targets: list[list[int]], cache: DynamicCache, mask: torch.Tensor, starts: torch.Tensor
    ) -> torch.Tensor:
        """Log-probability of each target's tokens after its first; leaves the cache as it was."""
        fed, fed_mask = pad([t[:-1] or [self.pad_id] for t in targets], self.pad_id, self.device)
        wanted, wanted_mask = pad([t[1:] or [self.pad_id] for t in targets], self.pad_id, self.device)
        wanted_mask[torch.tensor([len(t) < 2 for t in targets], device=self.device)] = 0
        positions = starts[:, None] + torch.arange(fed.shape[1], device=self.device)
        hidden = self.body(
            input_ids=fed,
            attention_mask=torch.cat([mask, fed_mask], dim=1),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        cache.crop(-fed.shape[1])
        logp = self._log_softmax(hidden).gather(2, wanted[:, :, None])[:, :, 0]
        return (logp * wanted_mask).sum(1)

    def _log_softmax(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(logits_of(self.head, self.config, hidden), dim=-1)
