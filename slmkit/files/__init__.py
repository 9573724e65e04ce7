"""Writes files so that a reader finds the old one or the new one, never half of either; names what the disk refuses.

What is written down of a file (size, time, SHA-256) tells later whether it is still the same one.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from slmkit.errors import InputError, SlmkitError

log = logging.getLogger(__name__)


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` when all went well and is gone when it did not."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def replace(path: Path, document: str) -> None:
    """Write a text aside, flush it to the disk and move it into place; `OSError` leaves what was there."""
    with aside(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        file.write(document)
        file.flush()
        os.fsync(file.fileno())


def disk_full(error: BaseException) -> bool:
    """Whether an exception says that there is no space left; libraries in Rust and C++ say it in words only."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


@contextmanager
def on_disk(path: Path, then: str = "") -> Iterator[None]:
    """Turn an error of the disk into one that says which file, why, and what `then`."""
    try:
        yield
    except SlmkitError:
        raise
    except OSError as error:
        why = "the disk is full" if disk_full(error) else f"cannot be written: {error.strerror or error}"
        raise SlmkitError(". ".join([f"{path}: {why}", *filter(None, [then])])) from error


@contextmanager
def locked(folder: Path, taken: str | None = None) -> Iterator[None]:
    """Hold a folder for this thread alone, where system and disk have file locks; leaves no lock file.

    Another one waits; with `taken` it is refused instead, by an `InputError` of these words.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if taken is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(taken) from error
        except OSError:
            log.debug("the disk of %s has no locks", folder)
        yield
    finally:
        os.close(handle)


def hold(part: IO[bytes], refused: Exception) -> None:
    """Lock an open file for this process, where system and disk have file locks; raises `refused` where it is held."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise refused from error
    except OSError as error:
        log.info("%s cannot be locked (%s): let no second process write it", part.name, error)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def facts(path: Path) -> dict[str, Any]:
    """What to write down of a file: bytes, mtime_ns, sha256."""
    return _stamp(path) | {"sha256": sha256_of(path)}


def change(path: Path, known: Mapping[str, Any]) -> str | None:
    """What is wrong with a file of which `known` was written down, or None.

    A file whose size and time are as written is not hashed again.
    """
    if not path.is_file():
        return f"{path.name} is missing"
    now = _stamp(path)
    if now["bytes"] != known["bytes"]:
        return f"{path.name} has {now['bytes']} bytes; it was written with {known['bytes']}"
    if now["mtime_ns"] != known["mtime_ns"] and sha256_of(path) != known["sha256"]:
        return f"{path.name} was altered (its SHA-256 is not the one written)"
    return None


def _stamp(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
