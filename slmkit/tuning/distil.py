"""`slmkit.distill`: a small student learns what a teacher thinks of many texts, labelled or not.

What is handed over are probabilities of labels (Hinton et al. 2015, arXiv 1503.02531), so that teacher and student need
share neither tokenizer nor kind: a tuned model teaches word counts. The pool is cleared of all test rows and their
near-copies first, since a pool with the test texts in it scores far too well (`benchmarks/leakage.py`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

import slmkit
from slmkit import assets, classify, files, footprint
from slmkit.backends.base import Progress
from slmkit.errors import InputError, listed
from slmkit.estimator import TextClassifier, check_targets, check_texts
from slmkit.reading import tables
from slmkit.splits import leaks
from slmkit.tuning import retention

log = logging.getLogger(__name__)
FILE = "distillation.json"
PREDICTIONS = "predictions.csv"
SAME = 1e-3  # probabilities that differ by less in all rows say nothing about the rows
WHO = ("teacher", "student", "labels alone")


@dataclass(frozen=True)
class Distilled:
    """A student and what is known of it.

    Attributes
    ----------
    student : TextClassifier
        Fitted.
    classes : tuple
    n_pool, n_labelled : int
        Texts the student learned from, and those of them with a label of their own.
    removed : dict of str to int
        Texts of the pool that stood in the test rows, by kind: "exact", "normalised", "near".
    temperature, weight : float
        As asked for.
    agreement : float or None
        Share of the labelled texts on which the teacher says what the label says.
    figures : dict
        As `slmkit.tuning.retention.compare` gives them; empty without labelled test rows.
    costs : dict
        Of "teacher" and "student": what each is, stored_bytes, latency_p50_s, rows_per_s.
    saving : dict
        latency_share, bytes_share, batched_time_share: the student's of the teacher's.
    predictions : DataFrame
        Of each test row: row, label, and what each said. Empty without test rows.
    leaked : dict of str to int
        As `removed`, of texts that were left in the pool since the caller allowed it: the scores are too good then.
    machine, versions : dict
    """

    student: TextClassifier
    classes: tuple[Any, ...]
    n_pool: int
    n_labelled: int
    removed: dict[str, int]
    temperature: float
    weight: float
    agreement: float | None
    figures: dict[str, Any] = field(default_factory=dict)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    saving: dict[str, float | None] = field(default_factory=dict)
    predictions: pd.DataFrame = field(default_factory=pd.DataFrame)
    leaked: dict[str, int] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=footprint.machine)
    versions: dict[str, str] = field(default_factory=footprint.versions)

    @property
    def retention(self) -> float | None:
        """The student's accuracy over the teacher's."""
        return self.figures.get("retention")

    @property
    def gap_closed(self) -> float | None:
        """The part of the way from labels alone to the teacher; None where it was not asked or there is no such gap."""
        return self.figures.get("gap_closed")

    def lines(self) -> list[str]:
        """What came out, in words."""
        removed = sum(self.removed.values())
        cleared = f"; {removed:,} more stood in the test rows and were left out" if removed else ""
        said = [f"learned from {self.n_pool:,} texts, {self.n_labelled:,} of them with a label{cleared}"]
        if leaked := sum(self.leaked.values()):
            said.insert(
                0, f"Leak: {leaked:,} texts of the pool stand in the test rows, as was allowed: too good a score"
            )
        return said + (retention.lines(self.figures, self.saving) if self.figures else [])

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values; the student by its class and parameters."""
        left_out = {"student", "predictions", "classes"}
        shallow = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in left_out}
        made = {"class": type(self.student).__name__, "params": self.student.get_params()}
        return {
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "slmkit_version": slmkit.__version__,
            "classes": [str(name) for name in self.classes],
            "student": made,
            **shallow,
        }

    def save(self, folder: str | Path) -> Path:
        """Write the student, the record and the predictions; `slmkit.load_classifier` and `slmkit classify` read it.

        Parameters
        ----------
        folder : path
            New or empty. It is there when all is written, and not before.
        """
        final = check_new(folder)
        with files.on_disk(final, "nothing was written"), assets.atomic_folder(final) as aside:
            self.student.save(aside)
            (aside / FILE).write_text(json.dumps(self.to_dict(), indent=1, default=str) + "\n", encoding="utf-8")
            if len(self.predictions):
                cells = self.predictions.map(lambda v: tables.guarded(v) if isinstance(v, str) else v)
                cells.to_csv(aside / PREDICTIONS, index=False, lineterminator="\n")
        return final


def check_new(folder: str | Path) -> Path:
    """The folder, if it does not exist or is empty; `InputError` otherwise."""
    found = Path(folder).expanduser()
    if found.is_file() or (found.is_dir() and any(found.iterdir())):
        raise InputError(f"out must be a new or an empty folder; {found} exists. Choose another one or remove it")
    return found


def distill(
    teacher: Any,
    student: Any,
    texts: Sequence[str],
    *,
    labels: Sequence[Any] | None = None,
    test: Any = None,
    temperature: float = 1.0,
    weight: float = 0.5,
    measure_s: float = 3.0,
    allow_leaks: bool = False,
    progress: Progress | None = None,
) -> Distilled:
    """Train a student on what a teacher says of a pool of texts.

    Parameters
    ----------
    teacher : object
        A fitted classifier with `predict_proba` and `classes_`: any of slmkit's, a scikit-learn pipeline, a cascade.
        That it has not seen the test rows is yours to know.
    student : TextClassifier or str
        An unfitted classifier that learns from probabilities (`FloorClassifier`, `EmbeddingClassifier`,
        `LoRAClassifier`); it is cloned. A name stands for one: "floor"; an encoder, whose vectors get a linear head; a
        decoder, such as a folder of `slmkit.prune`, which is tuned.
    texts : sequence of str
        The pool. More texts like those of the test bring more than more passes over few.
    labels : sequence or None
        Labels of the pool's texts where they are known, None where not.
    test : DataFrame, (texts, labels), (texts, None) or None
        Test rows (columns text and label). Copies and near-copies of them are taken out of the pool. With labels,
        teacher and student are scored on them, and so is the same student trained on the pool's labels alone.
    temperature : float
        Above 1 the teacher's probabilities are flattened (each to the power of 1 / temperature), which shows the
        student more of the lesser classes; its own probabilities come out as flat. 1 leaves them, below 1 sharpens.
    weight : float
        How much the teacher counts where a text has a label: 1 is the teacher alone, 0 the label alone.
    measure_s : float
        Seconds spent on timing each of teacher and student; 0 measures nothing.
    allow_leaks : bool
        Leave copies of the test rows in the pool, to see what they do: the record and its words are marked.
    progress : callable or None
        Gets the events of a training of weights.

    Returns
    -------
    Distilled

    Raises
    ------
    InputError
        A teacher or student that is none, or both the same; classes that do not match; a pool with nothing left; a
        teacher that says the same of every text.
    """
    known, student = _checked_pair(teacher, student, temperature, weight)
    pool, codes = _pool(texts, labels, known)
    rows, truth = _test(test, known)
    pool, codes, removed, leaked = _without_test(pool, codes, rows, allow_leaks)
    order = np.argsort(known)
    classes = [known[i] for i in order]
    said = {"teacher": _said(teacher, rows, known)[:, order]} if rows else {}
    costs = {"teacher": retention.costs(teacher, rows, measure_s)} if rows else {}
    targets = _said(teacher, pool, known)
    check_telling(targets, known)
    labelled = np.flatnonzero(codes >= 0)
    agreement = float((targets[labelled].argmax(axis=1) == codes[labelled]).mean()) if len(labelled) else None
    targets = mixed(targets, codes, temperature, weight)[:, order]
    _release(teacher)
    made = _fitted(student, progress).fit_targets(pool, targets, classes)
    if rows:
        said["student"] = made.predict_proba(rows)
        costs["student"] = retention.costs(made, rows, measure_s)
    if truth is not None and len(labelled):
        alone = _fitted(student, progress).fit([pool[i] for i in labelled], [known[codes[i]] for i in labelled])
        said["labels alone"] = _columns(alone, rows, classes)
        _release(alone)
    predicted = {name: np.array(classes, dtype=object)[proba.argmax(axis=1)] for name, proba in said.items()}
    figures, table = _judged(truth, predicted)
    return Distilled(
        student=made,
        classes=tuple(classes),
        n_pool=len(pool),
        n_labelled=len(labelled),
        removed=removed,
        temperature=temperature,
        weight=weight,
        agreement=agreement,
        figures=figures,
        costs=costs,
        saving=retention.saving(costs["teacher"], costs["student"]) if rows else {},
        predictions=table,
        leaked=leaked,
    )


def student_of(name: str) -> TextClassifier:
    """The classifier that a student's name stands for; see `distill`."""
    if name == "floor":
        return classify.FloorClassifier()
    kind = assets.resolve(name).kind
    return classify.EmbeddingClassifier(name) if kind == "encoder" else classify.LoRAClassifier(name)


def mixed(targets: np.ndarray, codes: np.ndarray, temperature: float = 1.0, weight: float = 0.5) -> np.ndarray:
    """What the student is told: the teacher's probabilities at a temperature, mixed with the labels that are known.

    Parameters
    ----------
    targets : ndarray, shape (n, n_classes)
    codes : ndarray of int, shape (n,)
        Class of each row, -1 where it has no label.
    temperature, weight : float
        As `distill` takes them.
    """
    logs = np.log(np.maximum(targets, 1e-12)) / temperature
    found = np.exp(logs - logs.max(axis=1, keepdims=True))
    found /= found.sum(axis=1, keepdims=True)
    labelled = codes >= 0
    found[labelled] *= weight
    found[labelled, codes[labelled]] += 1 - weight
    return np.asarray(found)


def check_telling(targets: np.ndarray, classes: Sequence[Any]) -> None:
    """Refuse probabilities (n, n_classes) from which nothing can be learned: the same for every row."""
    if len(targets) > 1 and float(np.ptp(targets, axis=0).max()) < SAME:
        shown = ", ".join(f"{name} {p:.3f}" for name, p in zip(classes, targets[0], strict=True))
        even = "uniform" if np.ptp(targets[0]) < SAME else "constant"
        raise InputError(
            f"the teacher's targets are {even}: it says the same of all {len(targets):,} texts ({shown}), so there is "
            "nothing to learn. Is it fitted, and does it read the texts?"
        )
    likeliest = targets.argmax(axis=1)
    if len(targets) > 1 and (likeliest == likeliest[0]).all():
        log.warning("the teacher finds %r the likeliest class of all %d texts", classes[likeliest[0]], len(targets))


def _checked_pair(teacher: Any, student: Any, temperature: float, weight: float) -> tuple[list[Any], TextClassifier]:
    wrong = []
    if not hasattr(teacher, "predict_proba") or not hasattr(teacher, "classes_"):
        wrong.append(
            f"teacher must be a fitted classifier with predict_proba and classes_; got {type(teacher).__name__}"
        )
    if isinstance(student, str):
        student = student_of(student)
    if student is teacher:
        wrong.append("teacher and student are the same object: a student needs weights of its own")
    elif not (hasattr(student, "fit_targets") and getattr(student, "learns_targets", False)):
        wrong.append(
            "student must learn from probabilities (FloorClassifier, EmbeddingClassifier, LoRAClassifier, or a name); "
            f"got {type(student).__name__}"
        )
    if not temperature > 0:
        wrong.append(f"temperature must be above 0; got {temperature!r}")
    if not 0 <= weight <= 1:
        wrong.append(f"weight must lie in 0 .. 1; got {weight!r}")
    if wrong:
        raise InputError("; ".join(wrong))
    return np.asarray(teacher.classes_).tolist(), student


def _pool(texts: Sequence[str], labels: Sequence[Any] | None, known: list[Any]) -> tuple[list[str], np.ndarray]:
    """The pool's texts, and the class of each, -1 where it has no label."""
    pool = check_texts(texts)
    given = [None] * len(pool) if labels is None else list(labels)
    if len(given) != len(pool):
        raise InputError(f"labels must be as many as texts, {len(pool)}, with None for those unknown; got {len(given)}")
    return pool, np.array([-1 if pd.isna(label) or label == "" else _code(label, known, "pool") for label in given])


def _test(test: Any, known: list[Any]) -> tuple[list[str], list[Any] | None]:
    """Texts and labels of the test rows; no texts where there are none, None where they have no labels."""
    if test is None:
        return [], None
    if isinstance(test, pd.DataFrame):
        if "text" not in test:
            raise InputError(f"test must have a column text; got {listed(test.columns)}")
        test = (test["text"].tolist(), test["label"].tolist() if "label" in test else None)
    texts, labels = test
    rows = check_texts(texts)
    if labels is None:
        return rows, None
    if len(labels) != len(rows):
        raise InputError(f"test must hold one label a text; got {len(rows)} texts and {len(labels)} labels")
    return rows, [known[_code(label, known, "test")] for label in labels]


def _code(label: Any, known: list[Any], part: str) -> int:
    if label not in known:
        raise InputError(f"label {label!r} in the {part} is no class of the teacher, which knows {listed(known)}")
    return known.index(label)


def _without_test(
    pool: list[str], codes: np.ndarray, rows: list[str], allow_leaks: bool
) -> tuple[list[str], np.ndarray, dict[str, int], dict[str, int]]:
    """The pool without copies and near-copies of the test rows; how many of each kind went, and how many stayed."""
    found = leaks.check({"test": rows, "pool": pool}, within=False).across[0] if rows else None
    if found is None or found.rows.empty:
        return pool, codes, {}, {}
    if allow_leaks:
        log.warning("%s; these stay in the pool, as was allowed", found.sentence())
        return pool, codes, {}, found.counts
    log.warning("%s; these are left out of the pool", found.sentence())
    kept = np.setdiff1d(np.arange(len(pool)), found.rows["row"].to_numpy(dtype=int))
    if not len(kept):
        raise InputError(f"all {len(pool):,} texts of the pool stand in the test rows: nothing is left to learn from")
    return [pool[i] for i in kept], codes[kept], found.counts, {}


def _said(classifier: Any, texts: list[str], known: list[Any]) -> np.ndarray:
    """The teacher's probabilities, checked, float64 (n, n_classes)."""
    try:
        found = check_targets(classifier.predict_proba(texts), len(texts), known)
    except InputError as error:
        raise InputError(f"the teacher ({type(classifier).__name__}) gives no probabilities: {error}") from error
    return found / found.sum(axis=1, keepdims=True)


def _fitted(student: TextClassifier, progress: Progress | None) -> TextClassifier:
    fresh: TextClassifier = clone(student)
    fresh.progress = progress
    return fresh


def _columns(classifier: TextClassifier, rows: list[str], classes: list[Any]) -> np.ndarray:
    """Probabilities with a column for each of `classes`; 0 for those it never saw."""
    found, proba = np.zeros((len(rows), len(classes))), classifier.predict_proba(rows)
    found[:, [classes.index(name) for name in classifier.classes_.tolist()]] = proba
    return found


def _release(classifier: Any) -> None:
    if hasattr(classifier, "release"):
        classifier.release()


def _judged(truth: list[Any] | None, predicted: dict[str, np.ndarray]) -> tuple[dict[str, Any], pd.DataFrame]:
    if not predicted:
        return {}, pd.DataFrame()
    n = len(predicted["teacher"])
    table = pd.DataFrame({"row": range(n), "label": [""] * n if truth is None else truth, **predicted})
    if truth is None:
        return {}, table
    return retention.compare({name: (table[name] == table["label"]).to_numpy() for name in WHO if name in table}), table
