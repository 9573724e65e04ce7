"""Writes a safetensors file tensor by tensor, so that never more than one of them is in memory.

The header stands first in the file and needs the sizes of all, so tensors wait in a nameless file beside it and are
copied behind the header at the end. Their order is that of the safetensors library: wide number types first, so that
each begins at a multiple of its width, then by name (format: safetensors 0.8, README, "Format").
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int64: "I64",
}
_COPY_BYTES = 1 << 24
_ALIGNMENT = 8


@dataclass(frozen=True)
class _Waiting:
    """One tensor in the spool: where it begins, and what the header says of it."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    n_bytes: int


class Spool:
    """Tensors for one safetensors file; nothing is at `path` before `finish`.

    Parameters
    ----------
    path : Path
        In a folder that exists; on its disk the tensors wait as well, so it needs twice their room for a moment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 closed by __exit__
        self._waiting: dict[str, _Waiting] = {}

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor; the caller may free it afterwards."""
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        self._waiting[name] = _Waiting(tensor.dtype, tuple(tensor.shape), self._file.tell(), data.nbytes)
        self._file.write(memoryview(data))

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Put the file together: header with `metadata`, then all tensors."""
        order = sorted(self._waiting.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
        header, end = {"__metadata__": dict(metadata)}, 0
        for name, one in order:
            offsets = [end, end + one.n_bytes]
            header[name] = {"dtype": _NAMES[one.dtype], "shape": list(one.shape), "data_offsets": offsets}  # type: ignore[dict-item]
            end += one.n_bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        with open(self.path, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for _, one in order:
                self._file.seek(one.start)
                left = one.n_bytes
                while left:
                    piece = self._file.read(min(left, _COPY_BYTES))
                    out.write(piece)
                    left -= len(piece)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
