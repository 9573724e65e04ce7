"""Writes a checkpoint of random weights at a model's true size, one block at a time, with a tokenizer of its size.

Weights are random (normal, standard deviation 0.02; norms are ones): good for bytes, memory and time, not for a score.
The tokenizer is a byte-level BPE with as many entries as the model has, made of capital letters, so that every small
letter of a text is one token: a text's length in tokens is known.
"""

from __future__ import annotations

import itertools
import json
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slmkit import catalog
from slmkit.catalog import config_values

SHARD = re.compile(r"^(.*?\.\d+)\.")
BOS, EOS, PAD = "<s>", "<|endoftext|>", "<pad>"


def write(name: str, folder: Path) -> Path:
    """Fill `folder` with config, tokenizer and random bfloat16 weights of a model of the catalog."""
    import torch
    from safetensors.torch import save_file

    entry = catalog.get(name)
    tokenizer = _tokenizer(entry.vocab)
    tokenizer.save_pretrained(folder)
    ids = {f"{key}_token_id": getattr(tokenizer, f"{key}_token_id") for key in ("bos", "eos", "pad")}
    config = {**config_values(entry), **ids, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(0)
    index: dict[str, str] = {}
    n_bytes = 0
    for number, (_, shapes) in enumerate(_parts(folder)):
        file = f"model-{number:05d}.safetensors"
        tensors = {key: _random(key, shape) for key, shape in shapes}
        save_file(tensors, folder / file, {"format": "pt"})
        index |= dict.fromkeys(tensors, file)
        n_bytes += sum(tensor.numel() * 2 for tensor in tensors.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": n_bytes}, "weight_map": index}), encoding="utf-8"
    )
    return folder


def _parts(folder: Path) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Names and shapes of all tensors, a group for each block and each of the others, tied ones once."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    decoder = any(name.endswith("ForCausalLM") for name in config.architectures)
    with init_empty_weights():
        model = (AutoModelForCausalLM if decoder else AutoModel).from_config(config)
    model.tie_weights()
    named = [(key, p.shape) for key, p in model.named_parameters(remove_duplicate=True)]
    if decoder and getattr(config, "tie_word_embeddings", False):
        named = [(key, shape) for key, shape in named if not key.startswith("lm_head.")]

    def block(item: tuple[str, Any]) -> str:
        found = SHARD.match(item[0])
        return found[1] if found else item[0]

    for part, group in itertools.groupby(named, key=block):
        yield part, list(group)


def _random(key: str, shape: Any) -> Any:
    import torch

    if len(shape) == 1:
        return torch.zeros(shape, dtype=torch.bfloat16) if key.endswith("bias") else torch.ones(shape).bfloat16()
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02)


def _tokenizer(vocab: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = [PAD, BOS, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = []
    grown = list(string.ascii_uppercase)
    while len(tokens) < vocab:
        longer = []
        for head, tail in itertools.product(grown, string.ascii_uppercase):
            if len(tokens) == vocab:
                break
            tokens.append(head + tail)
            merges.append((head, tail))
            longer.append(head + tail)
        grown = longer
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokens.index(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)
