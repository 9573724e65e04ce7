"""Reads a Hugging Face folder into mlx-lm's modules, and keeps a quantised copy so that it is made only once.

mlx-lm 0.32 reads `rope_theta` at the top level of config.json, while transformers 5 writes it under `rope_parameters`;
most architectures then fall back to a default without a word. `settings_for_mlx` carries the values over.
Architectures that mlx-lm lacks, or computes otherwise than published, come from this package (`OWN`), through the
argument that mlx-lm keeps for them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes, get_total_parameters, load_model

from slmkit import assets
from slmkit.assets import ModelSource
from slmkit.backends._mlx import falcon, gemma, gemma2, mistral, phi3
from slmkit.backends.base import Stored
from slmkit.errors import AssetError, InputError

log = logging.getLogger(__name__)
GROUP = 64
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
OWN = {"falcon": falcon, "gemma": gemma, "gemma2": gemma2, "mistral": mistral, "phi3": phi3}
SHORT = {mx.float32: "fp32", mx.bfloat16: "bf16", mx.float16: "fp16"}


@dataclass(frozen=True)
class Loaded:
    """A base model without adapter.

    Attributes
    ----------
    net : nn.Module
        mlx-lm's causal model: `net.model` gives hidden states after the final norm, `net(...)` logits.
    config : dict
        The folder's config.json, generation settings merged in.
    scheme : str
        "bf16", "fp16", "fp32" or "affine-g64".
    stored_bytes : int
        Bytes of all weights as they lie in the file that was loaded (for 16 bits: in the number type asked for).
    n_parameters : int
        Before quantisation, tied weights once.
    """

    net: nn.Module
    config: dict[str, Any]
    scheme: str
    stored_bytes: int
    n_parameters: int


def device_name() -> str:
    """What mlx computes on: "metal", "cuda" or "cpu"."""
    if mx.default_device() != mx.gpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def load(source: ModelSource, bits: int, dtype: str | None) -> Loaded:
    """Load the weights at 16 bits, or their quantised copy (made on the first call).

    On a CPU quantised weights compute in float32, where mlx is nine times as fast as in bfloat16.

    Raises
    ------
    InputError
        An architecture mlx-lm does not know, or a number type that is none.
    AssetError
        Weights that cannot be read or do not fit the config.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    own = source.stored
    if bits == 16:
        net, config = read(source.folder)
        net.set_dtype(DTYPES[dtype] if dtype else _sixteen_bit(net))
        scheme, stored = SHORT[_float_type(net)], _bytes(net)
    else:
        net, config = read(source.folder if own else quantised_copy(source, bits))
        scheme, stored = own.scheme if own else f"affine-g{GROUP}", _bytes(net)
        net.set_dtype(DTYPES[dtype or ("float32" if device_name() == "cpu" else "bfloat16")])
    mx.eval(net.parameters())
    return Loaded(net, config, scheme, stored, get_total_parameters(net))


def check_network(folder: Path) -> None:
    """Raise `InputError` for a network that its own architecture here cannot run, before anything else is read."""
    config = _config(folder)
    if config.get("model_type") in OWN:
        try:
            model_classes(config | settings_for_mlx(config))
        except InputError as error:
            raise InputError(f"the model in {folder} cannot run: {error}") from error
    every, types = config.get("sliding_window_pattern") or 6, config.get("layer_types")
    if config.get("model_type") == "gemma3_text" and types:
        rule = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(len(types))]
        if types != rule or "full_attention" not in rule:
            raise InputError(
                f"mlx-lm places the windows of Gemma 3 by a rule (every {every}th block sees everything), and the "
                f"config.json in {folder} lists them otherwise: use backend bnb"
            )


def read(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read a folder lazily; the arrays are computed when first used."""
    check_network(folder)
    try:
        net, config = load_model(
            folder, lazy=True, model_config=settings_for_mlx(_config(folder)), get_model_classes=model_classes
        )
    except (RuntimeError, FileNotFoundError) as error:
        raise AssetError(f"the weights in {folder} cannot be read: {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        if "not supported" in str(error):
            raise InputError(f"mlx-lm does not know the architecture in {folder}: {error}") from error
        raise AssetError(f"the weights in {folder} do not fit their config.json: {str(error)[:300]}") from error
    net = getattr(net, "language_model", net)
    if not (hasattr(net, "model") and hasattr(net, "layers")):
        raise InputError(f"mlx-lm's {config.get('model_type')!r} does not show its hidden states; use backend bnb")
    return net, config


def model_classes(config: dict[str, Any]) -> tuple[Any, Any]:
    """The model's class and the class of its settings: this package's own where it has them, else mlx-lm's.

    Raises `InputError` for settings that an own architecture cannot run, with what it says about them.
    """
    own = OWN.get(config["model_type"])
    if own is None:
        return _get_classes(config)
    try:
        own.ModelArgs.from_dict(config)
    except ValueError as error:
        raise InputError(str(error)) from error
    return own.Model, own.ModelArgs


def settings_for_mlx(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that transformers 5 writes in a new place, under the names mlx-lm looks for; old ones are kept.

    Returns
    -------
    dict
        Any of `rope_theta`, `rope_scaling`, `rope_local_base_freq`, `sliding_window_pattern`, laid over the config.
    """
    rope, found = config.get("rope_parameters") or {}, {}
    sliding = rope.get("sliding_attention")
    main = rope.get("full_attention", rope)
    if "rope_theta" in main:
        found["rope_theta"] = main["rope_theta"]
    if isinstance(sliding, dict) and "rope_theta" in sliding:
        found["rope_local_base_freq"] = sliding["rope_theta"]
    if main.get("rope_type", "default") != "default":
        found["rope_scaling"] = {key: value for key, value in main.items() if key != "rope_theta"}
        found["rope_scaling"].setdefault("type", main["rope_type"])  # mlx-lm's Phi-3 asks for the older name
    layers = config.get("layer_types") or []
    if "sliding_attention" in layers and "full_attention" in layers:
        found["sliding_window_pattern"] = layers.index("full_attention") + 1
    return {key: value for key, value in found.items() if config.get(key) is None}


def quantised_copy(source: ModelSource, bits: int) -> Path:
    """Folder with the model in affine groups of 64, embeddings included; made on the first call.

    A layer whose input width is no multiple of 64 stays in bfloat16.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(source.name).name)[:40]
    final = assets.cache_dir() / "quantised" / f"{name}-{_identity(source)}-mlx-affine-g{GROUP}-{bits}bit"
    if not assets.is_whole(final):
        log.info("quantising %s to %d bits once, into %s", source.name, bits, final)
        with assets.atomic_folder(final) as aside:
            _write_quantised(source.folder, bits, aside)
    return final


def write_stored(folder: Path, bits: int, out: Path) -> Stored:
    """Write a model for keeping, the weights as `quantised_copy` has them; see `Backend.quantise`.

    The settings that transformers 5 moved stand where mlx-lm looks for them, so that it computes the same by itself.
    """
    n_parameters = _write_quantised(folder, bits, out)
    config = _config(out)
    moved = settings_for_mlx(config)
    config |= moved | {"quantization_config": config["quantization"]}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return Stored(f"affine-g{GROUP}", n_parameters)


def _write_quantised(folder: Path, bits: int, out: Path) -> int:
    """Quantise a model into `out`, its config and generation settings with it; its parameters, tied ones once."""
    net, _ = read(folder)
    net.set_dtype(_sixteen_bit(net))
    n_parameters = get_total_parameters(net)
    nn.quantize(net, GROUP, bits, class_predicate=_can_be_quantised)
    mx.save_safetensors(str(out / "model.safetensors"), dict(tree_flatten(net.parameters())), {"format": "mlx"})
    config = _config(folder) | {"quantization": {"group_size": GROUP, "bits": bits, "mode": "affine"}}
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    if (folder / "generation_config.json").is_file():
        (out / "generation_config.json").write_bytes((folder / "generation_config.json").read_bytes())
    return n_parameters


def _can_be_quantised(_: str, module: nn.Module) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % GROUP == 0


def _identity(source: ModelSource) -> str:
    digest = hashlib.sha256(source.revision.encode())
    digest.update((source.folder / "config.json").read_bytes())
    for path in sorted(source.folder.glob("*.safetensors")):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
    return digest.hexdigest()[:12]


def _config(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if "model_type" not in values:
        raise AssetError(f"{folder / 'config.json'} names no model_type")
    return dict(values)


def _float_type(net: nn.Module) -> Any:
    """The number type that holds most of the floating weights."""
    sizes: dict[Any, int] = {}
    for _, array in tree_flatten(net.parameters()):
        if mx.issubdtype(array.dtype, mx.floating):
            sizes[array.dtype] = sizes.get(array.dtype, 0) + array.size
    return max(sizes, key=lambda kind: sizes[kind])


def _sixteen_bit(net: nn.Module) -> Any:
    return mx.float16 if _float_type(net) == mx.float16 else mx.bfloat16


def _bytes(net: nn.Module) -> int:
    return sum(array.nbytes for _, array in tree_flatten(net.parameters()))
