"""Reads a model's size and shape from its catalog entry, config, safetensors headers or GGUF header, loading nothing.

Headers count the parameters exactly; a config alone is enough for an estimate. GGUF: ggml-org/ggml docs/gguf.md.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from slmkit import catalog
from slmkit.assets import ModelSource, stored
from slmkit.catalog import ModelEntry
from slmkit.errors import AssetError, InputError

MAX_HEADER_BYTES = 100_000_000
_GGUF_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class Shape:
    """Size and shape of a model, as far as memory and time depend on it; counts, tied weights once."""

    name: str
    title: str
    n_parameters: int
    hidden: int
    layers: int
    vocab: int


Model = str | ModelEntry | ModelSource | Path | Mapping[str, Any] | Shape


def shape_of(model: Model) -> Shape:
    """Find a model's shape without loading it.

    Parameters
    ----------
    model : str, ModelEntry, ModelSource, Path, mapping or Shape
        A catalog name or entry, a resolved model, a Hugging Face folder (config.json and the headers of its
        safetensors files), a GGUF file (its header), or the values of a config.json.

    Raises
    ------
    InputError
        A config without the sizes that are needed.
    AssetError
        A file that cannot be read.
    """
    if isinstance(model, Shape):
        return model
    if isinstance(model, str):
        model = catalog.get(model)
    if isinstance(model, ModelSource):
        if model.name in catalog.MODELS:
            return shape_of(catalog.MODELS[model.name])
        prepared = (model.folder / "config.json").is_file()
        found = shape_of(model.folder if prepared or model.gguf is None else model.gguf)
        return replace(found, name=model.name, title=Path(model.name).name)
    if isinstance(model, Mapping):
        return _from_config(model, str(model.get("name") or model.get("_name_or_path") or "this model"))
    if isinstance(model, Path):
        return _from_gguf(model) if model.suffix == ".gguf" else _from_folder(model)
    return Shape(model.name, model.title, model.n_parameters, model.hidden, model.layers, model.vocab)


def _from_config(config: Mapping[str, Any], name: str) -> Shape:
    config = {**config, **config.get("text_config", {})}

    def size(*keys: str, default: int | None = None) -> int:
        value = next((config[key] for key in keys if config.get(key)), default)
        if not isinstance(value, int) or value <= 0:
            raise InputError(f"the config of {name} must hold {' or '.join(keys)}; got {sorted(config)[:12]}")
        return value

    hidden = size("hidden_size", "n_embd", "d_model", "dim", "hidden")
    layers = size("num_hidden_layers", "n_layer", "n_layers", "layers")
    vocab = size("vocab_size", "vocab")
    if config.get("n_parameters"):
        return Shape(name, name, size("n_parameters"), hidden, layers, vocab)
    heads = size("num_attention_heads", "n_head", "n_heads", default=1)
    head = size("head_dim", default=hidden // heads)
    shared = size("num_key_value_heads", default=heads)
    inner = size("intermediate_size", "n_inner", "hidden_dim", default=4 * hidden)
    gated = config.get("hidden_act") in ("silu", "swiglu", "gelu_pytorch_tanh") and "num_key_value_heads" in config
    block = 2 * hidden * head * (heads + shared) + (3 if gated else 2) * hidden * inner + 2 * hidden
    tables = 1 if config.get("tie_word_embeddings", True) else 2
    return Shape(name, name, layers * block + tables * vocab * hidden + hidden, hidden, layers, vocab)


def _from_folder(folder: Path) -> Shape:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(f"{folder} has no readable config.json: {error}") from error
    name = folder.name
    if "quantization_config" in config or "quantization" in config:
        form = stored.form_of(folder)  # packed weights do not show how many parameters they hold
        return _from_config({**config, "n_parameters": form.n_parameters if form else None}, name)
    n_parameters = sum(_safetensors_parameters(path) for path in sorted(folder.glob("*.safetensors")))
    return _from_config({**config, "n_parameters": n_parameters} if n_parameters else config, name)


def _safetensors_parameters(path: Path) -> int:
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(length) if length < MAX_HEADER_BYTES else b"")
            return sum(math.prod(value["shape"]) for key, value in header.items() if key != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AssetError(f"{path} is not a readable safetensors file (broken header)") from error


def _from_gguf(path: Path) -> Shape:
    return _from_config(gguf_config(path), path.stem)


_GGUF_TYPES = {"gemma3": "gemma3_text"}  # other architectures have the name that transformers gives them


def gguf_config(path: Path) -> dict[str, Any]:
    """The sizes in a GGUF header under the keys of a config.json, n_parameters counted.

    Read: magic, version, counts, key-value pairs, then name and dimensions of each tensor; no weights. Raises
    `AssetError` for a file that cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            magic, _, n_tensors, n_pairs = struct.unpack("<4sIQQ", stream.read(24))
            if magic != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            pairs = dict(_gguf_pair(stream) for _ in range(n_pairs))
            tensors = dict(_gguf_tensor(stream) for _ in range(n_tensors))
    except (OSError, ValueError, KeyError, struct.error, MemoryError) as error:
        raise AssetError(f"{path} cannot be read as GGUF: {error}") from error
    prefix = pairs.get("general.architecture", "")
    names = {
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "intermediate_size": "feed_forward_length",
        "max_position_embeddings": "context_length",
        "sliding_window": "attention.sliding_window",
    }
    config = {key: pairs.get(f"{prefix}.{name}") for key, name in names.items()}
    return {
        **{key: value for key, value in config.items() if value is not None},
        "model_type": _GGUF_TYPES.get(prefix, prefix),
        "n_parameters": sum(tensors.values()),
        "tie_word_embeddings": "output.weight" not in tensors,
        "vocab_size": pairs.get("tokenizer.ggml.tokens") or pairs.get(f"{prefix}.vocab_size"),
    }


def _gguf_pair(stream: BinaryIO) -> tuple[str, Any]:
    return _gguf_text(stream), _gguf_value(stream, _unpack(stream, "I"))


def _gguf_value(stream: BinaryIO, kind: int) -> Any:
    """One value; of an array only its length."""
    if kind == 8:
        return _gguf_text(stream)
    if kind == 9:
        item, length = _unpack(stream, "I"), _unpack(stream, "Q")
        for _ in range(length):
            _gguf_value(stream, item)
        return length
    return _unpack(stream, _GGUF_CODES[kind])


def _gguf_text(stream: BinaryIO) -> str:
    length = _unpack(stream, "Q")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a text of {length} bytes in its header")
    return stream.read(length).decode("utf-8", errors="replace")


def _gguf_tensor(stream: BinaryIO) -> tuple[str, int]:
    name = _gguf_text(stream)
    n_dimensions = _unpack(stream, "I")
    parameters = math.prod(_unpack(stream, "Q") for _ in range(n_dimensions))
    stream.read(4 + 8)  # type and offset
    return name, parameters


def _unpack(stream: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", stream.read(struct.calcsize(f"<{code}")))[0]
