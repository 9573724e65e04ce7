"""A distillation that was made is read again instead of being made again.

Beside a saved student stand its record and what everybody said of the test rows; `once` adds a fingerprint of all that
went in, so that a folder is never taken for the result of other rows, another teacher or other settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slmkit import assets, classify, files
from slmkit.errors import AssetError, InputError
from slmkit.estimator import check_texts
from slmkit.reading import tables
from slmkit.tuning import distil
from slmkit.tuning.distil import FILE, PREDICTIONS, Distilled

MADE_FROM = "made_from.json"
ASKED = 20  # texts by whose answers a teacher is known again


def once(folder: str | Path, teacher: Any, student: Any, texts: Sequence[str], **how: Any) -> Distilled:
    """`slmkit.distill`, saved to a folder; a folder that holds the result of these very arguments is read instead.

    Parameters
    ----------
    folder : path
        New or empty, or what `once` wrote.
    teacher, student, texts, how
        As `slmkit.distill` takes them. A teacher is known again by what it says of the first 20 texts.

    Raises
    ------
    InputError
        A folder that was made from something else.
    """
    final = Path(folder)
    student = distil.student_of(student) if isinstance(student, str) else student
    mark = _fingerprint(teacher, student, texts, how)
    if (final / MADE_FROM).is_file():
        if assets.read_json(final / MADE_FROM).get("sha256") != mark:
            raise InputError(
                f"{final} holds a student that was distilled from other rows, another teacher or with other settings: "
                "remove it, or choose another folder"
            )
        return load(final)
    made = distil.distill(teacher, student, texts, **how)
    made.save(final)
    files.replace(final / MADE_FROM, json.dumps({"sha256": mark}) + "\n")
    return made


def load(folder: str | Path) -> Distilled:
    """What `Distilled.save` wrote, its model loaded when the student is first used.

    Raises
    ------
    InputError, AssetError
        A folder that is no saved student, or without a whole record.
    """
    place = Path(folder)
    student = classify.load_classifier(place)
    record = assets.read_json(place / FILE) if (place / FILE).is_file() else {}
    written = {f.name for f in fields(Distilled)} - {"student", "classes", "predictions"}
    if missing := sorted(written - set(record) - {"leaked"}):
        raise AssetError(f"{place} holds a classifier without the record of a distillation: it lacks {missing[:3]}")
    values = {name: record[name] for name in written if name in record}
    classes = tuple(student.classes_.tolist())
    return Distilled(student=student, classes=classes, predictions=_predictions(place / PREDICTIONS), **values)


def _predictions(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame()
    frame = pd.read_csv(path, keep_default_na=False)
    return frame.map(lambda value: tables.unguarded(value) if isinstance(value, str) else value)


def _fingerprint(teacher: Any, student: Any, texts: Sequence[str], how: dict[str, Any]) -> str:
    pool = check_texts(texts)
    said = np.asarray(teacher.predict_proba(pool[:ASKED])).round(3) + 0.0
    test = how.get("test")
    if isinstance(test, pd.DataFrame):
        test = [test[name].tolist() for name in ("text", "label") if name in test]
    settings = {name: value for name, value in how.items() if name not in ("test", "progress")}
    parts = [type(student).__name__, student.get_params(), pool, said.tolist(), test, settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
