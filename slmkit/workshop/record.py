"""What a student has done so far: one JSON file beside the notebooks, or where `SLMKIT_PROGRESS` says.

It holds names of exercises, tries and times; no answers, no texts, and it is sent nowhere.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slmkit import files

log = logging.getLogger(__name__)
FILE = "slmkit_progress.json"
Entries = dict[str, dict[str, Any]]


def path() -> Path:
    """The file: `SLMKIT_PROGRESS`, else `slmkit_progress.json` in the working folder."""
    return Path(os.environ.get("SLMKIT_PROGRESS") or FILE).expanduser()


def read(file: Path | None = None) -> Entries:
    """What was done, by exercise; empty where nothing was, or the file (`path()` by default) cannot be read."""
    file = file or path()
    try:
        return _parsed(file)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", file, error)
        return {}


def note(name: str, **changes: Any) -> tuple[dict[str, Any], str | None]:
    """Write something down of an exercise, at once or not at all; `tries=1` adds one.

    Returns
    -------
    tuple
        The exercise's entry, and why it could not be kept, or None.
    """
    with suppress(OSError):
        path().parent.mkdir(parents=True, exist_ok=True)
    try:
        with files.locked(path().parent):
            entries = _kept()
            entry = _changed(entries.get(name, {}), changes)
            files.replace(path(), json.dumps({"version": 1, "exercises": entries | {name: entry}}, indent=1) + "\n")
        return entry, None
    except OSError as error:
        return _changed(read().get(name, {}), changes), f"{path()} cannot be written: {error.strerror or error}"


def _kept() -> Entries:
    """What the file holds; one that is damaged is kept under another name, and a new one begun."""
    try:
        return _parsed(path())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        log.warning("%s is damaged (%s): kept as %s.damaged, a new one is begun", path(), error, path().name)
        os.replace(path(), path().with_name(path().name + ".damaged"))
        return {}


def _parsed(file: Path) -> Entries:
    document = json.loads(file.read_text(encoding="utf-8"))
    entries = document.get("exercises") if isinstance(document, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError("it holds no exercises")
    return entries


def _changed(entry: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    now = {key: value for key, value in changes.items() if key != "tries"}
    tries = entry.get("tries", 0) if isinstance(entry.get("tries", 0), int) else 0
    if now.get("passed") and "passed_utc" not in entry:
        now["passed_utc"] = datetime.now(UTC).isoformat(timespec="seconds")
    return {**entry, "tries": tries + changes.get("tries", 0), **now}
