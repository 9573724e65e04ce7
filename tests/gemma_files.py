"""A tiny random Gemma 3, and the GGUF file that llama.cpp would write of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import CASES, WINDOW
from conftest import TEXT

from slmkit import catalog

NAME = "gemma-3-270m"


def vocabulary() -> list[str]:
    """Special tokens, all bytes, characters, and pieces of words, as a file of SentencePiece orders them."""
    words = [f"\N{LOWER ONE EIGHTH BLOCK}{word}" for word in TEXT.split()]
    longer = {word[i : i + n] for word in words for n in (2, 3, 4) for i in range(len(word) - n + 1)}
    ranked = sorted(longer, key=lambda piece: (len(piece), piece))
    first = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return [*first, *sorted(set("".join(words))), *ranked]


def tiny_network() -> Any:
    """A random Gemma 3 of seven blocks, so that one of them attends to everything; float32."""
    import torch
    import transformers

    case = next(case for case in CASES if case.name == "Gemma 3")
    entry = replace(case, entry=NAME, sizes={**case.sizes, "layers": 7, "vocab": len(vocabulary())}).shrunk()
    entry = replace(entry, settings={**catalog.get(NAME).settings, "sliding_window": WINDOW})
    torch.manual_seed(3)
    model = transformers.Gemma3ForCausalLM(transformers.AutoConfig.for_model(**catalog.config_values(entry)))
    for parameter in model.parameters():
        spread = 1.5 * parameter.shape[1] ** -0.5 if parameter.dim() > 1 else 0.1
        parameter.data = torch.randn_like(parameter) * spread
    return model.eval()


def write_gguf(model: Any, path: Path, without: str = "") -> None:
    """The network as llama.cpp writes Gemma 3: matrices in Q8_0, norms in float32 as 1 + w, no head beside the table.

    The model's own weights become what the file holds; a weight named `without` is left out.
    """
    import gguf
    import torch

    config, tokens = model.config, vocabulary()
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    writer.add_sliding_window(config.sliding_window)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types([3] * 4 + [6] * 256 + [1] * (len(tokens) - 260))
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        if name == without:
            continue
        if values.ndim == 1:
            writer.add_tensor(known.get_name(name, (".weight",)), values + np.float32(1))
            continue
        packed = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(known.get_name(name, (".weight",)), packed, raw_dtype=8)
        parameter.data = torch.from_numpy(gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
