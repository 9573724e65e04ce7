"""Quantises a model tensor by tensor from a source, so that its 16-bit form is never in memory as a whole.

The model stands on the meta device: names and shapes without weights. A source hands out the rows of each parameter in
pieces; a piece is quantised and freed before the next is read. Blocks do not span pieces, so the stored bytes are
those of quantising the whole tensor at once. Sources: the shards of a checkpoint, a model that is loaded already, and
random weights for measuring a model's size and speed without its weights.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import nn
from tqdm.auto import tqdm

from slmkit.backends._torch import quantise
from slmkit.backends._torch.spool import Spool
from slmkit.errors import AssetError

PIECE = 1 << 23  # numbers quantised at once: 16 MB of bfloat16
RANDOM_STD = 0.02
INDEX = "model.safetensors.index.json"


class Source(Protocol):
    """Where the parameters of a model come from."""

    def pieces(self, name: str, n_rows: int) -> Iterator[torch.Tensor]:
        """A parameter from its first row to its last, at most `n_rows` of them at a time; any floating type."""


class Checkpoint:
    """The safetensors files of a Hugging Face folder, read piece by piece and not mapped into memory.

    Parameters
    ----------
    folder : Path
    places : dict
        Name of the parameter in the model -> file and name there; `open_checkpoint` finds them.
    """

    def __init__(self, folder: Path, places: dict[str, tuple[Path, str]]) -> None:
        self.folder, self.places = folder, places

    def pieces(self, name: str, n_rows: int) -> Iterator[torch.Tensor]:
        path, key = self.places[name]
        with safe_open(path, "pt", backend="pread") as file:
            rows = file.get_slice(key)
            shape = rows.get_shape()
            if not shape:
                yield file.get_tensor(key)
            for at in range(0, shape[0] if shape else 0, n_rows):
                yield rows[at : min(at + n_rows, shape[0])]


class Loaded:
    """A model that is in memory."""

    def __init__(self, model: nn.Module) -> None:
        self._tensors = {name: p.detach() for name, p in model.named_parameters()}

    def pieces(self, name: str, n_rows: int) -> Iterator[torch.Tensor]:
        tensor = self._tensors[name]
        yield from tensor.split(n_rows) if tensor.dim() else [tensor]


class RandomWeights:
    """Normal numbers with standard deviation 0.02, around 1 for norms; the same for the same name, shape and seed."""

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        self._shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self._seed = seed

    def pieces(self, name: str, n_rows: int) -> Iterator[torch.Tensor]:
        shape = self._shapes[name]
        noise = torch.Generator().manual_seed(zlib.crc32(name.encode()) + self._seed)
        centre = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        for at in range(0, shape[0], n_rows):
            piece = torch.empty((min(n_rows, shape[0] - at), *shape[1:]), dtype=torch.bfloat16)
            yield piece.normal_(centre, RANDOM_STD, generator=noise)


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a file must hold: tied ones once, under their first name."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return {name: p for name, p in model.named_parameters() if name not in tied}


def open_checkpoint(folder: Path, model: nn.Module) -> Source | None:
    """Find every parameter of a model in a folder's files.

    Returns
    -------
    Source or None
        None where the names in the files are older or other ones, which transformers renames or joins as it loads.

    Raises
    ------
    AssetError
        A tensor is missing or has another shape than config.json asks for; all of them are counted.
    """
    shapes = _shapes_in(folder)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    places, wrong, missing = {}, [], []
    for name, parameter in parameters(model).items():
        key = next((k for k in (name, prefix + name, name.removeprefix(prefix)) if k in shapes), None)
        if key is None:
            missing.append(name)
            continue
        path, shape = shapes.pop(key)
        places[name] = (path, key)
        if shape != tuple(parameter.shape):
            wrong.append(f"{key} in {path.name} is {shape}, config.json asks for {tuple(parameter.shape)}")
    if wrong:
        raise AssetError(f"{folder} does not fit its config.json: {'; '.join(wrong[:3])} ({len(wrong)} such tensors)")
    optional = [name for name in missing if "pooler" in name]
    if len(missing) > len(optional):
        if shapes:
            return None
        raise AssetError(f"{folder} lacks {', '.join(missing[:3])} ({len(missing)} tensors missing)")
    return _WithZeros(Checkpoint(folder, places), {n: tuple(parameters(model)[n].shape) for n in optional})


class _WithZeros:
    """A source and zeros for what it lacks: an encoder's pooler, which no vector comes from."""

    def __init__(self, source: Source, shapes: dict[str, tuple[int, ...]]) -> None:
        self._source, self._shapes = source, shapes

    def pieces(self, name: str, n_rows: int) -> Iterator[torch.Tensor]:
        if name in self._shapes:
            yield from torch.zeros(self._shapes[name], dtype=torch.bfloat16).split(n_rows)
        else:
            yield from self._source.pieces(name, n_rows)


def stored(
    model: nn.Module, source: Source, bits: int, only: Collection[str] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a model as stored at `bits`, one after the other, with their names.

    A layer whose width no block divides stays in bfloat16, as norms and biases do; at 16 bits all do. `only` names the
    parameters that are wanted, None all.
    """
    packable = dict(quantise.quantisable(model)) if bits != 16 else {}
    for name, parameter in parameters(model).items():
        if only is not None and name not in only:
            continue
        shape = tuple(parameter.shape)
        pieces = _finite(source.pieces(name, max(1, PIECE // max(1, math.prod(shape[1:])))), name)
        module = packable.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if module is None:
            whole = list(pieces)
            yield name, torch.cat(whole) if len(whole) > 1 else whole[0]
            continue
        packed, state = quantise.quantise_pieces(pieces, shape, bits, nested=isinstance(module, nn.Linear))
        yield name, packed
        for part, value in quantise.state_tensors(state, bits).items():
            yield f"{name}.{part}", value


def _finite(pieces: Iterator[torch.Tensor], name: str) -> Iterator[torch.Tensor]:
    """The pieces in bfloat16, if all their numbers are numbers; a NaN has no level."""
    for piece in pieces:
        if not torch.isfinite(piece).all():
            raise AssetError(f"{name} holds NaN or infinity, so the checkpoint is damaged: fetch or make it again")
        yield piece.to(torch.bfloat16)


def prepare(model: nn.Module, source: Source, bits: int, folder: Path) -> None:
    """Write a model's tensors, quantised to `bits`, to `folder/model.safetensors`; the scheme is in its metadata.

    Memory: the largest tensor as stored, and one piece.

    Parameters
    ----------
    model : nn.Module
        On the meta device.
    source : Source
        Of its parameters.
    bits : {4, 8, 16}
    folder : Path
        It exists. When this raises, no model.safetensors is in it.
    """
    total = len(parameters(model))
    with Spool(folder / "model.safetensors") as spool, tqdm(total=total, desc="storing", disable=None) as bar:
        names: Any = parameters(model)
        for name, tensor in stored(model, source, bits):
            spool.add(name, tensor)
            bar.update(name in names)
        spool.finish({"format": "pt", "scheme": quantise.SCHEMES.get(bits, "bf16")})


def _shapes_in(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Every tensor in the folder's files, with its file and shape."""
    paths = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).is_file() or (folder / "model.safetensors").is_file():  # others are copies in another layout
        paths = [p for p in paths if p.name.startswith("model")]
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for path in paths:
        try:
            with safe_open(path, "pt", backend="pread") as file:
                found |= {key: (path, tuple(file.get_slice(key).get_shape())) for key in file.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors raises a class of its own that is not exported
            raise AssetError(f"{path} cannot be read: {error}") from error
    return found
