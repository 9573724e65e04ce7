"""A remembered teacher is asked once a text, is the same teacher, and is timed as itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tuning_rows import risen_or_fallen

from slmkit.classify import EmbeddingClassifier, FloorClassifier
from slmkit.errors import AssetError
from slmkit.tuning import retention
from slmkit.tuning.distil import distill
from slmkit.tuning.remembered import Remembered

TEXTS = risen_or_fallen(40)
LABELS = ["up" if i % 2 else "down" for i in range(40)]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return FloorClassifier().fit(TEXTS, LABELS).save(tmp_path / "teacher")


class Counting:
    """A classifier that counts what it is asked."""

    def __init__(self, classifier: FloorClassifier) -> None:
        self.classifier, self.asked = classifier, 0

    def predict_proba(self, texts: list[str]) -> np.ndarray:
        self.asked += len(texts)
        return self.classifier.predict_proba(texts)


def test_each_text_is_asked_once_also_by_the_next_run(saved: Path) -> None:
    first = Remembered(saved)
    counting = Counting(first.classifier)
    first._classifier = counting  # type: ignore[assignment]
    told = first.predict_proba([*TEXTS[:10], TEXTS[0]])
    np.testing.assert_allclose(told, counting.classifier.predict_proba([*TEXTS[:10], TEXTS[0]]), atol=1e-6)
    assert counting.asked == 10, "a text that stands there twice is asked once"
    first.predict_proba(TEXTS[5:15])
    assert counting.asked == 15
    later = Remembered(saved)
    np.testing.assert_array_equal(later.predict_proba(TEXTS[:10]), told[:10])
    assert later._classifier is None, "nothing was loaded"
    assert later.predict(TEXTS[:2]).tolist() == ["down", "up"] and later.predict_proba([]).shape == (0, 2)


def test_another_teacher_of_that_name_is_asked_anew(saved: Path) -> None:
    before = Remembered(saved)
    before.predict_proba(TEXTS)
    FloorClassifier().fit(TEXTS, LABELS[1:] + ["up"]).save(saved)
    after = Remembered(saved)
    assert (
        after.file != before.file
        and after.predict_proba(TEXTS[:1]).argmax() != before.predict_proba(TEXTS[:1]).argmax()
    )


def test_students_learn_the_same_of_it_and_it_is_timed_itself(saved: Path) -> None:
    teacher = Remembered(saved)
    teacher.predict_proba(TEXTS)
    pool, test = TEXTS[:30], (TEXTS[30:], LABELS[30:])
    direct = distill(teacher.classifier, "floor", pool, test=test, measure_s=0)
    made = distill(teacher, "floor", pool, test=test, measure_s=0)
    assert made.predictions.equals(direct.predictions) and made.costs["teacher"]["class"] == "FloorClassifier"
    slow = Remembered(EmbeddingClassifier("dummy").fit(TEXTS, LABELS).save(saved.parent / "slow"))
    slow.predict_proba(TEXTS)
    own, kept = (retention.costs(one, TEXTS[:5], 0.3)["latency_p50_s"] for one in (slow.classifier, slow))
    assert kept > own / 5


def test_a_file_that_was_altered_is_named(saved: Path) -> None:
    teacher = Remembered(saved)
    teacher.predict_proba(TEXTS[:2])
    teacher.file.write_text("text,p_0\nabc,0.5\n")
    with pytest.raises(AssetError, match="teacher-said-.*does not hold probabilities of 2 classes: remove it"):
        Remembered(saved)
    teacher.file.write_text("text,p_0,p_1\nabc,0.5,none of it\n")
    with pytest.raises(AssetError, match="cannot be read .*: remove it"):
        Remembered(saved)
