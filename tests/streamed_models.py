"""Small random checkpoints of the five families, made without transformers holding them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slmkit import catalog

FAMILIES = ("phi-3-mini-4k-instruct", "gemma-2b", "llama-2-7b", "mistral-7b-v0.1", "falcon-7b")
DECODERS = ["gemma-3-270m", "qwen2.5-0.5b-instruct", *FAMILIES, "gemma-2-2b-it"]
SIZES = {"hidden": 256, "layers": 2, "heads": 4, "inner": 512, "vocab": 1088}


def small_config(name: str) -> dict[str, Any]:
    """The config of a family with all its traits, its sizes small."""
    entry = catalog.get(name)
    sizes = SIZES | {"kv_heads": min(entry.kv_heads, 2), "head_dim": 64}
    config = catalog.config_values(entry) | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return config | {key: sizes[size] for size, key in entry.architecture.keys.items() if size in sizes}


def checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    """A Hugging Face folder of random weights without tokenizer."""
    import torch

    from slmkit.backends._torch import loading, streaming

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    model = loading.empty_model(folder, "decoder", torch.bfloat16)
    streaming.prepare(model, streaming.RandomWeights(model), 16, folder)
    return folder
