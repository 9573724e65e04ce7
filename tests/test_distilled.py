"""A distillation in a folder is read as it was made, and never taken for another one's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tuning_rows import risen_or_fallen

from slmkit.classify import FloorClassifier
from slmkit.errors import AssetError, InputError
from slmkit.tuning import distil, distilled, retention

TEXTS = risen_or_fallen(90)
LABELS = ["=up" if i % 2 else "down" for i in range(90)]  # a label that a spreadsheet would compute
POOL, TEST = TEXTS[30:60], (TEXTS[60:], LABELS[60:])


@pytest.fixture(scope="module")
def teacher() -> FloorClassifier:
    return FloorClassifier().fit(TEXTS[:30], LABELS[:30])


def test_the_same_call_reads_what_it_made(
    teacher: FloorClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"labels": [LABELS[30], LABELS[31], *[None] * 28], "test": TEST, "measure_s": 0}
    how["labels"][2:6] = LABELS[32:36]
    made = distilled.once(tmp_path / "a", teacher, "floor", POOL, **how)
    monkeypatch.setattr(distil, "distill", lambda *_, **__: pytest.fail("made again"))
    again = distilled.once(tmp_path / "a", teacher, FloorClassifier(), POOL, **how)
    assert again.lines() == made.lines() and again.figures["accuracy"] == made.figures["accuracy"]
    assert again.predictions.equals(made.predictions) and set(again.predictions["label"]) == {"=up", "down"}
    assert again.classes == made.classes == ("=up", "down") and (again.n_pool, again.n_labelled) == (made.n_pool, 6)
    np.testing.assert_allclose(again.student.predict_proba(POOL), made.student.predict_proba(POOL), atol=1e-6)
    assert again.machine == made.machine and again.leaked == {}


@pytest.mark.parametrize(
    "change", [{"weight": 0.9}, {"labels": ["down", *[None] * 29]}, {"test": None}, {"student": FloorClassifier(C=2)}]
)
def test_a_folder_of_something_else_is_refused(teacher: FloorClassifier, tmp_path: Path, change: dict) -> None:
    same = {"student": "floor", "labels": ["=up", *[None] * 29], "test": (TEST[0], None), "measure_s": 0}
    for _ in range(2):
        distilled.once(tmp_path / "a", teacher, texts=POOL, **same)
    with pytest.raises(InputError, match="distilled from other rows, another teacher or with other settings"):
        distilled.once(tmp_path / "a", teacher, texts=POOL, **{**same, **change})
    other = FloorClassifier().fit(TEXTS[:30], LABELS[1:31])
    with pytest.raises(InputError, match="another teacher"):
        distilled.once(tmp_path / "a", other, texts=POOL, **same)


def test_a_classifier_without_a_record_is_no_distillation(teacher: FloorClassifier, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="a classifier without the record of a distillation: it lacks"):
        distilled.load(teacher.save(tmp_path / "plain"))
    with pytest.raises(InputError, match="is not a saved classifier"):
        distilled.load(tmp_path / "none")


def test_students_stand_side_by_side() -> None:
    right = {"teacher": np.arange(100) < 90, "student": np.arange(100) < 80, "labels alone": np.arange(100) < 60}
    found = retention.compare(right)
    bare = retention.compare({name: right[name] for name in ("teacher", "student")})
    saving = {"bytes_share": 0.01, "latency_share": 0.5, "batched_time_share": None}
    table = retention.table({"small": (found, saving), "bare": (bare, {})}).set_index("student")
    small = table.loc["small"]
    assert (small["n"], small["teacher"], small["accuracy"], small["alone"]) == (100, 0.9, 0.8, 0.6)
    assert small["gain"] == pytest.approx(20) and small["gain_low"] < 20 < small["gain_high"]
    assert small["gap_closed"] == pytest.approx(2 / 3) and small["bytes_share"] == 0.01
    assert table.loc["bare", ["alone", "gain", "p", "gap_closed", "bytes_share"]].isna().all()
    scores = retention.scores({"small": found, "bare": bare})
    assert scores["writer"].tolist() == ["teacher", "student", "labels alone", "teacher", "student"]
    assert (scores["low"] < scores["score"]).all() and (scores["n"] == 100).all()
