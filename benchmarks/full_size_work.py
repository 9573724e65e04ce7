"""What the processes of `full_size` do: store random weights, load and write, the same with the peer, one QLoRA step.

`python -m benchmarks.full_size_work` is the child of `slmkit.jobs`; `Own` and `Peer` are the sides of the duel.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from slmkit import footprint, jobs

PEER = "transformers + bitsandbytes"


def store(folder: Path, bits: int) -> dict[str, Any]:
    """Make the weights of the folder's config.json from random numbers and store them, quantised, tensor by tensor."""
    import torch

    from slmkit.backends._torch import loading, streaming

    began = time.perf_counter()
    model = loading.empty_model(folder, "decoder", torch.bfloat16)
    streaming.prepare(model, streaming.RandomWeights(model), bits, folder)
    n_bytes = (folder / "model.safetensors").stat().st_size
    return {"store_s": time.perf_counter() - began, "file_bytes": n_bytes}


def qlora_step(folder: Path, bits: int, rows: int, tokens: int, last_blocks: int | None) -> dict[str, Any]:
    """One step of slmkit's training, rank 16 on all linear layers of the blocks, on random token ids."""
    from torch import nn

    from slmkit.backends import _course
    from slmkit.backends._torch import device, loop, objectives, training
    from slmkit.backends.base import LoRAConfig, Watch

    model, where, dtype = load(folder, bits)
    config = LoRAConfig(
        rank=16, epochs=1, batch_size=rows, max_length=tokens, max_batch_tokens=rows * tokens, last_blocks=last_blocks
    )
    ids = np.random.default_rng(0).integers(3, model.config.vocab_size, (rows, tokens)).tolist()
    head = nn.Linear(model.config.hidden_size, 2).to(where)
    labels = np.arange(rows) % 2
    wrapped = training._with_lora(model, config, dtype)
    objective = objectives.LastToken(head, labels, [tokens] * rows)
    one_step = loop.Loop(model, objective, ids, rows, 0, config, where, {"model": str(folder), "bits": bits})
    course = _course.Course(one_step, [tokens] * rows, config, Watch(), None, {}, {})
    began = time.perf_counter()
    (entry,) = course.run()
    device.synchronize(where)
    moved = any(bool(p.detach().any()) for name, p in wrapped.named_parameters() if "lora_B" in name)
    return {
        "step_s": time.perf_counter() - began,
        "loss": entry["loss"],
        "moved": moved,
        "peak_device_bytes": device.peak_bytes(where),
    }


def load(folder: Path, bits: int) -> tuple[Any, Any, Any]:
    """The stored model as slmkit loads it, its device and number type."""
    from slmkit.assets import ModelSource
    from slmkit.backends._torch import device, loading, quantise

    where = device.pick_device()
    dtype = device.choose_dtype(None, where)
    if bits == 16:
        return (
            loading.load_module(ModelSource("random", folder, "random", "decoder", False), 16, dtype, where),
            where,
            dtype,
        )
    model = quantise.fill_quantised(loading.empty_model(folder, "decoder", dtype), bits, folder, dtype, where)
    return model.requires_grad_(False).eval().to(where), where, dtype


class Own:
    """slmkit: loads the stored weights and writes greedily."""

    def __init__(self, folder: Path, bits: int, ids: list[int], new_tokens: int, threads: int | None) -> None:
        from benchmarks import common
        from slmkit.backends import bnb
        from slmkit.backends._torch import packing

        common.set_up(threads)
        began = time.perf_counter()
        self.model, self.where, self.dtype = load(folder, bits)
        self.facts: dict[str, Any] = {"load_s": time.perf_counter() - began}
        self.facts["load_peak_ram_bytes"] = footprint.peak_ram_bytes()
        self.facts["stored_bytes"], self.facts["n_parameters"] = bnb._count(self.model, None)  # type: ignore[arg-type]
        began = time.perf_counter()
        packing.for_writing(self.model)
        self.facts["layout_s"] = time.perf_counter() - began
        self.ids, self.new_tokens = ids, new_tokens
        self.tokens: list[int] = []

    def prefill(self) -> float:
        """Seconds to the first token; `step` then gives the next ones."""
        from slmkit.backends._torch import generation

        how: dict[str, Any] = {"temperature": 0.0, "seed": 0, "stop_ids": set(), "device": self.where}
        self._stream = generation.decode(self.model, self.ids, max_new_tokens=self.new_tokens, **how)
        self.tokens = []
        return self.step()

    def step(self) -> float:
        """Seconds of one more token."""
        return _next_s(self)

    def result(self) -> dict[str, Any]:
        """Bytes, peaks, seconds of loading, and the tokens written last."""
        from slmkit.backends._torch import device

        peaks = {"peak_ram_bytes": footprint.peak_ram_bytes(), "peak_device_bytes": device.peak_bytes(self.where)}
        return {**self.facts, **peaks, "tokens": self.tokens}


class Peer:
    """transformers and bitsandbytes called directly: `Linear4bit` in the blocks over the very bytes that slmkit stored,
    embeddings and head in bfloat16 as bitsandbytes leaves them. It lays out its weights at its first inference."""

    def __init__(self, folder: Path, ids: list[int], threads: int | None) -> None:
        import torch

        from benchmarks import common
        from slmkit.backends._torch import device

        common.set_up(threads)
        self.where = device.pick_device()
        self.model = peer_model(folder, self.where)
        self.ids = torch.tensor([ids], device=self.where)
        self.tokens: list[int] = []

    def prefill(self) -> float:
        """Seconds to the first token; `step` then gives the next ones."""
        self._stream = self._greedy()
        self.tokens = []
        return self.step()

    def step(self) -> float:
        """Seconds of one more token."""
        return _next_s(self)

    def _greedy(self) -> Iterator[int]:
        import torch

        fed, cache = self.ids, None
        while True:
            with torch.inference_mode():
                out = self.model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
                fed, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
            yield int(fed)

    def result(self) -> dict[str, Any]:
        """Peak, and the tokens written last."""
        return {"peak_ram_bytes": footprint.peak_ram_bytes(), "tokens": self.tokens}


def _next_s(side: Any) -> float:
    """Seconds of the next token of a side's stream; its number is kept."""
    began = time.perf_counter()
    side.tokens.append(next(side._stream))  # an int: the device has finished
    return time.perf_counter() - began


def peer_model(folder: Path, where: Any) -> Any:
    """The model of the folder with bitsandbytes' own layers."""
    import bitsandbytes as bnb
    import torch
    from safetensors import safe_open
    from torch import nn

    from slmkit.backends._torch import loading, quantise, streaming

    model: Any = loading.empty_model(folder, "decoder", torch.bfloat16)
    empty = streaming.parameters(model)
    head = model.get_output_embeddings()
    linear = {n: m for n, m in quantise.quantisable(model) if isinstance(m, nn.Linear) and m is not head}
    plain = {name for name in empty if name.removesuffix(".weight") not in linear}
    for name, tensor in streaming.stored(model, streaming.RandomWeights(model), 16, only=plain):
        quantise._set(model, name, nn.Parameter(tensor, requires_grad=False))
    if head.weight.is_meta:
        head.weight = model.get_input_embeddings().weight
    with safe_open(folder / "model.safetensors", "pt", backend="pread") as file:
        keys = set(file.keys())
        for name, module in linear.items():
            stats = {
                k.removeprefix(f"{name}.weight."): file.get_tensor(k) for k in keys if k.startswith(f"{name}.weight.")
            }
            layer = bnb.nn.Linear4bit(
                module.in_features, module.out_features, False, torch.bfloat16, quant_type="nf4", device="meta"
            )
            packed = file.get_tensor(f"{name}.weight")
            layer.weight = bnb.nn.Params4bit.from_prequantized(packed, stats, False, str(where), module=layer)
            layer.bias = module.bias
            quantise._set(model, name, layer)
    return model.eval().to(where)


WORK = {"store": store, "qlora_step": qlora_step}


def _serve(job: dict[str, Any], _: jobs.Emit) -> dict[str, Any]:
    from benchmarks import common

    common.set_up(job.pop("threads"))
    return WORK[job.pop("do")](Path(job.pop("folder")), **job)


if __name__ == "__main__":
    jobs.serve(_serve)
