"""Writes text token by token with a growing cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from slmkit.backends._torch import traits


@torch.inference_mode()
def decode(
    model: nn.Module,
    ids: list[int],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    stop_ids: set[int],
    device: torch.device,
) -> Iterator[int]:
    """Yield the next tokens after `ids`; ends before a token of `stop_ids`, or at the limit.

    Logits are computed for the last position alone. Temperature 0 takes the likeliest token, else `seed` draws one.
    A text that grows beyond the border of LongRoPE is read anew, since its keys were made with the short factors.
    """
    noise = torch.Generator(device="cpu").manual_seed(seed)
    border = traits.rope_border(model.config)
    ids = list(ids)
    fed, cache = torch.tensor([ids], device=device), None
    for _ in range(max_new_tokens):
        if border is not None and len(ids) == border + 1:
            fed, cache = torch.tensor([ids], device=device), None
        out: Any = model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        token = _pick(out.logits[0, -1].float().cpu(), temperature, noise)
        if token in stop_ids:
            return
        yield token
        ids.append(token)
        fed = torch.tensor([[token]], device=device)


def _pick(logits: torch.Tensor, temperature: float, noise: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    return int(torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=noise))
