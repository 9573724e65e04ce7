"""Merges an adapter into its model: weights out of their 4 or 8 bits first, for adding to packed ones ruins them.

What is written is a plain Hugging Face folder; quantise and measure it again (transformers issue 31293 shows why).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from slmkit.assets import ModelSource
from slmkit.backends import _checks
from slmkit.backends._torch import full, loading, quantise, training


def merge(source: ModelSource, bits: int, adapter: Path, out: Path, dtype: str = "float32") -> None:
    """Write the model with the adapter in its weights to `out`, with the tokenizer.

    Parameters
    ----------
    source : ModelSource
        A decoder.
    bits : {4, 8, 16}
        What the adapter was trained on; it corrects the weights as these bits hold them.
    adapter, out : Path
        A folder that `train_lora` wrote; a folder that exists and is empty.
    dtype : {"float32", "bfloat16", "float16"}
        Of the weights that are written; the sum is made in float32.

    Raises
    ------
    AssetError
        The adapter does not fit the model, or files cannot be read.
    """
    cpu = torch.device("cpu")
    if source.stored:
        model = _opened(loading.load_module(source, bits, torch.float32, cpu), source)
    else:
        model = loading.load_module(source, 16, torch.float32, cpu)
        if bits != 16:
            take_dequantised(model, loading.load_module(source, bits, torch.float32, cpu))
    if _checks.holds_weights(adapter):
        merged: Any = full.restore(model, adapter, source, bits)
    else:
        merged = training.with_adapter(model, adapter, source).merge_and_unload()
    merged.to(getattr(torch, dtype))
    merged.save_pretrained(str(out), safe_serialization=True)
    loading.load_tokenizer(source).save_pretrained(str(out))


def _opened(quantised: nn.Module, source: ModelSource) -> nn.Module:
    """A float model with the values of one that is stored in few bits, of which there is no other form."""
    config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain = {name: p for name, p in quantised.named_parameters() if p.is_floating_point()}
    model.load_state_dict(plain, strict=False)
    take_dequantised(model, quantised)
    return model.eval()


@torch.no_grad()
def take_dequantised(model: nn.Module, quantised: nn.Module) -> None:
    """Give a float model the values that its quantised form computes with."""
    for name, module in quantised.named_modules():
        if isinstance(module, quantise.QuantLinear | quantise.QuantEmbedding):
            model.get_submodule(name).weight.copy_(module.dequantised())  # type: ignore[operator, union-attr]
