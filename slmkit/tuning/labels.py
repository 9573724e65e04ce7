"""Tunes a model on labels and says what it bought: its accuracy on held-out rows, with the floor's beside it."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import slmkit
from slmkit import assets, backends, data, files, metrics, modelcards, tasks
from slmkit.backends.base import Progress
from slmkit.classify.floor import FloorClassifier
from slmkit.classify.lora import LoRAClassifier
from slmkit.errors import InputError
from slmkit.estimator import read_saved
from slmkit.splits import leaks

log = logging.getLogger(__name__)
FILE = "tuning.json"
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class TunedLabels:
    """What a tuning on labels left.

    Attributes
    ----------
    folder : Path
        The classifier: `slmkit.load_classifier(folder)`, `slmkit classify`.
    task : str
    n_train, n_test : int
        Rows learned (those held back for early stopping among them), and rows scored.
    accuracy, macro_f1 : float
        On the rows scored.
    accuracy_low, accuracy_high : float
        95 % interval (Wilson).
    floor_accuracy, floor_macro_f1 : float
        Of a word-count classifier without a language model, learned and scored on the same rows.
    p_vs_floor : float
        Exact McNemar test on the same rows.
    leaked_test_rows : int
        Test rows of which a copy or near-copy was learned.
    """

    folder: Path
    task: str
    n_train: int
    n_test: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    macro_f1: float
    floor_accuracy: float
    floor_macro_f1: float
    p_vs_floor: float
    leaked_test_rows: int

    @property
    def sentence(self) -> str:
        """Whether the tuning was worth it, in words."""
        gain = 100 * (self.accuracy - self.floor_accuracy)
        measured = f"{gain:+.1f} points on {self.n_test:,} rows, p = {self.p_vs_floor:.2g}"
        if self.p_vs_floor >= SIGNIFICANT:
            return f"It does not beat the floor: no difference that these rows could show ({measured})"
        return f"It {'beats the floor' if gain > 0 else 'is worse than the floor'} ({measured})"


def tune_labels(
    model: str,
    data_set: Any,
    *,
    out: str | Path,
    text_column: str | None = None,
    label_column: str | None = None,
    train: int | None = None,
    test: int | None = None,
    seed: int = 0,
    keep_partial: bool = False,
    progress: Progress | None = None,
    **params: Any,
) -> TunedLabels:
    """Tune a classifier on a task's rows, score it on rows it has not seen, and save it with its score.

    Parameters
    ----------
    model : str
        As `slmkit.load` takes it: a decoder or an encoder.
    data_set : str, Path or DataFrame
        A task's name, or a table with texts and labels.
    out : path
        A new or an empty folder. It appears when all is done, or not at all. Until then OUT.partial beside it holds
        checkpoints, and the same call goes on from them; where a kill left some beside a complete folder, it removes
        them and returns what is there.
    text_column, label_column : str or None
        Of a table; None guesses them.
    train, test : int or None
        Rows to learn, all that are left by default, and rows to score, a fifth by default. Copies, near-copies and
        groups stay on one side.
    seed : int
        Of the split and of the training.
    keep_partial : bool
        Learn no further: keep what OUT.partial holds, as it is.
    progress : callable or None
        Gets the events of `Backend.train_lora`.
    params
        Of `slmkit.LoRAClassifier`.

    Raises
    ------
    InputError, AssetError, NotEnoughMemory
        Unusable settings, rows or model; a folder that holds something; no room for it.
    """
    folder = Path(out)
    partial = folder.with_name(folder.name + ".partial")
    ended = _ended(folder, partial)
    if ended is None:
        new_folder(folder)
    task = tasks.get(data_set, text_column, label_column)
    if not task.labels:
        raise InputError(f"task {task.name!r} turns texts into texts; labels are needed")
    split = data.split(task.load(), seed=seed, train=train, test=test)
    for note in split.warnings:
        log.warning("%s: %s", task.name, note)
    leaked = leaks.check({"train": split.train, "test": split.test}, within=False).n_leaking
    texts, labels = split.train["text"].tolist(), split.train["label"].tolist()
    asked, truth = split.test["text"].tolist(), split.test["label"].tolist()
    tuned = LoRAClassifier(model, seed=seed, **params)
    tuned.progress, tuned.checkpoints, tuned.keeps_checkpoints = progress, partial, True
    if ended is not None:
        return _as_before(folder, ended, {"task": task.name, "n_train": len(texts), "params": tuned.get_params()})
    if keep_partial:
        if backends.unfinished(partial) is None:
            raise InputError(f"{partial} holds no checkpoint: there is nothing to keep")
        tuned.stop = threading.Event()
        tuned.stop.set()
    tuned.fit(texts, labels)
    floor = FloorClassifier().fit(texts, labels)
    proba, floor_proba = tuned.predict_proba(asked), floor.predict_proba(asked)
    tuned.release()
    classes = [str(name) for name in tuned.classes_]
    own, floors = (metrics.score(truth, p, classes, positive=task.positive, seed=seed) for p in (proba, floor_proba))
    right, floor_right = (
        np.asarray(tuned.classes_)[p.argmax(axis=1)].astype(str) == truth for p in (proba, floor_proba)
    )
    told = TunedLabels(
        folder=folder,
        task=task.name,
        n_train=len(texts),
        n_test=len(truth),
        **{name: own[name] for name in ("accuracy", "accuracy_low", "accuracy_high", "macro_f1")},
        floor_accuracy=floors["accuracy"],
        floor_macro_f1=floors["macro_f1"],
        p_vs_floor=float(metrics.mcnemar(right, floor_right)["p"]),
        leaked_test_rows=leaked,
    )
    facts = {"slmkit": slmkit.__version__, "seed": seed, "model": model, "revision": tuned.revision_}
    facts |= {**asdict(told), "folder": None, "scores": own, "floor": floors}
    with files.on_disk(folder), assets.atomic_folder(folder) as aside:
        tuned.save(aside)
        score = modelcards.Score(
            "accuracy", told.accuracy, told.accuracy_low, told.accuracy_high, f"{told.n_test:,} rows"
        )
        below = modelcards.Score("accuracy of the floor", told.floor_accuracy, n=f"{told.n_test:,} rows")
        known = modelcards.Data(task.name, task.licence, f"{told.n_train:,} learned, {told.n_test:,} scored")
        tuned.write_card(aside, data=known, scores=[score, below])
        (aside / FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if "stopped" not in tuned.history_[-1]:
        backends.clear_checkpoints(partial)
    return told


def _ended(folder: Path, partial: Path) -> dict[str, Any] | None:
    """What a call wrote that was killed when all was in place but its checkpoints, which are removed; else None."""
    if not (folder / FILE).is_file() or assets.problem_with(folder):
        return None
    saved = read_saved(folder)
    told: dict[str, Any] = assets.read_json(folder / FILE) | {"params": saved["params"]}
    return told if backends.clear_ended(partial, saved["state"]["history"]) else None


def _as_before(folder: Path, ended: Mapping[str, Any], asked: Mapping[str, Any]) -> TunedLabels:
    """The tuning that ended, if it is the one asked for."""
    if changed := [name for name in asked if asked[name] != ended.get(name)]:
        raise InputError(
            f"out must be a new or an empty folder; {folder} holds a complete tuning with another {', '.join(changed)}"
        )
    log.warning("the work is done: %s is complete, and the checkpoints that a kill left beside it are removed", folder)
    return TunedLabels(**{name: ended[name] for name in TunedLabels.__dataclass_fields__} | {"folder": folder})


def new_folder(out: str | Path) -> Path:
    """A path to write to; `InputError` for one that holds something or lies in none that can be written."""
    folder = Path(out)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"out must be a new or an empty folder; {folder} exists. Choose another one or remove it")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise InputError(
            f"out must lie where this user may write; {above} is {'read-only' if above.is_dir() else 'a file'}"
        )
    return folder
