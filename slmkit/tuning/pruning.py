"""`slmkit prune`: a model with fewer blocks, as a folder like any other; which ones go is measured or given.

Two measures are known. "angular": the run of neighbouring blocks over which the hidden state of the last token turns
least (Gromov et al. 2024, arXiv 2403.17887). "influence": the blocks that change the states of all tokens least, one by
one (Men et al. 2024, ShortGPT, arXiv 2403.03853). What is left is a worse model until it is trained: `slmkit.distill`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from slmkit import architectures, assets, backends, estimate, files, footprint, modelcards, prequantise, tasks
from slmkit.assets import ModelSource, stored, tensors
from slmkit.errors import AssetError, InputError, unknown

CARD = "slmkit_pruned.json"
MEASURES = ("angular", "influence")
SHIPPED = ("fraud_messages", "finance_sentiment", "support_tickets", "compliance_notes")
TEXTS_A_TASK = 8


@dataclass(frozen=True)
class Pruned:
    """A folder that was written, and what its card says.

    Attributes
    ----------
    folder : Path
    base, base_revision, kind, licence : str
        Of the model it was made from, whose licence holds for this one.
    blocks : int
        Of that model.
    kept : tuple of int
        Its blocks that are left, counted from 0.
    measure : str
        "angular", "influence", or "given" for blocks that were named.
    distances : tuple of float
        "angular": of each run of as many blocks as went, the angle it turns the hidden state by, as a share of half a
        turn; "influence": 1 minus the cosine of each block's input and output. Empty where blocks were named.
    n_texts : int
        Texts they were measured on.
    n_parameters, base_parameters : int
    sha256 : str
        Of model.safetensors.
    """

    folder: Path
    base: str
    base_revision: str
    kind: str
    licence: str
    blocks: int
    kept: tuple[int, ...]
    measure: str
    distances: tuple[float, ...]
    n_texts: int
    n_parameters: int
    base_parameters: int
    sha256: str

    @property
    def dropped(self) -> tuple[int, ...]:
        """Blocks of the base that are gone."""
        return tuple(i for i in range(self.blocks) if i not in self.kept)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**asdict(self), "folder": str(self.folder)}


def prune(
    model: str,
    *,
    out: str | Path,
    keep_layers: int | None = None,
    blocks: Iterable[int] | None = None,
    measure: str = "angular",
    texts: Sequence[str] | None = None,
) -> Pruned:
    """Write a model with fewer blocks, as a folder that `slmkit.load` and every method take by its path.

    Parameters
    ----------
    model : str
        As `slmkit.load` takes it, in 16 bits: a decoder or an encoder of an architecture of the catalog.
    out : path
        A new folder. It is there when it is complete, and not before.
    keep_layers : int or None
        Blocks to keep; time and bytes of the blocks fall in proportion. Below about three quarters a model writes no
        sensible text any more, and serves as a student only.
    blocks : iterable of int or None
        The blocks to keep, counted from 0, instead of a measurement.
    measure : {"angular", "influence"}
        How blocks are chosen; see the module's first lines. Measuring needs torch, blocks that are named do not.
    texts : sequence of str or None
        What to measure on; None takes 32 shipped ones. Take texts like those the model is for.

    Returns
    -------
    Pruned

    Raises
    ------
    InputError, AssetError, NotEnoughMemory
        Unusable settings, a model that is quantised or of another architecture, a folder that holds something.
    """
    folder = _new_folder(Path(out))
    source = assets.resolve(model)
    _check_source(source)
    config, kind = _config(backends.prepare(source))
    n_blocks = architectures.sizes(config)["layers"]
    named = None if blocks is None else [*blocks]
    _check_choice(n_blocks, keep_layers, named, measure, kind)
    distances: tuple[float, ...] = ()
    if named is None:
        assert keep_layers is not None
        texts = shipped_texts() if texts is None else list(texts)
        kept, distances = _measured(source, texts, keep_layers, measure, kind)
    else:
        texts, kept, measure = [], tuple(sorted(named)), "given"
    cut = cut_config(config, kept)
    with files.on_disk(folder, "nothing was written"), assets.atomic_folder(folder) as aside:
        aside.chmod(0o755)
        _write(source, cut, kept, kind, aside)
        card: dict[str, Any] = {
            **prequantise.origin(source),
            **{"blocks": n_blocks, "kept": kept, "measure": measure, "distances": distances, "n_texts": len(texts)},
            "n_parameters": sum(architectures.count_parameters(cut).values()),
            "base_parameters": sum(architectures.count_parameters(config).values()),
            "sha256": files.sha256_of(aside / "model.safetensors"),
        }
        made = Pruned(folder, **card)
        _write_card(made, modelcards.base_of(source), aside)
    return made


def shipped_texts() -> list[str]:
    """Texts of the shipped corpora to measure blocks on: eight of each, evenly spread."""
    found: list[str] = []
    for name in SHIPPED:
        rows = list(tasks.get(name).load()["text"])
        found += [rows[i] for i in np.linspace(0, len(rows) - 1, TEXTS_A_TASK).astype(int)]
    return found


def choose(
    distances: np.ndarray, keep: int, measure: str, first_stays: bool = False
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Blocks to keep, and the figures they were chosen by.

    Parameters
    ----------
    distances : ndarray, shape (n_blocks + 1, n_blocks + 1)
        As `backends.block_distances` gives them.
    keep : int
    measure : {"angular", "influence"}
        One run of blocks goes, or blocks one by one.
    first_stays : bool
        The first block is not for choice.
    """
    n_blocks, start = len(distances) - 1, int(first_stays)
    n_dropped = n_blocks - keep
    if measure == "angular":
        spans = np.array([distances[i, i + n_dropped] for i in range(n_blocks - n_dropped + 1)])
        first = start + int(spans[start:].argmin())
        dropped = set(range(first, first + n_dropped))
    else:
        spans = np.array([distances[i, i + 1] for i in range(n_blocks)])
        dropped = set((start + np.argsort(spans[start:], kind="stable")[:n_dropped]).tolist())
    return tuple(i for i in range(n_blocks) if i not in dropped), tuple(np.round(spans, 5).tolist())


def cut_config(config: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """A configuration with the blocks `kept` alone: their number, and what each of them attends to."""
    this = architectures.get(str(config.get("model_type")))
    n_blocks = architectures.sizes(config)["layers"]
    cut = {**config, this.keys["layers"]: len(kept)}
    types = config.get("layer_types") or _implied_types(config, this, n_blocks)
    if types:
        cut["layer_types"] = [types[i] for i in kept]
    if types and "sliding_window_pattern" in config:
        cut["sliding_window_pattern"] = _pattern(cut["layer_types"]) or config["sliding_window_pattern"]
    return cut


def _implied_types(config: Mapping[str, Any], this: architectures.Architecture, n_blocks: int) -> list[str] | None:
    """What each block attends to where the configuration gives a rule and no list."""
    full = {name: config.get(name) for name in ("sliding_window_pattern", "global_attn_every_n_layers")}
    if this.full_attention is not None and (every := next(filter(None, full.values()), None)):
        at = every - 1 if full["sliding_window_pattern"] else 0
        return ["full_attention" if i % every == at else "sliding_attention" for i in range(n_blocks)]
    if config.get("use_sliding_window") and config.get("sliding_window"):
        first = config.get("max_window_layers", n_blocks)
        return ["sliding_attention" if i >= first else "full_attention" for i in range(n_blocks)]
    return this.layer_types(n_blocks)


def _pattern(types: Sequence[str]) -> int | None:
    """The n for which every n-th block attends to everything and no other does; None where there is none."""
    full = [i + 1 for i, kind in enumerate(types) if kind == "full_attention"]
    every = full[0] if full else 0
    return every if full and full == [*range(every, len(types) + 1, every)] else None


def _new_folder(folder: Path) -> Path:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"out must be a new or an empty folder; {folder} exists. Choose another one or remove it")
    return folder.expanduser().absolute()


def _check_source(source: ModelSource) -> None:
    if source.revision == "builtin":
        raise InputError(f"model {source.name!r} is built in and has no blocks to drop; name another model")
    found = f"{source.stored.bits} bits" if source.stored else stored.foreign_format(source.folder)
    if found:
        raise InputError(f"{source.name} is quantised ({found}): prune the model it was made from, then quantise that")


def _config(source: ModelSource) -> tuple[dict[str, Any], architectures.Architecture]:
    config = assets.read_json(source.folder / "config.json")
    return config, architectures.get(str(config.get("model_type")))


def _check_choice(
    n_blocks: int, keep: int | None, named: list[int] | None, measure: str, this: architectures.Architecture
) -> None:
    wrong = []
    if (keep is None) == (named is None):
        wrong.append("one of keep_layers and blocks must be given, and not both")
    if measure not in MEASURES:
        raise unknown("measure", measure, MEASURES)
    if keep is not None and not 1 <= keep < n_blocks:
        wrong.append(
            f"keep_layers must be between 1 and {n_blocks - 1} for this model of {n_blocks} blocks; got {keep!r}"
        )
    if named is not None:
        strange = sorted({i for i in named if not 0 <= i < n_blocks})
        if strange or not named or len(set(named)) < len(named) or len(named) == n_blocks:
            wrong.append(f"blocks must be different ones of 0 .. {n_blocks - 1}, at least one and not all; got {named}")
        elif not this.first_norm and 0 not in named:
            wrong.append(f"block 0 of a {this.model_type} model has no norm of its own and must stay; got {named}")
    if wrong:
        raise InputError("; ".join(wrong))


def _measured(
    source: ModelSource, texts: Sequence[str], keep: int, measure: str, this: architectures.Architecture
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    if not texts:
        raise InputError("texts must hold at least one text to measure blocks on; got none")
    estimate.check_fits(source, 16)
    angles = measure == "angular"
    last = angles and source.kind == "decoder"  # the one a decoder's head reads; an encoder's are averaged
    found = backends.block_distances(source, texts, last=last, angles=angles)
    return choose(found, keep, measure, first_stays=not this.first_norm)


def _write(
    source: ModelSource, cut: Mapping[str, Any], kept: Sequence[int], this: architectures.Architecture, out: Path
) -> None:
    place = {old: new for new, old in enumerate(kept)}
    inside = re.compile(rf"^((?:.+\.)?{re.escape(this.blocks)}\.)(\d+)(\..+)$")
    found = set()

    def rename(name: str) -> str | None:
        match = inside.match(name)
        if match is None:
            return name
        found.add(int(match[2]))
        new = place.get(int(match[2]))
        return None if new is None else f"{match[1]}{new}{match[3]}"

    tensors.copy(source.folder, rename, out / "model.safetensors")
    if missing := sorted(set(kept) - found):
        raise AssetError(f"{source.folder} has no tensors of blocks {missing} under {this.blocks}: nothing was written")
    (out / "config.json").write_text(json.dumps(cut, indent=1) + "\n", encoding="utf-8")
    prequantise.copy_companions(source, out)


def _write_card(made: Pruned, base: modelcards.Base, out: Path) -> None:
    facts = {name: value for name, value in made.to_dict().items() if name != "folder"}
    facts |= {"versions": footprint.versions(), "created_utc": datetime.now(UTC).isoformat(timespec="seconds")}
    (out / CARD).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    modelcards.write(out, _card(made, base, (out / "model.safetensors").stat().st_size))


def _card(made: Pruned, base: modelcards.Base, n_bytes: int) -> modelcards.Card:
    how = {
        "angular": "the run of blocks that turns the hidden state least",
        "influence": "the blocks that change the hidden states least",
        "given": "named by hand",
    }[made.measure]
    recipe = {
        "blocks dropped": ", ".join(map(str, made.dropped)),
        "blocks kept": ", ".join(map(str, made.kept)),
        "chosen": how,
        "parameters": f"{made.n_parameters:,} of {made.base_parameters:,}",
    }
    return modelcards.Card(
        title=f"{base.name} with {len(made.kept)} of {made.blocks} blocks",
        summary="Written by slmkit prune. The weights that are left are those of the base, bit by bit, and nothing was "
        "trained since.",
        base=base,
        library="transformers",
        tags=("pruned",),
        data=modelcards.Data(rows=f"{made.n_texts} texts to choose blocks on") if made.n_texts else modelcards.Data(),
        recipe=recipe,
        footprint={"stored": n_bytes},
        load=modelcards.load_whole(made.kind),
        limits=("A student to distil into, or to tune; measure it beside its base.", *modelcards.LIMITS[1:]),
    )
