"""Adapters with random matrices, which change what a model says without a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slmkit.assets import ModelSource
from slmkit.backends import _checks


def random_peft(source: ModelSource, folder: Path, last: int | None = None, bits: int = 16, size: float = 0.05) -> Path:
    """An adapter that PEFT wrote, with matrices that change what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32)
    how: dict[str, Any] = {"target_modules": "all-linear"}
    if last:
        n_blocks = model.config.num_hidden_layers
        how = {"layers_to_transform": list(range(n_blocks - last, n_blocks)), "layers_pattern": "layers"}
        how["target_modules"] = ["q_proj", "down_proj"]
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=10, **how))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = size * torch.randn_like(parameter)
    wrapped.save_pretrained(folder)
    _checks.write_adapter_facts(
        folder, source, "bnb", bits, AutoTokenizer.from_pretrained(source.folder), "float32: made up"
    )
    return folder
