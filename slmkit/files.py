"""Writes small files so that a reader finds the old one or the new one, never half of either."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path


def replace(path: Path, document: str) -> None:
    """Write a text aside, flush it to the disk and move it into place; `OSError` leaves what was there."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "w", encoding="utf-8", newline="") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def disk_full(error: BaseException) -> bool:
    """Whether an exception says that there is no space left; libraries in Rust and C++ say it in words only."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)
