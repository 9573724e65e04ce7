"""Which device and number type to compute in, decided once by capability, with the reason."""

from __future__ import annotations

import logging
from functools import cache

import torch

from slmkit.backends._torch import products
from slmkit.errors import InputError

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@cache
def pick_device() -> torch.device:
    """CUDA where it computes, else Apple's Metal, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


@cache
def best_dtype(device_type: str) -> tuple[torch.dtype, str]:
    """The number type this device does best, and why: bfloat16 where it is native, else float16 on a GPU that has it.

    Float32 otherwise. A training in float16 amplifies its loss (`loop`), and says so where that does not help.
    """
    if device_type == "cuda":
        major, minor = torch.cuda.get_device_capability()
        named = f"compute capability {major}.{minor}"
        if major >= 8:
            return torch.bfloat16, f"{named} has bfloat16"
        if major == 7:  # Volta and Turing have tensor cores for it
            return torch.float16, f"{named} only emulates bfloat16 and has float16, with the loss amplified in training"
        return torch.float32, f"{named} only emulates bfloat16, and is no quicker in float16"
    if device_type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32, "this CPU has no bfloat16 instructions"
    if device_type == "cpu" and products.widens():
        return torch.bfloat16, "this CPU computes bfloat16, and products by way of float32, which is quicker on it"
    return torch.bfloat16, f"{device_type} computes bfloat16"


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The named number type, or the best one with its reason logged once a load."""
    if name is None:
        dtype, reason = best_dtype(device.type)
        log.info("computing in %s: %s", str(dtype).removeprefix("torch."), reason)
        return dtype
    if name not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {name!r}")
    return DTYPES[name]


def synchronize(device: torch.device) -> None:
    """Wait for the device's queue, so that a clock read next is true."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_bytes(device: torch.device) -> int | None:
    """Highest memory torch held on the device so far; None on a CPU."""
    return int(torch.cuda.max_memory_allocated()) if device.type == "cuda" else None


def held_bytes(device: torch.device) -> int | None:
    """Memory torch holds on the device at this moment, its cache included; None on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved())
    return int(torch.mps.driver_allocated_memory()) if device.type == "mps" else None


def empty_cache(device: torch.device) -> None:
    """Give cached device memory back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
