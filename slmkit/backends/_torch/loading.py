"""Loads a Hugging Face folder into a torch module: 16 bits as it is, 4 and 8 from a pre-quantised copy made once."""

from __future__ import annotations

import gc
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from slmkit import assets
from slmkit.assets import ModelSource, stored
from slmkit.backends import _checks
from slmkit.backends._torch import products, quantise, streaming
from slmkit.backends.base import Stored
from slmkit.errors import AssetError

log = logging.getLogger(__name__)
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The model's tokenizer, padding on the right, with a pad token (the end token where it has none).

    That of a GGUF file is read from the file itself as long as no folder was made from it.
    """
    place: dict[str, Any] = {"pretrained_model_name_or_path": source.folder}
    if source.gguf is not None and not source.folder.is_dir():
        place = {"pretrained_model_name_or_path": source.gguf.parent, "gguf_file": source.gguf.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssetError(f"the tokenizer in {source.folder} cannot be read: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"
    _checks.check_vocabulary(tokenizer, source.folder)
    return tokenizer


def check_architecture(source: ModelSource) -> None:
    """Refuse a model that transformers has no class of its own for."""
    _checks.check_architecture(source.folder, CONFIG_MAPPING_NAMES, f"transformers {transformers.__version__}")


def load_module(source: ModelSource, bits: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The model in evaluation mode, frozen, on the device.

    Raises `AssetError` naming the folder when its weights cannot be read or do not belong to its configuration.
    """
    if bits == 16:
        model = _load_16(source, dtype)
    else:
        folder = source.folder if source.stored else quantised_folder(source, bits)
        model = quantise.fill_quantised(empty_model(source.folder, source.kind, dtype), bits, folder, dtype, device)
    model.requires_grad_(False)
    return products.widen(model.eval().to(device))


def empty_model(folder: Path, kind: str, dtype: torch.dtype) -> nn.Module:
    """The model of a folder's config.json without weights: parameters on the meta device, buffers computed."""
    auto = AutoModel if kind == "encoder" else AutoModelForCausalLM
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        return auto.from_config(config, dtype=dtype)


def quantised_folder(source: ModelSource, bits: int) -> Path:
    """The pre-quantised copy of a model in the cache, made on the first call, tensor by tensor."""
    tag = "".join(c if c.isalnum() else "-" for c in f"{Path(source.name).name}-{source.revision}")[-80:]
    folder = assets.cache_dir() / "quantised" / f"{tag}-{quantise.SCHEMES[bits]}"
    if not assets.is_whole(folder):
        log.info("quantising %s to %s once", source.name, quantise.SCHEMES[bits])
        with assets.atomic_folder(folder) as aside:
            _write_quantised(source, bits, aside)
            shutil.copy(source.folder / "config.json", aside / "config.json")
    return folder


def write_stored(source: ModelSource, bits: int, out: Path) -> Stored:
    """Write a model for keeping, the weights as `quantised_folder` has them; see `Backend.quantise`.

    transformers does not know the method that config.json names, and so refuses the folder instead of misreading it:
    embeddings are packed in a way of slmkit's own.
    """
    check_architecture(source)
    load_tokenizer(source)  # one that does not belong to the model is refused before the work
    n_parameters = _write_quantised(source, bits, out)
    config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    scheme = quantise.SCHEMES[bits]
    config["quantization_config"] = {
        "quant_method": stored.METHOD, "bits": bits, "scheme": scheme, "block_size": quantise.BLOCK,
        "embedding_block_size": quantise.TABLE_BLOCK if bits == 4 else quantise.BLOCK,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return Stored(scheme, n_parameters)


def _write_quantised(source: ModelSource, bits: int, out: Path) -> int:
    """Quantise a model into `out/model.safetensors`; its parameters, tied ones once."""
    model = empty_model(source.folder, source.kind, torch.bfloat16)
    weights = _weights_of(source, model)
    streaming.prepare(model, weights, bits, out)
    n_parameters = sum(p.numel() for p in streaming.parameters(model).values())
    del model, weights
    gc.collect()
    return n_parameters


def _weights_of(source: ModelSource, model: nn.Module) -> streaming.Source:
    """The files piece by piece; all of them loaded by transformers where only it knows their names."""
    if getattr(model.config, "quantization_config", None) is None:
        found = streaming.open_checkpoint(source.folder, model)
        if found is not None:
            return found
    log.info("%s is loaded as a whole to quantise it: transformers has to rename or open its tensors", source.name)
    return streaming.Loaded(_load_16(source, torch.bfloat16))


def _load_16(source: ModelSource, dtype: torch.dtype) -> nn.Module:
    auto = AutoModel if source.kind == "encoder" else AutoModelForCausalLM
    try:
        model, facts = auto.from_pretrained(
            source.folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise AssetError(f"{source.folder} cannot be loaded: {error}") from error
    missing = sorted(str(key) for key in facts["missing_keys"] if "pooler" not in str(key))
    if missing:
        raise AssetError(f"{source.folder} lacks weights of {len(missing)} layers, {', '.join(missing[:3])} among them")
    return model
