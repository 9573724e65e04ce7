"""Evaluates one model with one method on one task, in the child process this module is: the one place where a score and
its footprint meet and become a `Run`.

Stages, each in a process of its own where memory is to be compared: `prepare` makes quantised copies, `fit` trains,
`score` predicts and measures. Methods that train no weights fit and score in one process.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import slmkit
from slmkit import assets, backends, classify, footprint, jobs, metrics, modelcards
from slmkit.jobs import nursery
from slmkit.runs import FIGURES, PROBABILITIES, Run, probability_frame, read_probability_file, write_run

FIT_FACTS = "fit.json"
OWN_ARGUMENTS = frozenset({"model", "bits", "backend", "seed"})  # fields of a Run by themselves, not part of `params`
SCORES = "accuracy accuracy_low accuracy_high macro_f1 mcc ece recall_by_class pr_auc recall_at_1pct_fpr intervals"
COSTS = "latency_p50_s latency_p95_s rows_per_s energy_j_per_1000_rows energy_origin peak_ram_bytes peak_device_bytes"
KNOWN = "model revision base_revision backend bits scheme stored_bytes adapter_bytes load_s"


@dataclass(frozen=True)
class Job:
    """One evaluation, in values that survive JSON.

    Attributes
    ----------
    run_id : str
    task : dict
        name, positive, licence.
    data_sha256 : str
        Of the task's rows.
    split_file : str
        Parquet with columns row, text, label, part ("train" or "test").
    out : str
        The study's folder.
    method : str
        A key of `classify.METHODS`.
    model, backend : str or None
        None for the floor.
    bits : int or None
    params : dict
        Arguments of the method beside model, bits, backend and seed.
    seed : int
    measure_s : float
        About how long latency, throughput and energy are measured.
    split : dict
        kind ("seeded" or "given"), sha256 of its rows, and how many test rows leak.
    floor, twin : str or None
        Probabilities of the floor and of the same method at 16 bits, for the paired tests.
    """

    run_id: str
    task: dict[str, Any]
    data_sha256: str
    split_file: str
    out: str
    method: str
    model: str | None
    backend: str | None
    bits: int | None
    params: dict[str, Any]
    seed: int
    measure_s: float = 10.0
    split: dict[str, Any] = field(default_factory=dict)
    floor: str | None = None
    twin: str | None = None

    @property
    def model_folder(self) -> Path:
        """Where the fitted classifier is kept."""
        return Path(self.out) / "models" / self.run_id

    def rows(self, part: str) -> pd.DataFrame:
        """Rows of one part, "train" or "test"."""
        frame = pd.read_parquet(self.split_file)
        return frame[frame["part"] == part]

    def estimator(self) -> Any:
        """The unfitted classifier, with the arguments of this job that its class has."""
        kind = classify.METHODS[self.method]
        given = {"model": self.model, "bits": self.bits, "backend": self.backend, "seed": self.seed, **self.params}
        known = kind().get_params()
        return kind(**{name: value for name, value in given.items() if name in known})


def evaluate(message: dict[str, Any], emit: jobs.Emit) -> dict[str, Any]:
    """Do one stage of a job.

    Parameters
    ----------
    message : dict
        `stage`, a key of `STAGES`, and what that stage takes: `backend`, `models` or `job`.
    emit : callable
        Gets progress events.

    Returns
    -------
    dict
        What that stage found: `backend`, `errors`, `fit_s` and `fit_peak_ram_bytes`, or `run_file`.
    """
    return STAGES[message["stage"]](message, emit)


def probe(message: Mapping[str, Any], emit: jobs.Emit) -> dict[str, Any]:
    """Name of the backend that would be used: probing imports it, which the parent does not want to pay for."""
    return {"backend": backends.choose(message["backend"]).name}


def prepare(message: Mapping[str, Any], emit: jobs.Emit) -> dict[str, Any]:
    """Make de-quantised and quantised copies of models, so that no measured peak contains that work.

    A model that cannot be prepared is left to its own evaluation, which then says why.
    """
    errors = []
    for name, bits, backend in message["models"]:
        emit({"event": "progress", "stage": f"prepare {name} in {bits} bits"})
        try:
            backends.load(name, bits=bits, backend=backend).release()
        except Exception as error:
            errors.append(f"{name}, {bits} bits: {jobs.describe(error, assets.cache_dir())}")
    return {"errors": errors}


def fit(message: Mapping[str, Any], emit: jobs.Emit) -> dict[str, Any]:
    """Fit and save; the facts of the fit are kept beside the model, so that a killed study need not train again."""
    job = _ready(message)
    estimator, facts = _fit(job, emit)
    _save(estimator, job, facts)
    return facts


def score(message: Mapping[str, Any], emit: jobs.Emit) -> dict[str, Any]:
    """Predict the test rows, measure what that costs, and write the run. Loads what `fit` saved, or fits here."""
    job = _ready(message)
    facts = fitted(job)
    if facts is None:
        estimator, facts = _fit(job, emit)
        _save(estimator, job, facts)
    else:
        estimator = classify.load(job.model_folder)
    emit({"event": "progress", "stage": "score"})
    test = job.rows("test")
    texts, y = test["text"].tolist(), test["label"].tolist()
    proba = estimator.predict_proba(texts)
    classes = [str(c) for c in estimator.classes_]
    scores = metrics.score(y, proba, classes, positive=job.task["positive"], seed=job.seed)
    emit({"event": "progress", "stage": "measure"})
    costs = _costs(estimator, texts, job.measure_s)
    frame = probability_frame(test["row"].to_numpy(), y, proba, classes)
    run = assemble(job, estimator, {**_only(scores, SCORES), **_only(costs, COSTS), **facts}, frame)
    _write_card(estimator, run, job.model_folder)
    return {"run_file": str(write_run(run, Path(job.out), frame))}


def fitted(job: Job) -> dict[str, Any] | None:
    """Facts of a fit that is finished and whole on disk, or None."""
    folder = job.model_folder
    if not (folder / FIT_FACTS).is_file() or not assets.is_whole(folder):
        return None
    facts: dict[str, Any] = json.loads((folder / FIT_FACTS).read_text(encoding="utf-8"))
    return facts


def assemble(job: Job, estimator: Any, figures: Mapping[str, Any], frame: pd.DataFrame) -> Run:
    """Put identity, scores and costs together into a `Run`; no figure without its origin."""
    known = estimator.facts()
    train, test = job.rows("train"), job.rows("test")
    stored, parameters = known.get("stored_bytes"), known.get("n_parameters")
    values = {
        **figures,
        **_only(known, KNOWN),
        "bytes_per_parameter": stored / parameters if stored and parameters else None,
        "p_vs_floor": paired_p(frame, job.floor),
        "p_vs_16bit": paired_p(frame, job.twin),
    }
    return Run(
        run_id=job.run_id,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        slmkit_version=slmkit.__version__,
        versions=footprint.versions(),
        machine={**footprint.machine(), "device": known.get("device")},
        task=job.task["name"],
        data_sha256=job.data_sha256,
        licence=job.task["licence"],
        n_train=len(train),
        n_test=len(test),
        method=job.method,
        params=_params(estimator),
        seed=job.seed,
        split=job.split.get("kind"),
        split_sha256=job.split.get("sha256"),
        leaked_test_rows=job.split.get("leaked_test_rows"),
        origins=_origins(values),
        **_plain(values),
    )


def paired_p(frame: pd.DataFrame, other: str | Path | None) -> float | None:
    """Exact McNemar p of these predictions against those of another run on the very same rows.

    Parameters
    ----------
    frame : DataFrame
        As `runs.probability_frame` makes it.
    other : path or None
        The other run's probabilities. None, a missing file or other rows give None: unknown, not 1.
    """
    if other is None or not Path(other).is_file():
        return None
    theirs = read_probability_file(Path(other))
    both = frame.merge(theirs, on="row", suffixes=("", "_other"), validate="one_to_one")
    if len(both) != len(frame) or len(both) != len(theirs) or (both["label"] != both["label_other"]).any():
        return None
    right = (both["predicted"] == both["label"]).to_numpy()
    return float(metrics.mcnemar(right, (both["predicted_other"] == both["label"]).to_numpy())["p"])


def probabilities_file(run: Run, out: Path) -> Path:
    """Where a run's per-example probabilities lie."""
    return out / f"{run.stem}{PROBABILITIES}"


def _ready(message: Mapping[str, Any]) -> Job:
    """The job, with its engine imported: no time that is measured contains that."""
    job = Job(**message["job"])
    nursery.import_all(backends.imports(job.backend) if job.backend else ())
    return job


def _fit(job: Job, emit: jobs.Emit) -> tuple[Any, dict[str, Any]]:
    """A fitted classifier, and fit_s (loading included) and fit_peak_ram_bytes."""
    estimator = job.estimator()
    emit({"event": "progress", "stage": "fit"})
    estimator.progress = lambda facts: emit({**facts, "event": "progress", "stage": "fit"})
    train = job.rows("train")
    began = time.perf_counter()
    estimator.fit(train["text"].tolist(), train["label"].tolist())
    return estimator, {"fit_s": time.perf_counter() - began, "fit_peak_ram_bytes": footprint.peak_ram_bytes()}


def _save(estimator: Any, job: Job, facts: Mapping[str, Any]) -> None:
    with assets.atomic_folder(job.model_folder) as folder:
        estimator.save(folder)
        (folder / FIT_FACTS).write_text(json.dumps(facts), encoding="utf-8")


def _write_card(estimator: Any, run: Run, folder: Path) -> None:
    """What a kept model scored, into its card, where its kind has one."""
    if not hasattr(estimator, "write_card"):
        return
    n, (low, high) = f"{run.n_test} test rows", run.intervals.get("macro_f1") or (None, None)
    scores = [
        modelcards.Score("accuracy, %", 100 * run.accuracy, 100 * run.accuracy_low, 100 * run.accuracy_high, n),
        modelcards.Score("macro-F1", run.macro_f1, low, high, n),
    ]
    rows = f"{run.n_train} learned, {run.n_test} tested, split {run.split or 'not known'}"
    data = modelcards.Data(run.task, run.licence, rows, run.data_sha256, None)
    estimator.write_card(folder, data=data, scores=scores)
    assets.write_manifest(folder)  # a kill between these two lines costs a new fit


def _costs(estimator: Any, texts: list[str], seconds: float) -> dict[str, Any]:
    device = estimator.facts().get("device") or "cpu"
    return footprint.measure(
        estimator.predict_proba,
        texts,
        synchronize=estimator.synchronize,
        device_peak=getattr(estimator, "peak_device_bytes", lambda: None),
        device=device,
        time_budget_s=seconds,
    )


def _params(estimator: Any) -> dict[str, Any]:
    return {
        name: _plain(value)
        for name, value in estimator.settled(estimator.get_params()).items()
        if name not in OWN_ARGUMENTS
    }


def _origins(values: Mapping[str, Any]) -> dict[str, str]:
    found = {name: "measured" for name in FIGURES if values.get(name) is not None}
    if "energy_j_per_1000_rows" in found and values.get("energy_origin") == "modelled":
        found["energy_j_per_1000_rows"] = "estimated"
    return found


def _only(values: Mapping[str, Any], names: str) -> dict[str, Any]:
    return {name: values.get(name) for name in names.split()}


def _plain(value: Any) -> Any:
    """JSON values: NumPy's become Python's, tuples lists, and a figure that is not a number becomes unknown."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


STAGES = {"probe": probe, "prepare": prepare, "fit": fit, "score": score}


def main() -> None:
    """Be the child."""
    jobs.serve(evaluate)


if __name__ == "__main__":
    main()
