"""A file on a disk that runs full: what fits is written, the rest raises, as the system's own write does."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


class FullFile(io.FileIO):
    """Takes bytes up to `room` in all."""

    room = 0

    def write(self, data: Any) -> int:
        """Write what fits; nothing does any more: ENOSPC."""
        block = bytes(data)[: max(self.room - self.tell(), 0)]
        if data and not block:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(block)


def open_on_full_disk(room: int, only: str = "") -> Callable[..., IO[Any]]:
    """An `open` whose written files whose name ends in `only` hold `room` bytes."""

    def opened(path: Path, mode: str = "r", buffering: int = -1, encoding: str | None = None, **more: Any) -> IO[Any]:
        if not set(mode) & set("wa+") or not str(path).endswith(only):
            return open(path, mode, buffering, encoding, **more)
        raw = FullFile(path, mode.replace("b", ""))
        raw.room = room
        if buffering == 0:
            return raw  # type: ignore[return-value]
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding=encoding, **more)

    return opened
