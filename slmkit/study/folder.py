"""The folder a study writes to: one study at a time, finished runs found again, nothing half written ever counted."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pandas as pd

from slmkit import cards, files
from slmkit.data import Split
from slmkit.errors import InputError
from slmkit.runs import Run, read_run
from slmkit.splits import splitfile

log = logging.getLogger(__name__)
LOCK = ".lock"
KEPT = "Finished runs are kept"


def finished(out: Path, run_id: str) -> Run | None:
    """The run of that id if it is there and can be read."""
    for path in out.glob(f"*-{run_id}.json"):
        try:
            return read_run(path)
        except InputError as error:
            log.warning("%s; it is run again", error)
    return None


def write_split(split: Split, path: Path, data_sha256: str, seed: int, licence: str) -> None:
    """Write the rows of both parts for the children (columns row, text, label, part), and their hashes for people.

    `SlmkitError` says why it cannot be written; then nothing half written stays.
    """
    if path.exists():
        return
    parts = [
        frame[["text", "label"]].rename_axis("row").reset_index().assign(part=name)
        for name, frame in (("train", split.train), ("test", split.test))
    ]
    with files.on_disk(path, KEPT):
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.aside(path) as part:
            pd.concat(parts, ignore_index=True).to_parquet(part, index=False)
            hashes = path.with_suffix(".json")
            splitfile.save(split, hashes, data_sha256=data_sha256, seed=seed, licence=licence)


def write_card(out: Path, data_sha256: str, card: str) -> None:
    """Keep the card of the data beside the runs, so that a report can show it wherever it is made."""
    path = cards.kept_at(out, data_sha256)
    with files.on_disk(path, KEPT):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, card)


def sweep(out: Path) -> None:
    """Remove what a killed study left half written; only under the lock."""
    for path in [path for kind in (".", "splits", "cards") for path in (out / kind).glob(".*.part")]:
        path.unlink(missing_ok=True)
    for path in (out / "models").glob(".*"):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it however the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from error
    with handle:
        if not _held(handle):
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise InputError(
                f"another study (process {owner}) is writing to {folder}; wait for it or choose another out"
            )
        handle.truncate(0)
        with suppress(OSError):  # a full disk: only the name of the owner is missing
            os.write(handle.fileno(), str(os.getpid()).encode())
        yield


def _held(handle: IO[str]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        log.warning("this file system cannot lock (%s); do not run two studies in one folder", error)
    return True
