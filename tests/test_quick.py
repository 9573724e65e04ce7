"""What a training on a CPU computes in its own way is what transformers and PEFT compute."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from slmkit.assets import ModelSource
from slmkit.backends._torch import loading, products, quick, scoring, training
from slmkit.backends.base import LoRAConfig
from slmkit.estimate import terms

CPU = torch.device("cpu")


@pytest.mark.parametrize("bias", [False, True])
def test_fused_pairs_give_the_outputs_and_gradients_of_peft(bias: bool) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(12, 20, bias=bias), nn.Tanh(), nn.Linear(20, 7, bias=bias))
    lora = LoraConfig(r=3, lora_alpha=12, target_modules=["0", "2"], init_lora_weights=False)
    stock: Any = get_peft_model(layers, lora).eval()
    fused = copy.deepcopy(stock)
    quick.fuse(fused)
    assert sum(isinstance(m.__dict__.get("forward"), partial) for m in fused.modules()) == 2
    x, found = torch.randn(2, 5, 12), []
    for model in (stock, fused):
        given = x.clone().requires_grad_(True)
        out = model.base_model.model(given)
        out.square().sum().backward()
        found.append([out, given.grad, *(p.grad for n, p in model.named_parameters() if "lora_" in n)])
    assert len(found[0]) == 6
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_short_rows_attend_plainly_and_alike(tiny_decoder: ModelSource) -> None:
    model: Any = loading.load_module(tiny_decoder, 16, torch.bfloat16, CPU)
    body = scoring.body_of(model)
    assert body.config._attn_implementation == "sdpa"
    ids, mask = scoring.pad([[5, 6, 7, 8, 9], [10, 11]], 0, CPU)
    states = {}
    attention = quick.Attention(body, CPU)
    for tokens, way in ((quick.SHORT_TOKENS, quick.GROUPED), (quick.SHORT_TOKENS + 1, "sdpa")):
        attention.fit(tokens)
        assert {m.config._attn_implementation for m in body.modules() if hasattr(m, "config")} == {way}
        states[way] = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[mask.bool()]
    torch.testing.assert_close(states[quick.GROUPED], states["sdpa"], rtol=0.05, atol=0.05)


def test_other_number_types_and_devices_are_left_alone(tiny_decoder: ModelSource) -> None:
    wide: Any = scoring.body_of(loading.load_module(tiny_decoder, 16, torch.float32, CPU))
    attention = quick.Attention(wide, CPU)
    attention.fit(1)
    assert wide.config._attn_implementation == attention.way == "sdpa"
    assert not quick.Attention(wide.to(torch.bfloat16), torch.device("cuda")).applies


def test_a_training_is_fused_and_keeps_what_the_estimate_says(tiny_decoder: ModelSource) -> None:
    opened = training._open(tiny_decoder, 16, LoRAConfig(rank=2), head=False)
    assert any(isinstance(m.__dict__.get("forward"), partial) for m in opened.model.modules())
    assert (terms.PLAIN_TOKENS, terms.OPENED) == (quick.SHORT_TOKENS, products.OPENED)
