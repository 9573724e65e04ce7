"""Checkpoints of a training: whole or not there, hashed, the newest two kept, and read for the same training only.

A checkpoint is written aside, flushed to the disk, marked complete with the SHA-256 of its files, and then renamed, so
that a process that dies at any moment leaves the one before. Weights are safetensors and all else is JSON.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from slmkit import files
from slmkit.errors import AssetError, InputError, short

log = logging.getLogger(__name__)
ARRAYS, FACTS, MARKER = "state.safetensors", "state.json", "complete.json"
PREFIX, KEPT = "checkpoint-", 2
_TYPES = {"float32": "F32", "float64": "F64", "uint64": "U64", "int64": "I64", "uint32": "U32", "uint16": "U16"}


@dataclass(frozen=True)
class Checkpoint:
    """One state of a training.

    Attributes
    ----------
    arrays : dict of ndarray
        Trained weights and the optimiser's state, by name.
    facts : dict
        What JSON holds: the step, the history, and the training it belongs to.
    folder : Path
    """

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]
    folder: Path


class Store:
    """The checkpoints of one training in a folder; made by `opened`.

    Parameters
    ----------
    folder : Path
    identity : mapping
        What makes the training what it is: rows, settings, model. Others are refused.
    exact : mapping
        What decides the last bits alone: threads, versions. Others are spoken of.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], exact: Mapping[str, Any]) -> None:
        self.folder, self.identity, self.exact = folder, dict(identity), dict(exact)

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, None where there is none; `InputError` for one of another training."""
        found = newest(self.folder)
        if found is None:
            return None
        then = found.facts["identity"]
        if differences := compare(then, self.identity):
            raise InputError(
                f"{self.folder} holds checkpoints of another training: {'; '.join(differences)}. Go on with the "
                "settings of then, or remove that folder to begin anew"
            )
        if differences := compare(found.facts["exact"], self.exact):
            log.warning("%s; the last bits of the weights may differ", "; ".join(differences))
        return found

    def before(self, step: int) -> Checkpoint | None:
        """The newest whole checkpoint of a step before this one."""
        return newest(self.folder, step)

    def save(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Add a checkpoint and take all but the newest two away; `SlmkitError` names what the disk refuses."""
        present = _folders(self.folder)
        number = 1 + (_number(present[0]) if present else 0)
        final = self.folder / f"{PREFIX}{number:08d}"
        aside = self.folder / f".{final.name}.part"
        try:
            with files.on_disk(final, f"The checkpoints in {self.folder} are whole: make room and run the same again"):
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir()
                told = {"identity": self.identity, "exact": self.exact, **facts}
                hashes = {ARRAYS: write_arrays(aside / ARRAYS, arrays)}
                hashes[FACTS] = _write(aside / FACTS, [json.dumps(told).encode()])
                _write(aside / MARKER, [json.dumps(hashes).encode()])
                os.replace(aside, final)
                _sync(self.folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        for old in _folders(self.folder)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def opened(folder: Path, identity: Mapping[str, Any], exact: Mapping[str, Any]) -> Iterator[Store]:
    """A folder's checkpoints, for this training alone as long as the block runs.

    Raises `SlmkitError` for a folder that cannot be written, `InputError` for one that another training uses.
    """
    with files.on_disk(folder, "Checkpoints need a folder that can be written: choose another one"):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{PREFIX}probe"
        _write(probe, [b"probe"])
        probe.unlink()
    with files.locked(folder, f"another training uses {folder}: wait for it, or choose another folder"):
        yield Store(folder, identity, exact)


def newest(folder: Path, before: float = math.inf) -> Checkpoint | None:
    """The newest whole checkpoint in a folder, of any training; broken ones are named in the log and passed over."""
    for one in _folders(folder):
        try:
            found = _read(one)
        except AssetError as error:
            log.warning("%s; the checkpoint before it is taken", error)
            continue
        if found.facts["step"] < before:
            return found
    return None


def clear(folder: Path) -> None:
    """Remove the checkpoints of a folder, half-written ones too, and the folder where nothing else is in it."""
    for one in (*_folders(folder), *folder.glob(f".{PREFIX}*")):
        shutil.rmtree(one, ignore_errors=True)
    with suppress(OSError):
        (folder / f".{PREFIX}probe").unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def clear_ended(folder: Path, history: Sequence[Mapping[str, Any]]) -> bool:
    """Clear the folder of a training that ended with this history; False where another one is there, or none."""
    if not folder.is_dir() or (history and "stopped" in history[-1]):
        return False
    found = newest(folder)
    if found is not None and found.facts["history"] != [*history][: len(found.facts["history"])]:
        return False
    for left in folder.glob(".*"):  # of kills before
        shutil.rmtree(left, ignore_errors=True)
    clear(folder)
    return True


def compare(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Which settings differ, in words."""
    keys = [key for key in {**now, **then} if then.get(key) != now.get(key)]
    return [f"{key} was {short(then.get(key), 40)} and is {short(now.get(key), 40)}" for key in keys]


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Write a safetensors file array by array and flush it to the disk; its SHA-256."""
    header: dict[str, Any] = {}
    order = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))  # each at its own alignment
    end = 0
    for name, array in order:
        kind = _TYPES[str(array.dtype)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    blocks = (np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for _, array in order)
    return _write(path, [len(text).to_bytes(8, "little") + text, *blocks])


def _write(path: Path, blocks: Any) -> str:
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for block in blocks:
            file.write(block)
            digest.update(block)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _read(folder: Path) -> Checkpoint:
    try:
        hashes = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        for name in (ARRAYS, FACTS):
            if files.sha256_of(folder / name) != hashes[name]:
                raise AssetError(f"{folder / name} was altered (its SHA-256 is not the one written)")
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return Checkpoint(load_file(folder / ARRAYS), facts, folder)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise error if isinstance(error, AssetError) else AssetError(f"{folder} is not whole: {error}") from error


def _folders(folder: Path) -> list[Path]:
    """Checkpoints, the newest first; those being written are not among them."""
    return sorted((p for p in folder.glob(f"{PREFIX}*") if _number(p)), key=_number, reverse=True)


def _number(path: Path) -> int:
    digits = path.name.removeprefix(PREFIX)
    return int(digits) if digits.isdecimal() else 0


def _sync(folder: Path) -> None:
    """Flush a rename, where the system can open folders."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
