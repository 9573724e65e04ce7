"""Merges an adapter into its model on MLX: de-quantised weights plus the adapter's, written as a plain folder."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.utils import dequantize_model
from transformers import AutoTokenizer

from slmkit import adapters
from slmkit.assets import ModelSource
from slmkit.backends._mlx import lora, weights


def merge(source: ModelSource, bits: int, adapter: Path, out: Path, dtype: str = "float32") -> None:
    """Write the model with the adapter in its weights to `out`, with the tokenizer.

    Parameters
    ----------
    source : ModelSource
    bits : {4, 8, 16}
        What the adapter was trained on; it corrects the weights as these bits hold them.
    adapter, out : Path
        A folder that `train_lora` wrote; a folder that exists and is empty.
    dtype : {"float32", "bfloat16", "float16"}
        Of the weights that are written; the sum is made in float32.

    Raises
    ------
    InputError, AssetError
        The adapter does not fit the model, or files cannot be read.
    """
    net = weights.load(source, bits, "float32").net
    tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    lora.apply(net, adapter, source, bits, tokenizer)
    found = [(name, module) for name, module in net.named_modules() if isinstance(module, LoRALinear)]
    net.update_modules(tree_unflatten([(name, module.fuse(dequantize=True)) for name, module in found]))
    net = dequantize_model(net)
    net.set_dtype(weights.DTYPES[dtype])
    values = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    arrays = _as_published(dict(tree_flatten(net.parameters())), values.get("model_type"))
    mx.save_safetensors(str(out / "model.safetensors"), arrays, {"format": "pt"})
    for path in source.folder.glob("*"):
        if path.suffix in (".json", ".jinja", ".model", ".txt") and not path.name.endswith(".index.json"):
            (out / path.name).write_bytes(path.read_bytes())
    values = {key: value for key, value in values.items() if key not in ("quantization", "quantization_config")}
    (out / "config.json").write_text(json.dumps(values | {"dtype": dtype}, indent=1), encoding="utf-8")


def _as_published(arrays: dict[str, mx.array], kind: str | None) -> dict[str, mx.array]:
    """Arrays under the names that transformers gives them, where mlx calls the model's body otherwise (Falcon)."""
    names = next((names for names in adapters.NAMES if kind in names.models), None)
    ours, theirs = (names.prefix(layout).partition(".")[0] if names else "" for layout in ("mlx", "peft"))
    return {f"{theirs}{n.removeprefix(ours)}" if n.startswith(f"{ours}.") else n: a for n, a in arrays.items()}
