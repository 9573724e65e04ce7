"""The five families at their true size, with random weights: stored bytes, peaks, load time, tokens/s, a QLoRA step.

    python -m benchmarks.full_size mistral-7b                 # 4 bits; about 10 minutes on two quiet cores
    python -m benchmarks.full_size gemma-2b --backend mlx --layers 2

Weights are drawn layer by layer and stored in slmkit's 4-bit form without ever being whole; everything else then works
on that copy, which --folder keeps. Each step is a process of its own, so that its peak is its own. The peer is
transformers with bitsandbytes' `Linear4bit` over the same stored bytes, embeddings and head in bfloat16 as bitsandbytes
leaves them, in a greedy loop; both write the same number of tokens after the same prompt, in turn token by token, so
that a busy machine slows both alike. The QLoRA step trains rank 16 on all linear layers: 1 row of 128 tokens on a CPU,
2 of 512 on CUDA; of all blocks, and of the last 8.

--out writes the figures as a record. They say what a model of that size costs here, and nothing about what it can do.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, full_size_work
from slmkit import architectures, files, footprint, jobs
from slmkit.catalog import MODELS, ModelEntry, config_values
from slmkit.errors import InputError, MissingExtra

FAMILIES = {
    "phi-3": "phi-3-mini-4k-instruct",
    "gemma-2b": "gemma-2b",
    "llama-2-7b": "llama-2-7b",
    "mistral-7b": "mistral-7b-v0.1",
    "falcon-7b": "falcon-7b",
}
LOAD_PEAKS = {"mistral-7b-v0.1": 6e9}  # bytes of memory, 4 bits on a CPU
STEP_PEAKS = {"mistral-7b-v0.1": 7e9, "phi-3-mini-4k-instruct": 4.5e9}  # bytes on CUDA
STORED_BITS = {16: (16.0, 16.0), 8: (8.5, 8.5), 4: (4.127, 4.5)}  # linear layers (scales quantised too), embeddings
STEP_ROWS = {"cpu": (1, 128), "cuda": (2, 512)}  # rows, tokens
LAST_BLOCKS = 8


def entry_of(family: str) -> ModelEntry:
    """The catalog's entry of a family, or of a catalog name."""
    name = FAMILIES.get(family, family)
    if name not in MODELS or MODELS[name].kind != "decoder":
        known = ", ".join(FAMILIES)
        raise InputError(f"FAMILY must be one of {known}, or a decoder of the catalog; got {family!r}")
    return MODELS[name]


def computed_bytes(entry: ModelEntry, bits: int) -> int:
    """Stored bytes by arithmetic: parameters counted from the configuration times the bits of each kind."""
    counts = architectures.count_parameters(config_values(entry))
    linear, embedding = STORED_BITS[bits]
    total = (counts["linear"] + counts["head"]) * linear + counts["embedding"] * embedding
    return round((total + counts["norms_and_biases"] * 16) / 8)


def write_config(entry: ModelEntry, folder: Path) -> None:
    """The config.json that slmkit's catalog knows, into a folder made for it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_values(entry), indent=1), encoding="utf-8")


def step(what: str, folder: Path, threads: int | None, **job: Any) -> dict[str, Any]:
    """One piece of `full_size_work` in a child; its figures and its peak."""
    print(f"{what} ...", end=" ", flush=True)
    common_job = {"do": what, "folder": str(folder), "threads": threads, **job}
    seconds, found = common.timed(
        lambda: jobs.run_child(common_job, module="benchmarks.full_size_work", log_path=folder / "log.txt")
    )
    print(f"{seconds:.0f} s, peak {found['peak_rss_bytes'] / 1e9:.2f} GB", flush=True)
    return found


def speed(folder: Path, arguments: Any, vocab: int) -> dict[str, Any]:
    """Prefill and decode of slmkit and, at 4 bits, of the peer, in turn prompt by prompt and token by token."""
    ids = np.random.default_rng(1).integers(3, vocab, arguments.prompt_tokens).tolist()
    prefills: dict[str, list[float]] = defaultdict(list)
    steps: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        own = common.Side(full_size_work.Own, folder, arguments.bits, ids, arguments.new_tokens, arguments.threads)
        sides = {"own": stack.enter_context(own)}
        if arguments.bits == 4 and not arguments.no_peer:
            peer = common.Side(full_size_work.Peer, folder, ids, arguments.threads)
            sides["peer"] = stack.enter_context(peer)
        for side in sides.values():
            side.call("prefill")
            side.call("step")
        for number in range(arguments.rounds):
            for name, side in sides.items():
                prefills[name].append(side.call("prefill")[1])
            for _ in range(arguments.new_tokens - 1):
                for name, side in sides.items():
                    steps[name].append(side.call("step")[1])
            for name in sides:
                tail = statistics.median(steps[name][1 - arguments.new_tokens :])
                print(
                    f"round {number + 1} {name:>4}: prefill {prefills[name][-1]:.2f} s, {tail:.3f} s a token",
                    flush=True,
                )
        results = {name: side.call("result")[1] for name, side in sides.items()}
    return _speed_facts(prefills, steps, results, arguments.prompt_tokens)


def _speed_facts(
    prefills: dict[str, list[float]], steps: dict[str, list[float]], results: dict[str, Any], prompt_tokens: int
) -> dict[str, Any]:
    """Medians, and the medians of the ratios of neighbours: what slows the machine down slows both of a pair."""
    facts = {key: value for key, value in results["own"].items() if key != "tokens"}
    for name in prefills:
        before = "" if name == "own" else "peer_"
        facts[f"{before}prefill_tokens_per_s"] = prompt_tokens / statistics.median(prefills[name])
        facts[f"{before}decode_tokens_per_s"] = 1 / statistics.median(steps[name])
    if "peer" in prefills:
        for what, seconds in (("prefill", prefills), ("decode", steps)):
            pairs = zip(seconds["peer"], seconds["own"], strict=True)
            facts[f"{what}_ratio"] = statistics.median(peer / own for peer, own in pairs)
        facts["n_prefills"], facts["n_decoded"] = len(prefills["own"]), len(steps["own"])
        facts["peer_peak_ram_bytes"] = results["peer"]["peak_ram_bytes"]
    return facts


def training(folder: Path, arguments: Any, device: str) -> dict[str, Any]:
    """One QLoRA step over all blocks, and one over the last eight."""
    rows, tokens = STEP_ROWS[device]
    facts: dict[str, Any] = {"qlora_rank": 16, "qlora_rows": rows, "qlora_tokens": tokens}
    for name, last in (("qlora", None), (f"qlora_last{LAST_BLOCKS}", LAST_BLOCKS)):
        how = {"bits": arguments.bits, "rows": rows, "tokens": tokens, "last_blocks": last}
        found = step("qlora_step", folder, arguments.threads, **how)
        if not found["moved"]:
            raise InputError("the QLoRA step moved no adapter weight")
        facts[f"{name}_step_s"] = found["step_s"]
        facts[f"{name}_peak_ram_bytes"] = found["peak_rss_bytes"]
        facts[f"{name}_peak_device_bytes"] = found["peak_device_bytes"]
    return facts


def measure(entry: ModelEntry, arguments: Any, folder: Path, device: str) -> dict[str, Any]:
    """All steps on one model."""
    write_config(entry, folder)
    facts: dict[str, Any] = {}
    if not (folder / "model.safetensors").exists():
        found = step("store", folder, arguments.threads, bits=arguments.bits)
        facts = {"store_s": found["store_s"], "store_peak_ram_bytes": found["peak_rss_bytes"]}
        facts["store_threads"] = arguments.threads or footprint.machine()["threads"]
        (folder / "stored.json").write_text(json.dumps(facts))
    else:
        facts = json.loads((folder / "stored.json").read_text())
    facts |= speed(folder, arguments, entry.vocab)
    if not arguments.no_training:
        facts |= training(folder, arguments, device)
    return facts


def stored_target(facts: Mapping[str, Any]) -> common.Target:
    """Stored bytes against the arithmetic."""
    off = abs(facts["stored_bytes"] / facts["computed_bytes"] - 1)
    return common.Target("stored bytes off the computed figure", off, 0.01, False)


def judge(entry: ModelEntry, facts: dict[str, Any], device: str, bits: int) -> list[common.Target]:
    """The targets that this model has here."""
    targets = [stored_target(facts)]
    if bits == 4 and device == "cpu" and entry.name in LOAD_PEAKS:
        peak = facts["load_peak_ram_bytes"]
        targets.append(common.Target("peak memory of loading, bytes", peak, LOAD_PEAKS[entry.name], False))
    if device == "cuda" and entry.name in STEP_PEAKS and "qlora_peak_device_bytes" in facts:
        peak = facts["qlora_peak_device_bytes"]
        targets.append(common.Target("peak of a QLoRA step, bytes", peak, STEP_PEAKS[entry.name], False))
    for name in ("prefill", "decode"):
        if f"{name}_ratio" in facts:
            targets.append(common.Target(f"{name} against {full_size_work.PEER}", facts[f"{name}_ratio"], 1.0))
    return targets


def table_row(record: Mapping[str, Any]) -> str:
    """A record as a row of the table in the README; a ratio above 1 is in slmkit's favour."""
    gb = {key: f"{record[f'{key}_peak_ram_bytes'] / 1e9:.1f}" for key in ("store", "load", "qlora", "qlora_last8")}
    rates = [f"{record[f'{w}_tokens_per_s']:.1f} ({record[f'{w}_ratio']:.2f})" for w in ("prefill", "decode")]
    cells = [MODELS[record["model"]].title, f"{record['stored_bytes'] / 1e6:,.0f}", gb["store"], gb["load"], *rates]
    return f"| {' | '.join([*cells, gb['qlora'], gb['qlora_last8']])} |"


def record(facts: Mapping[str, Any], folder: Path | None) -> None:
    """Write the figures as a record into the folder, if there is one."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    stem = "{model}-{backend}-{bits}bit-{device}".format(**facts)
    created = {"created_utc": datetime.now(UTC).isoformat(timespec="seconds")}
    files.replace(folder / f"{stem}.json", json.dumps(created | dict(facts), indent=1) + "\n")
    print(f"recorded as {stem}")


def device_of(asked: str | None) -> str:
    """The device of all children; "cpu" hides a GPU from them."""
    if asked == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    found = "cuda" if torch.cuda.is_available() else "cpu"
    if asked not in (None, found):
        raise MissingExtra(f"--device {asked}: torch sees no CUDA device here")
    return found


def main() -> int:
    """Measure, print, record."""
    parser = common.parser(__doc__)
    parser.add_argument("family", metavar="FAMILY", help=f"{', '.join(FAMILIES)}, or a decoder of the catalog")
    parser.add_argument("--backend", choices=("bnb", "mlx"), default="bnb")
    parser.add_argument("--bits", type=int, choices=(4, 8, 16), default=4)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: CUDA where torch sees one")
    parser.add_argument("--layers", type=int, help="blocks that are built, with mlx; default 2")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch, in every process")
    parser.add_argument("--folder", type=Path, help="where the stored copy is kept for another run")
    parser.add_argument("--out", type=Path, help="a folder for the record, NAME-BACKEND-BITSbit-DEVICE.json")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--no-training", action="store_true")
    arguments = parser.parse_args()
    if arguments.new_tokens < 2 or arguments.rounds < 1:
        raise InputError("--new-tokens must be at least 2 and --rounds at least 1")
    entry = entry_of(arguments.family)
    common.environment()
    head = {"weights": "random", "model": entry.name, "backend": arguments.backend, "bits": arguments.bits}
    if arguments.backend == "mlx":
        from benchmarks import full_size_mlx

        facts = common.describe() | head
        facts |= full_size_mlx.measure(entry, arguments.bits, arguments.layers or 2, arguments.prompt_tokens)
        record(facts, arguments.out)
        return common.finish("full_size", facts, [stored_target(facts)])
    device = device_of(arguments.device)
    facts = common.describe() | head | {"device": device}
    facts |= {"prompt_tokens": arguments.prompt_tokens, "new_tokens": arguments.new_tokens, "rounds": arguments.rounds}
    facts["computed_bytes"] = computed_bytes(entry, arguments.bits)
    with tempfile.TemporaryDirectory() as aside:
        facts |= measure(entry, arguments, arguments.folder or Path(aside), device)
    record(facts, arguments.out)
    return common.finish("full_size", facts, judge(entry, facts, device, arguments.bits))


if __name__ == "__main__":
    common.run(main)
