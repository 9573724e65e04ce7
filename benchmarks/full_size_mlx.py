"""The MLX side of `full_size`: the first blocks of a family with random weights, quantised one at a time.

Embeddings, head and the final norm are whole, so that the stored bytes of the full model follow from those of a block.
MLX on a CPU is correct but slow: one forward pass shows that the blocks compute.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

import numpy as np

from slmkit import architectures, footprint
from slmkit.catalog import ModelEntry, config_values
from slmkit.errors import InputError

GROUP = 64
STORED_BITS = {4: 4.5, 8: 8.5, 16: 16.0}  # bfloat16 scale and bias for 64 weights


def measure(entry: ModelEntry, bits: int, n_layers: int, prompt_tokens: int) -> dict[str, Any]:
    """Stored bytes of the first `n_layers` blocks with embeddings and head, of the whole model, and a forward pass."""
    if not 1 <= n_layers <= entry.layers:
        raise InputError(f"--layers must be between 1 and {entry.layers} for {entry.name}; got {n_layers}")
    from slmkit.backends._mlx import weights

    mx: Any = import_module("mlx.core")
    began = time.perf_counter()
    net = build(entry, bits, n_layers)
    seconds = time.perf_counter() - began
    tokens = mx.array(np.random.default_rng(1).integers(3, entry.vocab, (1, prompt_tokens)))
    began = time.perf_counter()
    logits = net(tokens)
    mx.eval(logits)
    forward_s = time.perf_counter() - began
    block, shown = _bytes(net.layers[0]), _bytes(net)
    return {
        "device": weights.device_name(),
        "scheme": f"affine-g{GROUP}" if bits != 16 else "bf16",
        "n_parameters": entry.n_parameters,
        "layers": n_layers,
        "prompt_tokens": prompt_tokens,
        "stored_bytes": shown + (entry.layers - n_layers) * block,
        "stored_bytes_origin": "measured with the first blocks, the others taken to be as large",
        "built_bytes": shown,
        "computed_bytes": computed_bytes(entry, bits),
        "build_s": seconds,
        "forward_tokens_per_s": prompt_tokens / forward_s,
        "finite": bool(mx.all(mx.isfinite(logits)).item()),
        "peak_ram_bytes": footprint.peak_ram_bytes(),
    }


def build(entry: ModelEntry, bits: int, n_layers: int) -> Any:
    """mlx-lm's model of that many blocks; each module is quantised and computed before the next gets its weights."""
    from slmkit.backends._mlx import weights

    mx: Any = import_module("mlx.core")
    config = config_values(entry) | {entry.architecture.keys["layers"]: n_layers}
    try:
        network, settings = weights.model_classes(config)
    except ValueError as error:
        raise InputError(f"mlx-lm has no architecture for {entry.name}: {error}") from error
    net = network(settings.from_dict(config))
    mx.random.seed(0)
    for path, module in list(net.named_modules()):
        if not module.children() and "weight" in module:
            _fill(mx, module)
            if bits != 16 and hasattr(module, "to_quantized") and module.weight.shape[-1] % GROUP == 0:
                module = module.to_quantized(GROUP, bits)
                _replace(net, path, module)
            mx.eval(module.parameters())
    net.eval()
    return net


def computed_bytes(entry: ModelEntry, bits: int) -> int:
    """Stored bytes by arithmetic: what MLX quantises, embeddings and head among it, and the rest in bfloat16."""
    counts = architectures.count_parameters(config_values(entry))
    plain = counts.pop("norms_and_biases")
    return round((sum(counts.values()) * STORED_BITS[bits] + plain * 16) / 8)


def _fill(mx: Any, module: Any) -> None:
    for name, array in module.parameters().items():
        centre = 1.0 if array.ndim == 1 and name == "weight" else 0.0
        module[name] = (centre + 0.02 * mx.random.normal(array.shape)).astype(mx.bfloat16)


def _replace(net: Any, path: str, module: Any) -> None:
    *parents, leaf = path.split(".")
    place = net
    for part in parents:
        place = place[int(part)] if part.isdigit() else getattr(place, part)
    setattr(place, leaf, module)


def _bytes(net: Any) -> int:
    flat = import_module("mlx.utils").tree_flatten(net.parameters())
    return sum(array.nbytes for _, array in flat)
