"""Reads single tensors of safetensors files into NumPy, bfloat16 too, which NumPy does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.errors import AssetError, unknown

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


def names(path: Path) -> list[str]:
    """Names of the tensors in one file; `AssetError` for a file that cannot be read."""
    return list(_header(path)[0])


def read_file(path: Path, name: str) -> np.ndarray:
    """One tensor of one file, as `read` gives it."""
    header, start = _header(path)
    if name not in header:
        raise unknown("tensor", name, header)
    return _tensor(path, start, header[name])


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
