"""Predicts bytes, memory and seconds before anything is loaded, so that what cannot fit is refused and not killed.

A Linux process that takes too much memory is ended without an exception; the only defence is arithmetic beforehand.
Every figure here is an estimate and says so. Constants were measured on two cores with AVX-512 and BF16, unless said.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from slmkit import catalog, footprint
from slmkit.assets import ModelSource
from slmkit.catalog import ModelEntry
from slmkit.errors import InputError, NotEnoughMemory
from slmkit.shapes import Model, Shape, shape_of

log = logging.getLogger(__name__)

# Bits stored per parameter (linear layers, embeddings); what is neither (norms, biases) stays in 16 bits.
STORED_BITS = {
    16: (16.0, 16.0),
    8: (8.5, 8.5),  # one fp32 scale a block of 64
    4: (4.127, 4.5),  # NF4: doubly quantised scales, Dettmers et al. 2023; embeddings keep fp32 ones
}
RAM_BITS = {16: 16.0, 8: 8.5, 4: 4.5}  # scales are opened once at load
# Per parameter, where a copy is made first: of a GGUF file as a whole at 16 bits, of safetensors tensor by tensor.
PREPARING_BYTES = {16: 4.6, 8: 1.1, 4: 0.6}

RUNTIME_BYTES = 540_000_000  # interpreter, pandas, scikit-learn, torch, transformers, a tokenizer
EXTRA_RUNTIME_BYTES = 55_000_000  # bitsandbytes or peft on top
FLOOR_BYTES = 350_000_000  # no torch: pandas, scikit-learn and the n-gram matrix of some thousand rows
SCORING_TOKENS = 2048
SCORING_BYTES = 4.2  # per token, layer and hidden unit
TRAINING_TOKENS = 512
TRAINING_BYTES = 92.0  # the same, with all that the backward pass keeps
ADAPTER_WIDTH = 18  # adapter parameters = this x rank x hidden x layers, for LoRA on all linear layers
ADAPTER_BYTES = 22  # fp32 weight, gradient, AdamW's two moments, and what the optimiser step needs for a moment

FLOPS_PER_CORE = {"float32": 70e9, "bfloat16": 175e9}
GPU_FLOPS = 10e12  # a small card (T4 class)
REACHED = 0.4  # share of those rates that a whole run reaches
FOUR_BIT_SLOWER = 1.3  # weights are opened on the fly
START_S, FLOOR_START_S, MEASURE_S = 4.0, 2.0, 6.0
FLOOR_S_PER_ROW = 0.003
HIGHER_LIMIT = "a higher limit (set SLMKIT_MEMORY_LIMIT=4GB if the one found is wrong)"
PROMPT_TOKENS, LABEL_TOKENS = 60, 6  # instruction, shared by all rows; label words scored after each row


def stored_bytes(model: Model, bits: int) -> int:
    """Bytes of all weights as stored at 16, 8 or 4 bits, embeddings quantised too and scales included."""
    shape = shape_of(model)
    linear_bits, embedding_bits = STORED_BITS[_known_bits(bits)]
    embedding = min(shape.vocab * shape.hidden, shape.n_parameters)
    plain = min((2 * shape.layers + 1) * shape.hidden, shape.n_parameters - embedding)
    linear = shape.n_parameters - embedding - plain
    return round((linear * linear_bits + embedding * embedding_bits + plain * 16) / 8)


def model_memory(
    model: Model,
    bits: int,
    *,
    training: bool = False,
    batch_tokens: int | None = None,
    last_blocks: int | None = None,
    rank: int = 16,
    preparing: bool = False,
) -> dict[str, int]:
    """Estimate the peak memory of a process that scores with a model, or trains an adapter on it.

    Parameters
    ----------
    model
        As `shape_of` takes it.
    bits : {16, 8, 4}
    training : bool
        LoRA on all linear layers instead of scoring.
    batch_tokens : int or None
        Tokens in one forward pass, padding included; by default 2048 for scoring and 512 for training.
    last_blocks : int or None
        Blocks that are trained; activations of the others are not kept.
    rank : int
        Of the adapter.
    preparing : bool
        The process also makes the quantised copy, tensor by tensor, or at 16 bits the de-quantised copy of a GGUF
        file, for which the weights are there more than once.

    Returns
    -------
    dict
        weights, runtime, activations and adapter (0 when scoring), in bytes; their sum is the peak.
    """
    shape = shape_of(model)
    width = RAM_BITS[_known_bits(bits)]
    if bits == 16 and not _has_bfloat16():
        width = 32.0  # computed in float32 where bfloat16 is not native
    weights = round(shape.n_parameters * (PREPARING_BYTES[bits] if preparing else width / 8))
    blocks = min(last_blocks or shape.layers, shape.layers)
    per_token = shape.layers * shape.hidden * SCORING_BYTES
    if training:
        per_token = max(per_token, blocks * shape.hidden * TRAINING_BYTES)
    tokens = batch_tokens or (TRAINING_TOKENS if training else SCORING_TOKENS)
    adapter = ADAPTER_WIDTH * rank * shape.hidden * blocks * ADAPTER_BYTES if training else 0
    runtime = RUNTIME_BYTES + (EXTRA_RUNTIME_BYTES if training or bits != 16 else 0)
    return {"weights": weights, "runtime": runtime, "activations": round(per_token * tokens), "adapter": adapter}


def check_fits(
    model: Model,
    bits: int,
    *,
    training: bool = False,
    limit: tuple[int, str] | None = None,
    models: Mapping[str, ModelEntry] | None = None,
    **how: Any,
) -> dict[str, int]:
    """Refuse a model that this process may not have the memory for; warn when it is only short now.

    Parameters
    ----------
    model, bits, training
        As `model_memory` takes them; `how` holds its other arguments.
    limit : tuple of int and str, or None
        Bytes and who says so; by default `footprint.memory_limit()`.
    models : mapping or None
        Where the largest model that fits is looked for; by default the catalog.

    Returns
    -------
    dict
        As `model_memory`; empty for the built-in `dummy` models, which weigh nothing.

    Raises
    ------
    NotEnoughMemory
        With the arithmetic, the largest model of the catalog that fits, and what else would help.
    """
    if isinstance(model, ModelSource) and model.revision == "builtin":
        return {}
    shape = shape_of(model)
    parts = model_memory(shape, bits, training=training, **how)
    need = sum(parts.values())
    allowed, origin = limit or footprint.memory_limit()
    if need > allowed:
        arithmetic = (
            f"{shape.title} at {bits} bits needs about {_gb(need)} to {'train' if training else 'score'} "
            f"({_sum(parts)}) but this process may use {_gb(allowed)} ({origin})."
        )
        known = catalog.MODELS if models is None else models
        fitting = _what_fits(allowed, bits, training, how, known)
        raise NotEnoughMemory(f"{arithmetic} {fitting} {_remedy(shape, bits, training, how, allowed)}")
    held = int(psutil.Process().memory_info().rss)
    free = footprint.available_memory()
    if limit is None and need - held > free:
        log.warning(
            "%s at %d bits needs about %s more and only %s is free now: close other programs, or expect swapping",
            *(shape.title, bits, _gb(need - held), _gb(free)),
        )
    return parts


def largest_that_fits(
    allowed: int,
    bits: int,
    *,
    training: bool = False,
    models: Mapping[str, ModelEntry] | None = None,
    **how: Any,
) -> tuple[ModelEntry, int] | None:
    """The catalog's model with the most parameters whose estimate stays within `allowed` bytes, and that estimate."""
    found = None
    for entry in sorted((catalog.MODELS if models is None else models).values(), key=lambda e: e.n_parameters):
        need = sum(model_memory(entry, bits, training=training, **how).values())
        if need <= allowed and not (training and entry.kind != "decoder"):
            found = entry, need
    return found


def study_estimate(plan: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Estimate how long a study takes here and how much memory its largest process needs.

    Parameters
    ----------
    plan : sequence of mapping
        One entry an evaluation: method ("floor", "embedding", "prompt", "lora"), model (as `shape_of` takes it, None
        for the floor), bits, n_train, n_test, epochs, mean_tokens; optionally shots, batch_tokens, last_blocks, rank.

    Returns
    -------
    dict
        seconds (float), peak_bytes (int), estimated (True) and lines: one readable sentence an evaluation. Expect the
        seconds to be wrong by a factor of two.
    """
    lines, seconds, peak = [], 0.0, 0
    for item in plan:
        shape = None if item.get("model") is None or item["method"] == "floor" else shape_of(item["model"])
        took, need = _seconds(item, shape), _peak(item, shape)
        what = item["method"] if shape is None else f"{item['method']} with {shape.title} at {item['bits']} bits"
        lines.append(f"{what}: about {duration(took)}, {_gb(need)} (estimated)")
        seconds, peak = seconds + took, max(peak, need)
    return {"seconds": seconds, "peak_bytes": peak, "lines": lines, "estimated": True}


def duration(seconds: float) -> str:
    """Seconds in words, as coarse as an estimate is: "40 s", "7 min", "3.5 h"."""
    if seconds < 90:
        return f"{max(5, 5 * math.ceil(seconds / 5))} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _seconds(item: Mapping[str, Any], shape: Shape | None) -> float:
    n_train, n_test, tokens = item["n_train"], item["n_test"], item["mean_tokens"]
    if shape is None:
        return FLOOR_START_S + MEASURE_S / 2 + FLOOR_S_PER_ROW * (n_train + n_test) * max(tokens, 10) / 30
    forward = {
        "embedding": (n_train + n_test) * tokens,
        "prompt": n_test * (tokens + LABEL_TOKENS) + PROMPT_TOKENS + (item.get("shots") or 0) * tokens,
        "lora": n_test * tokens,
    }.get(item["method"], n_test * tokens)
    flop = 2 * shape.n_parameters * forward
    if item["method"] == "lora":
        kept = min(item.get("last_blocks") or shape.layers, shape.layers) / shape.layers
        once = (
            2 * shape.n_parameters * (1 - kept) * n_train * tokens
        )  # blocks below the first trained one: computed once
        flop += 4 * shape.n_parameters * kept * n_train * tokens * (item.get("epochs") or 1) + once
    slower = FOUR_BIT_SLOWER if item["bits"] != 16 else 1.0
    starts = 2 if item["method"] == "lora" else 1  # training and scoring have a process each
    return starts * START_S + MEASURE_S + flop * slower / _flops()


def _peak(item: Mapping[str, Any], shape: Shape | None) -> int:
    if shape is None:
        return FLOOR_BYTES
    how = {key: item[key] for key in ("batch_tokens", "last_blocks", "rank") if item.get(key) is not None}
    return sum(model_memory(shape, item["bits"], training=item["method"] == "lora", **how).values())


def _flops() -> float:
    """Arithmetic a run gets out of this machine, per second."""
    facts = footprint.machine()
    kind = "bfloat16" if _has_bfloat16() else "float32"
    return REACHED * (GPU_FLOPS if facts["gpu"] else FLOPS_PER_CORE[kind] * min(facts["cores"], facts["threads"]))


def _has_bfloat16() -> bool:
    sets = footprint.instruction_sets()
    return "avx512_bf16" in sets or "amx_bf16" in sets or "neon" in sets


def _what_fits(
    allowed: int, bits: int, training: bool, how: Mapping[str, Any], models: Mapping[str, ModelEntry]
) -> str:
    found = largest_that_fits(allowed, bits, training=training, models=models, **how)
    if found is None:
        return "No model of the catalog fits."
    return f"The largest model of the catalog that fits: {found[0].name} ({_gb(found[1])})."


def _remedy(shape: Shape, bits: int, training: bool, how: Mapping[str, Any], allowed: int) -> str:
    """What would make it fit: the first of smaller training batches, fewer blocks and fewer bits that does."""
    trials: list[tuple[str, int, dict[str, Any]]] = []
    if training:
        trials += [(f"max_batch_tokens={n}", bits, {**how, "batch_tokens": n}) for n in (512, 256)]
        trials += [(f"last_blocks={n}", bits, {**how, "last_blocks": n}) for n in (8, 4) if n < shape.layers]
    trials += [(f"bits={b}", b, dict(how)) for b in (8, 4) if b < bits]
    for name, width, changed in trials:
        need = sum(model_memory(shape, width, training=training, **changed).values())
        if need <= allowed:
            return f"Remedy: {name} (about {_gb(need)}), or {HIGHER_LIMIT}."
    return f"Remedy: a smaller model, or {HIGHER_LIMIT}."


def _sum(parts: Mapping[str, int]) -> str:
    return " + ".join(f"{value / 1e9:.2f} {name}" for name, value in parts.items() if value)


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB"


def _known_bits(bits: int) -> int:
    if bits not in STORED_BITS:
        raise InputError(f"bits must be one of {', '.join(map(str, sorted(STORED_BITS)))}; got {bits!r}")
    return bits
