"""A file under way: `OUTPUT.part`, and `OUTPUT.part.json`, which says how many of its bytes are good and what it is of.

Data is on the disk before the state counts it, so a part is never believed further than it goes; whatever stops the
work, the part is cut to its good length, by this process or by the next one, which goes on from there.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from slmkit import files
from slmkit.errors import InputError, listed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """How far a part file has come, and which input, model and column it is of."""

    rows: int
    empty: int
    bytes: int
    input_bytes: int
    input_sha256_first_mb: str
    model_sha256: str
    text_columns: list[str]
    formula_cells: int = 0


def part_path(target: Path) -> Path:
    """Where the unfinished output stands."""
    return target.with_name(target.name + ".part")


def state_path(target: Path) -> Path:
    """Where its state stands."""
    return target.with_name(target.name + ".part.json")


def on_disk(path: Path, rows: int) -> AbstractContextManager[None]:
    """Turn an error of the disk into one that says which file, and that nothing is lost."""
    return files.on_disk(path, f"{rows:,} rows are kept; mend it and run the same command again")


@contextmanager
def part_file(target: Path, fresh: State, *, resume: bool) -> Iterator[tuple[IO[bytes], State]]:
    """The part file, open for this process alone and cut to its good length, and the state to go on from."""
    path = part_path(target)
    with on_disk(path, 0):
        part = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed below
    with part:
        files.hold(part, InputError(f"{part.name}: another process is writing it"))
        state = resumable(target, fresh) if resume else fresh
        try:
            with on_disk(path, state.rows):
                part.truncate(state.bytes)
                write_state(target, state)
            if state.rows:
                log.info("%s: going on after row %s", target, f"{state.rows:,}")
            yield part, state
        except BaseException:
            with suppress(OSError):
                _cut_back(part, target)
            raise


def _cut_back(part: IO[bytes], target: Path) -> None:
    """Leave the rows that are written down, and no file at all if there are none."""
    good = None
    with suppress(FileNotFoundError, ValueError, TypeError):
        good = _read_state(target)
    if good is not None and good.rows and part.seek(0, os.SEEK_END) >= good.bytes:
        part.truncate(good.bytes)
        return
    state_path(target).unlink(missing_ok=True)  # first, since a state without a part is harmless
    part_path(target).unlink(missing_ok=True)


def _read_state(target: Path) -> State:
    return State(**json.loads(state_path(target).read_text(encoding="utf-8")))


def resumable(target: Path, fresh: State) -> State:
    """The state to go on from: the one written down if it fits input and model, else `fresh` if nothing is lost."""
    path, part = state_path(target), part_path(target)
    part_bytes = part.stat().st_size if part.exists() else 0
    if part_bytes == 0:
        return fresh
    again = "Delete it to start again"
    if not path.is_file():
        raise InputError(f"{part} stands there without {path.name}, so it cannot be resumed. {again}")
    try:
        state = _read_state(target)
    except (ValueError, TypeError) as error:
        raise InputError(f"{part} cannot be resumed, {path.name} is unreadable: {error}. {again}") from error
    changed = {
        "the input": (state.input_bytes, state.input_sha256_first_mb)
        != (fresh.input_bytes, fresh.input_sha256_first_mb),
        "the model": state.model_sha256 != fresh.model_sha256,
        f"the text column ({listed(state.text_columns)})": state.text_columns != fresh.text_columns,
    }
    if reasons := [what for what, differs in changed.items() if differs]:
        raise InputError(f"{part} cannot be resumed: {' and '.join(reasons)} changed since. {again}")
    if part_bytes < state.bytes:
        log.warning("%s is shorter than written down; starting again", part)
        return fresh
    return state


def write_state(target: Path, state: State) -> None:
    """Write the state aside and move it into place."""
    with files.aside(state_path(target)) as part, open(part, "w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(state)))
