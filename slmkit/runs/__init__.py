"""The record of one evaluation: a frozen `Run`, one JSON file each, beside it a CSV of per-example probabilities.

Keys are flat and carry their unit; what is unknown is null, never 0. A run file is written last and at once, so a file
that exists is complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slmkit import files
from slmkit.errors import InputError
from slmkit.reading import tables

PROBABILITIES = ".probabilities.csv"
FIGURES = (  # the keys of a run that were measured, and so have an origin
    "accuracy",
    "macro_f1",
    "mcc",
    "ece",
    "recall_by_class",
    "pr_auc",
    "recall_at_1pct_fpr",
    "stored_bytes",
    "adapter_bytes",
    "bytes_per_parameter",
    "peak_ram_bytes",
    "peak_device_bytes",
    "fit_peak_ram_bytes",
    "load_s",
    "fit_s",
    "latency_p50_s",
    "latency_p95_s",
    "rows_per_s",
    "energy_j_per_1000_rows",
    "p_vs_floor",
    "p_vs_16bit",
)


@dataclass(frozen=True)
class Run:
    """One model, one method, one task, one seed: what it scored and what it cost.

    Fields hold JSON values only. `intervals` maps a score's name to its 95 % interval [low, high]; `origins` maps each
    figure to "measured", "estimated" or "recorded" (measured earlier, on the machine named in `machine`).
    """

    run_id: str
    created_utc: str
    slmkit_version: str
    versions: dict[str, str]
    machine: dict[str, Any]
    task: str
    data_sha256: str
    licence: str
    n_train: int
    n_test: int
    model: str | None
    revision: str | None
    backend: str | None
    bits: int | None
    scheme: str | None
    method: str
    params: dict[str, Any]
    seed: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    macro_f1: float
    mcc: float
    ece: float
    recall_by_class: dict[str, float]
    pr_auc: float | None = None
    recall_at_1pct_fpr: float | None = None
    stored_bytes: int | None = None
    adapter_bytes: int | None = None
    bytes_per_parameter: float | None = None
    peak_ram_bytes: int | None = None
    peak_device_bytes: int | None = None
    load_s: float | None = None
    fit_s: float | None = None
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    rows_per_s: float | None = None
    energy_j_per_1000_rows: float | None = None
    energy_origin: str | None = None
    p_vs_floor: float | None = None
    p_vs_16bit: float | None = None
    fit_peak_ram_bytes: int | None = None
    split: str | None = None  # "seeded" by slmkit, or "given" with the data
    split_sha256: str | None = None
    base_revision: str | None = None  # of the model that a stored quantised one was made from
    leaked_test_rows: int | None = None  # test rows that stand in train by the leak guard; None: it was not asked
    intervals: dict[str, list[float]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What a picture calls this run: "SmolLM2 + lora, 4 bits"."""
        if self.model is None:
            return f"{self.method} (TF-IDF)" if self.method == "floor" else self.method
        return f"{self.model} + {self.method}, {self.bits} bits"

    @property
    def stem(self) -> str:
        """File name without its ending."""
        parts = [
            self.task,
            self.method,
            self.model or "",
            f"{self.bits}bit" if self.bits else "",
            f"s{self.seed}",
            self.run_id,
        ]
        return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", p)[:40] for p in parts if p)


def write_run(run: Run, folder: Path, probabilities: pd.DataFrame | None = None) -> Path:
    """Write a run's JSON, its probabilities first, each aside and then moved into place.

    Parameters
    ----------
    run : Run
    folder : Path
        Made if missing.
    probabilities : DataFrame or None
        Columns `row` (position in the task's de-duplicated frame), `label`, `predicted` and one `p_<class>` a class.

    Returns
    -------
    Path
        The JSON file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if probabilities is not None:
        files.replace(folder / f"{run.stem}{PROBABILITIES}", probability_document(probabilities))
    path = folder / f"{run.stem}.json"
    files.replace(path, json.dumps(asdict(run), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def probability_document(frame: pd.DataFrame) -> str:
    """Per-example probabilities as a CSV in which no label can be a formula; `read_probability_file` reads it."""
    cells = frame.assign(**{c: frame[c].map(tables.guarded) for c in ("label", "predicted")})
    return cells.to_csv(index=False, lineterminator="\n", float_format="%.6g")


def read_run(path: Path) -> Run:
    """Read one run file; `InputError` names the file and what is wrong with it."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a run file: {error}") from error
    known = {f.name for f in fields(Run)}
    needed = [f.name for f in fields(Run) if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if not isinstance(values, dict) or name not in values]
    if missing:
        raise InputError(f"{path} is not a run file: it lacks {', '.join(missing[:5])}")
    return Run(**{key: value for key, value in values.items() if key in known})


def read_runs(folder: Path, *, recorded: bool = False) -> list[Run]:
    """All runs of a folder, sorted by file name.

    Parameters
    ----------
    folder : Path
    recorded : bool
        Mark every measured figure as "recorded": it was measured earlier, on the machine the run names.
    """
    if not Path(folder).is_dir():
        raise InputError(f"no folder of runs at {folder}")
    runs = [read_run(path) for path in sorted(Path(folder).glob("*.json"))]
    if recorded:
        runs = [
            replace(r, origins={k: "recorded" if v == "measured" else v for k, v in r.origins.items()}) for r in runs
        ]
    return runs


def read_probabilities(run: Run, folder: Path) -> pd.DataFrame:
    """The per-example probabilities of a run, columns as `write_run` describes them."""
    path = Path(folder) / f"{run.stem}{PROBABILITIES}"
    if not path.is_file():
        raise InputError(f"run {run.run_id} has no probabilities at {path}")
    return read_probability_file(path)


def read_probability_file(path: Path) -> pd.DataFrame:
    """A file of per-example probabilities; labels come back as they were, whatever a spreadsheet would make of them."""
    frame = pd.read_csv(path, dtype={"label": str, "predicted": str}, keep_default_na=False)
    return frame.assign(**{c: frame[c].map(tables.unguarded) for c in ("label", "predicted")})


def to_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Runs as a frame, one row a run, columns named as the fields."""
    return pd.DataFrame([asdict(run) for run in runs], columns=[f.name for f in fields(Run)])


def probability_frame(rows: np.ndarray, y: Sequence[str], proba: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Per-example frame from positions (n,), labels (n,), probabilities (n, n_classes) and the classes' names."""
    frame = pd.DataFrame({"row": rows, "label": list(y), "predicted": [classes[i] for i in proba.argmax(axis=1)]})
    for column, name in enumerate(classes):
        frame[f"p_{name}"] = proba[:, column]
    return frame
