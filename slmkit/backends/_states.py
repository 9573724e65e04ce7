"""Hidden states on the disk: one row of tokens each, found by its tokens, so that any later run with that row has them.

They lie in the cache in segments of many rows, each written aside and complete with an index that comes last; readers
map them into memory. Whatever is broken or missing is computed again. States are derived from the texts: who may not
keep those may not keep these (`prefix` in the cache folder; remove it at any time).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from slmkit.files.places import cache_dir

log = logging.getLogger(__name__)
LIMIT_BYTES = 4 << 30  # of all states in the cache; the segments unused for longest go first
FREE_SHARE = 0.5  # of the free disk that one run may fill
Row = tuple[int, ...]


class Store:
    """States of one model, cut in one place: bytes in, bytes out.

    Parameters
    ----------
    key : mapping
        All that the states depend on besides the tokens: model, bits, number type, blocks, device, versions.
    width : int
        Bytes of one token's state.
    """

    def __init__(self, key: Mapping[str, Any], width: int) -> None:
        self.root = cache_dir() / "prefix"
        digest = hashlib.sha256(json.dumps({**key, "width": width}, sort_keys=True).encode()).hexdigest()
        self.folder, self.width = self.root / digest[:24], width
        self._found: dict[str, np.ndarray] = {}
        self._used: set[Path] = set()

    def look(self, rows: Iterable[Row]) -> list[Row]:
        """Find rows; those that are not there, in the given order."""
        wanted = {_name(row): row for row in rows}
        for index in sorted(self.folder.glob("*.json")):
            self._open(index, wanted)
        return [row for name, row in wanted.items() if name not in self._found]

    def room(self, n_bytes: int) -> bool:
        """Make room for so many bytes more; False if that cannot be."""
        own = sum(path.with_suffix(".npy").stat().st_size for path in self._used)
        if own + n_bytes > LIMIT_BYTES:
            return False
        there = next(p for p in (self.root, *self.root.absolute().parents) if p.exists())
        others = [p for p in self.root.glob("*/*.json") if p not in self._used]
        sizes = {path: _size(path) for path in sorted(others, key=_last_used)}
        left = sum(sizes.values())
        for path, size in sizes.items():
            if own + left + n_bytes <= LIMIT_BYTES:
                break
            _remove(path)
            left -= size
        return n_bytes <= FREE_SHARE * shutil.disk_usage(there).free

    def add(self, rows: Sequence[Row], states: Sequence[np.ndarray]) -> None:
        """Write one segment: a row's states are uint8 (n_tokens, width). `OSError` leaves nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{uuid4().hex}.npy"
        part, start, index = path.with_suffix(".part"), 0, []
        try:
            with open(part, "wb") as file:
                shape = (sum(map(len, states)), self.width)
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                for row, state in zip(rows, states, strict=True):
                    content = np.ascontiguousarray(state).tobytes()
                    file.write(content)
                    index.append([_name(row), start, len(state), zlib.crc32(content)])
                    start += len(state)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            with open(part, "w", encoding="utf-8") as file:
                json.dump({"bytes": path.stat().st_size, "rows": index}, file)
            os.replace(part, path.with_suffix(".json"))
        except OSError:
            _remove(path.with_suffix(".json"))
            raise
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        self._open(path.with_suffix(".json"), {_name(row): row for row in rows})

    def __getitem__(self, row: Row) -> np.ndarray:
        """A row's states, uint8 (n_tokens, width), mapped from the disk."""
        return self._found[_name(row)]

    def _open(self, index: Path, wanted: Mapping[str, Row]) -> None:
        """Take the wanted rows of a segment, where it is whole."""
        try:
            told = json.loads(index.read_text(encoding="utf-8"))
            here = [entry for entry in told["rows"] if entry[0] in wanted and entry[0] not in self._found]
            if not here:
                return
            if index.with_suffix(".npy").stat().st_size != told["bytes"]:
                raise ValueError("cut off")
            mapped = np.load(index.with_suffix(".npy"), mmap_mode="r")
            for name, start, length, checksum in here:
                state = mapped[start : start + length]
                if state.shape == (len(wanted[name]), self.width) and zlib.crc32(state.tobytes()) == checksum:
                    self._found[name] = state
                else:
                    log.warning("%s: states of a row are damaged and computed again", index)
            self._used.add(index)
            os.utime(index)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is not usable (%s); its states are computed again", index, error)


def _name(row: Row) -> str:
    return hashlib.sha256(np.asarray(row, dtype="<i8").tobytes()).hexdigest()[:32]


def _size(index: Path) -> int:
    try:
        return index.with_suffix(".npy").stat().st_size
    except OSError:
        return 0


def _last_used(index: Path) -> float:
    try:
        return index.stat().st_mtime
    except OSError:
        return 0.0


def _remove(index: Path) -> None:
    for path in (index, index.with_suffix(".npy")):
        with suppress(OSError):  # another run has it open, or was quicker
            path.unlink()
