"""Turns a GGUF file into a Hugging Face folder once, so that every later load is plain safetensors.

transformers de-quantises and renames the tensors; this file only writes what it read.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from slmkit.errors import AssetError

log = logging.getLogger(__name__)


def convert(gguf: Path, folder: Path) -> None:
    """Write config, bfloat16 safetensors and tokenizer of a GGUF file into `folder`.

    Raises `AssetError` when transformers cannot read the file or its architecture, or when weights are missing in it.
    """
    log.info("de-quantising %s once", gguf.name)
    try:
        model, facts = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),  # else blocks stay packed where a kernel is installed
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (ValueError, KeyError, OSError, NotImplementedError, IndexError) as error:
        raise AssetError(f"{gguf} cannot be read as GGUF: {error}") from error
    if missing := sorted(map(str, facts["missing_keys"])):  # transformers gives them random numbers and goes on
        raise AssetError(f"{gguf} lacks {len(missing)} of its weights, {', '.join(missing[:3])} among them")
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    weights = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    config = model.config
    config.architectures = [type(model).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
