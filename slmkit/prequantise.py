"""`slmkit quantize`: keeps a model in 4 or 8 bits as a folder of its own, whole or not at all, with a card.

The weights are those that `slmkit.load(..., bits=4)` makes in its cache, byte for byte. What is won by keeping them: no
16-bit form is needed to load them, and they can be copied, served and tuned on as they are.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slmkit import assets, backends, estimate, files, footprint, modelcards
from slmkit.assets import ModelSource, stored
from slmkit.backends.base import Backend, Stored
from slmkit.errors import InputError, SlmkitError

log = logging.getLogger(__name__)
BITS = (4, 8)
README = "README.md"
TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")  # files with the terms of a model, which go with its weights
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja"),
    *("generation_config.json",),
)
READ_BY = {
    "bnb": "Only slmkit reads this folder, with backend bnb. Its embeddings are packed as well; plain transformers "
    "with bitsandbytes leaves those in 16 bits, cannot read packed ones, and refuses the folder.",
    "mlx": "slmkit reads this folder with backend mlx; mlx-lm reads it too, if it has the architecture.",
}
SPOOLED = {"bnb": 2.0, "mlx": 1.0}  # room on the disk while writing, times the stored bytes


@dataclass(frozen=True)
class Quantised:
    """A folder that was written, and what its card says.

    Attributes
    ----------
    folder : Path
    base, base_revision : str
        The model it was made from (of a folder only its name), and what pins that.
    kind : str
        "decoder" or "encoder".
    licence : str
        Of the base, and so of this.
    backend, scheme : str
    bits : int
    n_parameters : int
        Before quantisation, tied ones once.
    bytes_16bit, stored_bytes : int
        All weights in 16 bits, and as they are stored: embeddings, scales and what stays in 16 bits included.
    sha256 : str
        Of model.safetensors.
    """

    folder: Path
    base: str
    base_revision: str
    kind: str
    licence: str
    backend: str
    bits: int
    scheme: str
    n_parameters: int
    bytes_16bit: int
    stored_bytes: int
    sha256: str

    @property
    def bytes_per_parameter(self) -> float:
        """Of the whole model; 2 in 16 bits."""
        return self.stored_bytes / self.n_parameters


def quantize(
    model: str, *, out: str | Path, bits: int = 4, backend: str | None = None, force: bool = False
) -> Quantised:
    """Store a model in 4 or 8 bits as a folder that `slmkit.load` and `slmkit.study` take by its path.

    Parameters
    ----------
    model : str
        As `slmkit.load` takes it: a catalog name, a path (a merged model too), or a hub id.
    out : path
        The folder to write. It must not exist or be empty; it is there when it is complete, and not before.
    bits : {4, 8}
        4: about a quarter of the bytes of 16 bits. Whether that costs accuracy, time or energy, a study measures.
    backend : {"bnb", "mlx"} or None
        Which one shall read it; the layouts differ. None takes what runs best here. The layout of mlx is mlx-lm's own;
        that of bnb only slmkit reads, since embeddings are packed as well, which transformers cannot read.
    force : bool
        Replace a folder that `slmkit quantize` wrote earlier; any other one is left alone all the same.

    Returns
    -------
    Quantised

    Raises
    ------
    InputError, AssetError, NotEnoughMemory, SlmkitError
        Wrong bits, a folder that holds something, a model that is quantised already or that the backend does not run,
        too little memory or room on the disk: before anything is written.
    """
    if bits not in BITS:
        raise InputError(f"bits must be one of 4, 8; got {bits!r}")
    folder = Path(out).expanduser().absolute()
    _check_target(folder, force)
    source = assets.resolve(model)
    _check_source(source)
    engine = backends.engine_for(source, backend)
    estimate.check_fits(source, bits, preparing=True)
    _check_room(folder, source, bits, engine)
    with files.on_disk(folder, "nothing was written"), _replaced(folder) as aside:
        source = backends.prepare(source)
        done = engine.quantise(source, bits=bits, out=aside)
        card = _card(source, engine, bits, done, aside / "model.safetensors")
        _add_files(source, card, aside)
    return Quantised(folder, **card)


def _check_target(folder: Path, force: bool) -> None:
    wrong = ""
    if folder.is_file():
        wrong = "it is a file"
    elif folder.is_dir() and any(folder.iterdir()):
        own = (folder / stored.CARD).is_file()
        wrong = "" if own and force else "it is not empty"
        wrong += "; --force (force=True) replaces what slmkit quantize wrote there" if own and not force else ""
    if wrong:
        raise InputError(f"cannot write the quantised model to {folder}: {wrong}. Name another folder")


def _check_source(source: ModelSource) -> None:
    """Refuse what has no 16-bit weights: quantising twice adds one error to the other."""
    if source.revision == "builtin":
        raise InputError(f"model {source.name!r} is built in and has no weights to store; name another model")
    form = source.stored
    found = f"{form.bits} bits, {form.scheme}" if form else stored.foreign_format(source.folder)
    if found:
        raise InputError(
            f"{source.name} is quantised already ({found}), and doing it twice only adds errors: quantise the model it "
            "was made from"
        )


def _check_room(folder: Path, source: ModelSource, bits: int, engine: Backend) -> None:
    there = next(parent for parent in folder.parents if parent.exists())
    need = SPOOLED.get(engine.name, 1.0) * estimate.stored_bytes(source, bits)
    free = shutil.disk_usage(there).free
    if need > free:
        raise SlmkitError(
            f"{folder}: writing the model in {bits} bits takes about {need / 1e6:,.0f} MB of the disk and "
            f"{free / 1e6:,.0f} MB are free; make room, or name a folder on another disk"
        )


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of an earlier one when it is complete, and leaves that one if not."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        with assets.atomic_folder(folder) as aside:
            yield aside
            aside.chmod(0o755)  # a temporary folder is closed to others
            if folder.is_dir():
                folder.replace(old)
    except BaseException:
        if old.is_dir() and not folder.exists():
            old.replace(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _card(source: ModelSource, engine: Backend, bits: int, done: Stored, weights: Path) -> dict[str, Any]:
    with open(weights, "rb") as file:
        header = int.from_bytes(file.read(8), "little")
    return origin(source) | {
        "backend": engine.name,
        "bits": bits,
        "scheme": done.scheme,
        "n_parameters": done.n_parameters,
        "bytes_16bit": 2 * done.n_parameters,
        "stored_bytes": weights.stat().st_size - 8 - header,
        "sha256": files.sha256_of(weights),
    }


def origin(source: ModelSource) -> dict[str, Any]:
    """What the card of a model made from another says of that one: base, base_revision, kind, licence."""
    licence = modelcards.base_of(source).licence
    is_path = source.folder == Path(source.name).expanduser() or source.name.endswith(".gguf")
    base = Path(source.name).name if is_path else source.name
    return {"base": base, "base_revision": source.revision, "kind": source.kind, "licence": licence}


def copy_companions(source: ModelSource, out: Path) -> None:
    """Copy tokenizer, generation settings and terms, which go with a model's weights."""
    wanted = {p for pattern in TERMS for p in source.folder.glob(pattern)} | {source.folder / n for n in TOKENIZER}
    for path in sorted(wanted):
        if path.is_file():
            shutil.copyfile(path, out / path.name)


def _add_files(source: ModelSource, card: dict[str, Any], out: Path) -> None:
    """Tokenizer, generation settings, terms and card beside the weights."""
    copy_companions(source, out)
    more = {"bytes_per_parameter": round(card["stored_bytes"] / card["n_parameters"], 4)}
    more |= {"made_from": "a GGUF file, itself in few bits" if source.gguf else "safetensors"}
    more |= {"read_by": READ_BY[card["backend"]], "versions": footprint.versions()}
    more |= {"created_utc": datetime.now(UTC).isoformat(timespec="seconds")}
    (out / stored.CARD).write_text(json.dumps(card | more, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    base, library = modelcards.base_of(source), "mlx" if card["backend"] == "mlx" else "slmkit"
    header = modelcards.header(base, library, ("quantized", f"{card['bits']}-bit"))
    (out / README).write_text(header + _readme(card, more), encoding="utf-8")


def _readme(card: dict[str, Any], more: dict[str, Any]) -> str:
    """The card for a person."""
    before, after = (card[key] / 1e6 for key in ("bytes_16bit", "stored_bytes"))
    return f"""# {card["base"]} in {card["bits"]} bits

Written by `slmkit quantize`. Base model: {card["base"]}, revision {card["base_revision"]},
read from {more["made_from"]}.
Licence of the base, which holds for these weights too: {card["licence"]}.

| | |
|---|---|
| scheme | {card["scheme"]}, embeddings included; norms and biases stay in 16 bits |
| parameters | {card["n_parameters"]:,} |
| in 16 bits | {before:,.1f} MB |
| here | {after:,.1f} MB, {more["bytes_per_parameter"]:.3f} bytes a parameter |

{more["read_by"]} Fewer bytes are not always less memory, time or energy, and accuracy may be lost: measure it with
`slmkit study TASK --models THIS_FOLDER`.
"""
