"""Refuses what cannot fit before anything is loaded, and finds what would.

A Linux process that takes too much memory is ended without an exception; the only defence is arithmetic beforehand.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psutil

from slmkit import catalog, footprint
from slmkit.assets import ModelSource
from slmkit.catalog import ModelEntry
from slmkit.errors import NotEnoughMemory
from slmkit.estimate import terms as parts
from slmkit.estimate.networks import Model, Network, network_of
from slmkit.estimate.terms import GROUPS, MICRO_TOKENS, SHORT_ROW, Term, Use

log = logging.getLogger(__name__)
TRAINED_ROW = 128  # tokens of a training row where nobody says
HIGHER_LIMIT = "a higher limit (set SLMKIT_MEMORY_LIMIT=4GB if the one found is wrong)"
MOST = 1 << 20


def stored_bytes(model: Model, bits: int) -> int:
    """Bytes of all weights as stored at 16, 8 or 4 bits, embeddings quantised too and scales included."""
    return parts.stored_bytes(network_of(model), bits)


def usage(
    bits: int,
    *,
    training: bool = False,
    full: bool = False,
    batch_tokens: int | None = None,
    seq: int | None = None,
    last_blocks: int | None = None,
    rank: int = 16,
    train_tokens: int = 0,
    recompute: bool = False,
    preparing: bool = False,
    backend: str | None = None,
) -> Use:
    """What `load`, a study or a training is about to do, as far as it is known.

    Parameters
    ----------
    bits : {16, 8, 4}
    training : bool
        LoRA on all linear layers instead of scoring.
    full : bool
        The training changes the weights themselves: of the last blocks, or all of them.
    batch_tokens : int or None
        Tokens in one forward pass, padding included; by default 2048 for scoring and 512 for training.
    seq : int or None
        Tokens of the longest row; by default 32 for scoring and 128 for training, in as many rows as a pass takes.
    last_blocks : int or None
        Blocks that are trained; activations of the others are not kept.
    rank : int
        Of the adapter.
    train_tokens : int
        Of all training rows, for what the frozen blocks put out.
    recompute : bool
        Trained blocks are computed anew on the way back.
    preparing : bool
        The process also makes the quantised copy, tensor by tensor, or at 16 bits the de-quantised copy of a GGUF
        file, for which the weights are there more than once.
    backend : str or None
    """
    tokens = batch_tokens or (MICRO_TOKENS if training else parts.PASS_TOKENS)
    row = min(seq or (TRAINED_ROW if training else SHORT_ROW), max(tokens, seq or 1))
    device = parts.device_here(backend)
    return Use(
        bits=parts.check_bits(bits),
        method=("full" if full else "lora") if training else "infer",
        seq=row,
        batch=max(1, tokens // row),
        last_blocks=last_blocks,
        rank=rank,
        number_bytes=parts.number_bytes(device, backend),
        device=device,
        train_tokens=train_tokens,
        recompute=recompute,
        preparing=preparing,
        torch=backend != "mlx",
    )


def grouped(found: tuple[Term, ...]) -> dict[str, int]:
    """Bytes by group of terms, in the order of `GROUPS`; groups without any are left out."""
    sums = {group: sum(term.n_bytes for term in found if term.group == group) for group in GROUPS}
    return {group: n_bytes for group, n_bytes in sums.items() if n_bytes}


def model_memory(model: Model, bits: int, **how: Any) -> dict[str, int]:
    """Estimate the peak memory of a process that scores with a model, or trains an adapter on it.

    Parameters
    ----------
    model
        As `network_of` takes it.
    bits : {16, 8, 4}
    how
        As `usage` takes it.

    Returns
    -------
    dict
        Bytes by group (`GROUPS`): weights, runtime and so on; their sum is the peak.
    """
    return grouped(parts.terms(network_of(model), usage(bits, **how)))


def check_fits(
    model: Model,
    bits: int,
    *,
    limit: tuple[int, str] | None = None,
    models: Mapping[str, ModelEntry] | None = None,
    **how: Any,
) -> dict[str, int]:
    """Refuse a model that this process may not have the memory for; warn when it is only short now.

    Parameters
    ----------
    model, bits, how
        As `model_memory` takes them.
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
    net, use = network_of(model), usage(bits, **how)
    found = parts.terms(net, use)
    limits = limits_of(limit)
    for place, (allowed, origin) in limits.items():
        if parts.total(found, place) > allowed:
            known = catalog.MODELS if models is None else models
            long = f" {use.rows} rows of {use.seq} tokens at once" if how.get("seq") else ""
            long += ", with blocks computed anew on the way back" if use.recompute else ""
            only = tuple(term for term in found if term.where == place)
            raise NotEnoughMemory(
                f"{net.title} at {bits} bits needs about {gigabytes(parts.total(only))} to "
                f"{'train' if use.trains else 'score'}{long} ({_sum(grouped(only))}) but this process may use "
                f"{gigabytes(allowed)} ({origin}). {_what_fits(allowed, bits, how, known)} {_remedy(net, use, limits)}"
            )
    need = parts.total(found, "RAM")
    held = int(psutil.Process().memory_info().rss)
    free = footprint.available_memory()
    if limit is None and need - held > free:
        log.warning(
            "%s at %d bits needs about %s more and only %s is free now: close other programs, or expect swapping",
            *(net.title, bits, gigabytes(need - held), gigabytes(free)),
        )
    return grouped(found)


def check_training(model: Model, bits: int, *, limit: tuple[int, str] | None = None, **how: Any) -> bool:
    """Refuse a training that this process may not have the memory for, as `check_fits` does.

    Returns
    -------
    bool
        Whether it fits only if trained blocks are computed anew on the way back (`Watch.recompute`).
    """
    if isinstance(model, ModelSource) and model.revision == "builtin":
        return False
    use = usage(bits, training=True, **how)
    lean = not within(network_of(model), use, limits_of(limit))
    check_fits(model, bits, limit=limit, training=True, recompute=lean, **how)
    return lean


def training_tokens(model: Model, bits: int, *, limit: tuple[int, str] | None = None, **how: Any) -> int:
    """Tokens to train on at once where nobody says: 1024 where that takes at most half of the memory, else 512.

    More at once is quicker, since each product is larger, and keeps more for the way back; the result differs by
    rounding alone. `how` is what `usage` takes beside `batch_tokens`.
    """
    if isinstance(model, ModelSource) and model.revision == "builtin":
        return MICRO_TOKENS
    found = parts.terms(network_of(model), usage(bits, training=True, batch_tokens=parts.ROOMY_TOKENS, **how))
    limits = limits_of(limit).items()
    roomy = all(2 * parts.total(found, place) <= allowed for place, (allowed, _) in limits)
    return parts.ROOMY_TOKENS if roomy else MICRO_TOKENS


def largest_that_fits(
    allowed: int, bits: int, *, models: Mapping[str, ModelEntry] | None = None, **how: Any
) -> tuple[ModelEntry, int] | None:
    """The catalog's model with the most parameters whose estimate stays within `allowed` bytes, and that estimate."""
    found = None
    for entry in sorted((catalog.MODELS if models is None else models).values(), key=lambda e: e.n_parameters):
        need = sum(model_memory(entry, bits, **how).values())
        if need <= allowed and not (how.get("training") and entry.kind != "decoder"):
            found = entry, need
    return found


Limits = Mapping[str, tuple[int, str]]


def limits_of(given: tuple[int, str] | None = None) -> dict[str, tuple[int, str]]:
    """Bytes and who says so of each place ("RAM", and "device" where a card has memory of its own).

    What is given counts for the place of the model.
    """
    device = footprint.device_memory()
    if device is None:
        return {"RAM": given or footprint.memory_limit()}
    return {"RAM": footprint.memory_limit(), "device": given or (device, "graphics card")}


def within(net: Network, use: Use, limits: Limits) -> bool:
    """Whether a use stays within the limits of all places."""
    found = parts.terms(net, use)
    return all(parts.total(found, place) <= allowed for place, (allowed, _) in limits.items())


def largest_settings(net: Network, use: Use, limits: Limits) -> dict[str, int | None]:
    """The largest settings that stay within the limits, each with the others as they are.

    Returns
    -------
    dict
        batch (at this seq), seq (of one row, at most the context), bits (the most of 16, 8, 4; full training has 16
        only), and for a training last_blocks. None where even the smallest does not fit.
    """
    context = net.context or MOST

    def batch(n: int) -> bool:
        return within(net, replace(use, batch=n), limits)

    def seq(n: int) -> bool:
        return within(net, replace(use, batch=1, seq=n), limits)

    def blocks(n: int) -> bool:
        return within(net, replace(use, last_blocks=n), limits)

    bits = next((b for b in parts.BITS if within(net, replace(use, bits=b), limits)), None)
    found = {"batch": _most(batch, MOST), "seq": _most(seq, context), "bits": bits}
    return found | ({"last_blocks": _most(blocks, net.layers)} if use.trains else {})


def _most(fits: Any, highest: int) -> int | None:
    """The largest number from 1 to `highest` that fits, where all below one that fits do."""
    if not fits(1):
        return None
    low, high = 1, highest + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _what_fits(allowed: int, bits: int, how: Mapping[str, Any], models: Mapping[str, ModelEntry]) -> str:
    found = largest_that_fits(allowed, bits, models=models, **how)
    if found is None:
        return "No model of the catalog fits."
    return f"The largest model of the catalog that fits: {found[0].name} ({gigabytes(found[1])})."


def _remedy(net: Network, use: Use, limits: Limits) -> str:
    """What would make it fit: the first of smaller training batches, fewer blocks and fewer bits that does."""
    trials: list[tuple[str, Use]] = []
    if use.trains:
        smaller = [n for n in (1024, 512, 256, 128) if n < use.tokens and n >= use.seq]
        trials += [(f"max_batch_tokens={n}", replace(use, batch=n // use.seq)) for n in smaller]
        trials += [(f"last_blocks={n}", replace(use, last_blocks=n)) for n in (8, 4) if n < use.blocks(net)]
    trials += [(f"bits={b}", replace(use, bits=b)) for b in (8, 4) if b < use.bits]
    trials += [(f"texts of at most {n} tokens", replace(use, seq=n)) for n in (1024, 256, 64) if n < use.seq]
    for name, changed in trials:
        if within(net, changed, limits):
            need = parts.total(parts.terms(net, changed), use.place)
            return f"Remedy: {name} (about {gigabytes(need)}), or {HIGHER_LIMIT}."
    return f"Remedy: a smaller model, or {HIGHER_LIMIT}."


def _sum(found: Mapping[str, int]) -> str:
    return " + ".join(f"{value / 1e9:.2f} {name}" for name, value in found.items() if value >= 5e6)


def gigabytes(n_bytes: float) -> str:
    """Bytes as "1.25 GB"."""
    return f"{n_bytes / 1e9:.2f} GB"
