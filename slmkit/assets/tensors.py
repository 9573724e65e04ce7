"""Reads single tensors of safetensors files into NumPy, bfloat16 too, which NumPy does not know; copies chosen ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.errors import AssetError, unknown

_AT_ONCE = 1 << 26  # bytes of a tensor that are copied at a time
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "I8": "i1", "I64": "<i8"}


def read(folder: str | Path, name: str) -> np.ndarray:
    """One tensor of a model's folder.

    Parameters
    ----------
    folder : path
        With *.safetensors files.
    name : str
        As the file has it, such as "model.embed_tokens.weight".

    Returns
    -------
    ndarray
        In the tensor's shape and type; bfloat16 and float16 as float32.

    Raises
    ------
    InputError
        No tensor of that name, with the near ones.
    AssetError
        A file that cannot be read, or a number type that is not known here.
    """
    known: list[str] = []
    for path in sorted(Path(folder).glob("*.safetensors")):
        header, start = _header(path)
        known += header
        if name in header:
            return _tensor(path, start, header[name])
    raise unknown("tensor", name, known)


def read_file(path: Path, name: str) -> np.ndarray:
    """One tensor of one file, as `read` gives it."""
    header, start = _header(path)
    if name not in header:
        raise unknown("tensor", name, header)
    return _tensor(path, start, header[name])


def names(place: str | Path) -> list[str]:
    """Names of all tensors of a model's folder, or of one file; `AssetError` for a file that cannot be read."""
    place = Path(place)
    paths = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    return [name for path in paths for name in _header(path)[0]]


def copy(place: str | Path, rename: Callable[[str], str | None], out: Path) -> int:
    """Copy tensors of a model's folder, or of one file, into one file, bit by bit, without holding them in memory.

    Parameters
    ----------
    place : path
        A folder with *.safetensors files, or such a file.
    rename : callable
        A tensor's name in, its name in the copy out; None leaves it out.
    out : Path
        The file to write.

    Returns
    -------
    int
        Bytes of the tensors copied.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[tuple[Path, int, int]] = []
    end = 0
    place = Path(place)
    for path in sorted(place.glob("*.safetensors")) if place.is_dir() else [place]:
        found, start = _header(path)
        for old, facts in found.items():
            new, (first, last) = rename(old), facts["data_offsets"]
            if new is not None:
                header[new] = facts | {"data_offsets": [end, end + last - first]}
                parts.append((path, start + first, last - first))
                end += last - first
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    with open(out, "wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        for path, offset, n_bytes in parts:
            with open(path, "rb") as source:
                source.seek(offset)
                for left in range(n_bytes, 0, -_AT_ONCE):
                    file.write(source.read(min(left, _AT_ONCE)))
    return end


def _header(path: Path) -> tuple[dict[str, Any], int]:
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (OSError, ValueError, MemoryError) as error:
        raise AssetError(f"{path} is not a readable safetensors file: {error}") from error
    return {key: value for key, value in header.items() if key != "__metadata__"}, 8 + length


def _tensor(path: Path, start: int, facts: dict[str, Any]) -> np.ndarray:
    kind, (begin, end) = facts["dtype"], facts["data_offsets"]
    if kind not in _TYPES:
        raise AssetError(f"{path} holds numbers of type {kind}; known here: {', '.join(_TYPES)}")
    with open(path, "rb") as file:
        file.seek(start + begin)
        values = np.frombuffer(file.read(end - begin), dtype=_TYPES[kind]).reshape(facts["shape"])
    if kind == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32) if kind == "F16" else values
