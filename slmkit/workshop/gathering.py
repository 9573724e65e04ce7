"""The exports of a class as one table. A file of somebody else is read as data: nothing is unpacked or trusted.

A record counts if it has what a table needs, in the right types and ranges; whatever else comes is named and left out.
"""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from slmkit import text
from slmkit.errors import InputError
from slmkit.runs import Run
from slmkit.runs.configurations import FOOTPRINTS, METHOD_WORDS, is_recorded, machine_name, model_name
from slmkit.workshop.exercise import exercises

MAX_MEMBER_BYTES, MAX_BYTES, MAX_MEMBERS = 2_000_000, 100_000_000, 20_000
COSTS = {"stored_bytes": "stored_MB", "peak_ram_bytes": "peak_memory_MB", "latency_p50_s": "latency_ms"}
COSTS |= {"energy_j_per_1000_rows": "J_per_1000_rows"}
COLUMNS = [
    *("student", "task", "configuration", "method", "model", "bits", "seed", "n_train", "n_test"),
    *("accuracy", "low", "high", *COSTS.values(), "origin", "machine"),
]
FIGURES = ("accuracy", "accuracy_low", "accuracy_high")
TEXTS = ("run_id", "task", "method", "created_utc")
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile, RuntimeError)


@dataclass(frozen=True)
class Gathered:
    """What a class handed in.

    Attributes
    ----------
    runs : DataFrame
        A row a run: student (the file's name without .zip), task, configuration, method, model, bits, seed, n_train,
        n_test, accuracy with low and high, stored_MB, peak_memory_MB, latency_ms, J_per_1000_rows, origin ("measured",
        or "recorded" earlier on another machine) and machine.
    progress : DataFrame
        A row a student, a column an exercise: "done", "3 tries" or "".
    problems : list of str
        Files and members that could not be read, with the reason.
    """

    runs: pd.DataFrame
    progress: pd.DataFrame
    problems: list[str]


def gather(folder: str | Path) -> Gathered:
    """Read all exports (`slmkit export`) in a folder; each is named after its student: `ada.zip`.

    Raises `InputError` where there is no folder, or no .zip in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"no folder of exports at {root}")
    paths = sorted(path for path in root.iterdir() if path.suffix.lower() == ".zip" and path.is_file())
    if not paths:
        raise InputError(f"no export in {root}: students make one with `slmkit export -o NAME.zip`")
    rows: list[dict[str, Any]] = []
    progress: dict[str, dict[str, str]] = {}
    problems: list[str] = []
    for path in paths:
        student = text.clean(path.stem, 40)
        try:
            runs, done = _read(path, student, problems)
        except BROKEN as error:
            problems.append(f"{student}: no export that can be read ({_why(error)})")
            continue
        rows += [_row(student, run) for run in runs]
        progress[student] = {name: _state(done.get(name)) for name in exercises()}
    return Gathered(pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame.from_dict(progress, orient="index"), problems)


def _read(path: Path, student: str, problems: list[str]) -> tuple[list[Run], dict[str, Any]]:
    """The records and the progress of one export; of records that are there twice one."""
    runs: dict[str, Run] = {}
    done: dict[str, Any] = {}
    with zipfile.ZipFile(path) as opened:
        members = opened.infolist()
        if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_BYTES:
            raise ValueError(f"more than {MAX_MEMBERS:,} files or {MAX_BYTES / 1e6:.0f} MB when unpacked")
        for member in members:
            if not member.filename.endswith(".json") or not member.filename.startswith(("runs/", "progress.json")):
                continue
            try:
                values = _json(opened, member)
                if member.filename == "progress.json":
                    done = {str(name): entry for name, entry in values["exercises"].items()}
                else:
                    run = _sound(values)
                    runs[run.run_id] = run
            except BROKEN as error:
                problems.append(f"{student}: {text.clean(member.filename, 80)} left out ({_why(error)})")
    return list(runs.values()), done


def _json(opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    with opened.open(member) as stream:  # the size in the directory may lie: no more than this is ever read
        document = stream.read(MAX_MEMBER_BYTES + 1)
    if len(document) > MAX_MEMBER_BYTES:
        raise ValueError("too large")
    return json.loads(document)


def _sound(values: dict[str, Any]) -> Run:
    """A record whose fields can stand in a table; `ValueError` says which cannot."""
    known = {field.name for field in fields(Run)}
    run = Run(**{key: value for key, value in values.items() if key in known})
    for name in TEXTS:
        if not isinstance(getattr(run, name), str):
            raise ValueError(f"{name} is no text")
    for name in FIGURES:
        if not _between(getattr(run, name), 0, 1):
            raise ValueError(f"{name} is no share")
    for name in ("n_train", "n_test", "seed"):
        if not isinstance(getattr(run, name), int):
            raise ValueError(f"{name} is no whole number")
    for name in ("peak_device_bytes", *COSTS):
        if getattr(run, name) is not None and not _between(getattr(run, name), 0, 1e15):
            raise ValueError(f"{name} is no size")
    if run.bits not in (None, 4, 8, 16) or not isinstance(run.model, str | None):
        raise ValueError("bits or model are of no kind that slmkit writes")
    if not all(isinstance(value, dict) for value in (run.machine, run.origins, run.params)):
        raise ValueError("machine, origins or params are no objects")
    return run


def _between(value: object, low: float, high: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and low <= value <= high  # type: ignore[arg-type, operator]


def _row(student: str, run: Run) -> dict[str, Any]:
    method = METHOD_WORDS.get(run.method) or text.clean(run.method, 30)
    shots = run.params.get("shots")
    parts = [model_name(run.model), method, f"{run.bits} bits" if run.bits else ""]
    parts += [f"{shots} shots"] if _between(shots, 1, 1000) else []
    row: dict[str, Any] = {
        "student": student,
        "task": text.clean(run.task, 60),
        "configuration": ", ".join(filter(None, parts)),
    }
    row |= {"method": text.clean(run.method, 30), "model": model_name(run.model), "bits": run.bits, "seed": run.seed}
    row |= {"n_train": run.n_train, "n_test": run.n_test}
    row |= {"accuracy": run.accuracy, "low": run.accuracy_low, "high": run.accuracy_high}
    row |= {name: FOOTPRINTS[key].of(run) for key, name in COSTS.items()}
    return row | {"origin": "recorded" if is_recorded(run) else "measured", "machine": machine_name(run.machine)}


def _state(entry: Any) -> str:
    if not isinstance(entry, dict):
        return ""
    tries = entry.get("tries")
    return "done" if entry.get("passed") is True else f"{tries} tries" if _between(tries, 1, 1e6) else ""


def _why(error: BaseException) -> str:
    return text.clean(f"{type(error).__name__}: {error}", 120)
