"""Labelling by hand: the order, every key, and a file that survives kills, undo after a restart and hostile rows."""

from __future__ import annotations

import csv
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sample_runs import HOSTILE

import slmkit
from slmkit.errors import InputError, SlmkitError
from slmkit_widgets.models import labelfile
from slmkit_widgets.models.labelfile import labelled, text_hash
from slmkit_widgets.models.labeller import LabellerModel

LABELS = ["legitimate", "fraud"]
TEXTS = [
    "Pay the customs fee now or the parcel goes back",
    "Lunch at noon?",
    "Your account is blocked, confirm your password",
    "The minutes of Monday are in the folder",
    "You won a free prize, call now",
    "See you at the station",
]


@pytest.fixture
def csv_path(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


def lines(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def keys(model: LabellerModel, pressed: str) -> list[bool]:
    return [model.attempt(model.press, key) for key in pressed]


def test_keys_label_skip_and_undo_in_file_order_and_each_act_is_in_the_file(csv_path: Path) -> None:
    model = LabellerModel(TEXTS, LABELS, csv_path)
    assert (model.row, model.shown, model.can_undo) == (1, TEXTS[0], False)
    assert model.progress == "0 of 6 rows labelled, 6 left"
    assert not csv_path.exists()  # nothing is written before the first act
    assert keys(model, "21sU") == [True] * 4
    assert lines(csv_path) == [["1", text_hash(TEXTS[0]), "fraud"], ["2", text_hash(TEXTS[1]), "legitimate"]]
    assert model.row == 3  # undone, and shown again
    keys(model, "s112")
    assert model.progress == "5 of 6 rows labelled (legitimate 3, fraud 2), 1 skipped, 0 left"
    assert model.finished and model.row is None and model.shown == ""
    assert keys(model, "1") == [None] and model.error == "all rows are done"
    model.again()
    assert model.row == 3 and not model.finished
    with pytest.raises(InputError, match="no row was skipped"):
        model.again()
    keys(model, "2")
    found = model.labelled()
    assert found["text"].tolist() == TEXTS
    assert found["label"].tolist() == ["fraud", "legitimate", "fraud", "legitimate", "legitimate", "fraud"]
    assert found.equals(labelled(TEXTS, csv_path))


@pytest.mark.parametrize("key", ["3", "0", "x", "", "11", "12", "Enter", "²"])
def test_other_keys_change_nothing(csv_path: Path, key: str) -> None:
    model = LabellerModel(TEXTS, LABELS, csv_path)
    assert model.press(key) is False
    assert model.row == 1 and not csv_path.exists()


def test_an_undo_of_nothing_and_a_label_that_is_none_are_said(csv_path: Path) -> None:
    model = LabellerModel(TEXTS, LABELS, csv_path)
    assert keys(model, "u") == [None] and model.error == "nothing to undo"
    model.attempt(model.choose, HOSTILE)
    assert model.error.startswith("label must be one of 'legitimate', 'fraud'; got '<img")
    assert keys(model, "2") == [True] and model.error == "" and model.row == 2


def test_a_key_pressed_on_a_row_that_is_gone_by_now_labels_nothing_unseen(csv_path: Path) -> None:
    model = LabellerModel(TEXTS, LABELS, csv_path)
    assert model.press("1", row=1) is True
    assert model.press("1", row=1) is False  # the second of a double press
    assert len(lines(csv_path)) == 1 and model.row == 2


def test_the_least_sure_rows_come_first(csv_path: Path) -> None:
    proba = np.array([[0.9, 0.1], [0.45, 0.55], [0.2, 0.8], [0.5, 0.5], [0.7, 0.3], [0.5, 0.5]])
    model = LabellerModel(TEXTS, LABELS, csv_path, model=proba)
    order = []
    while model.row is not None:
        order.append(model.row)
        model.press("1")
    assert order == [4, 6, 2, 5, 3, 1]  # margins 0, 0, 0.1, 0.4, 0.6, 0.8; ties as they stand


def test_a_fitted_classifier_orders_and_says_what_it_thinks_only_in_the_hint(csv_path: Path) -> None:
    floor = slmkit.FloorClassifier().fit(TEXTS, ["fraud", "legitimate"] * 3)
    model = LabellerModel(TEXTS, LABELS, csv_path, model=floor)
    margins = np.abs(np.diff(floor.predict_proba(TEXTS), axis=1)).ravel()
    assert model.row == int(margins.argmin()) + 1
    best = floor.predict_proba([model.shown])[0]
    assert model.hint == ""  # people follow what they see: it is shown on request only
    model.show_hint = True
    assert model.hint.startswith(f"the model says: {floor.classes_[best.argmax()]} {100 * best.max():.1f} %")


def test_probabilities_follow_their_rows_when_some_have_no_text_or_have_a_label(csv_path: Path) -> None:
    frame = pd.DataFrame({"text": ["", *TEXTS], "label": ["", "fraud", *[""] * 5]})
    proba = np.array([[0.5, 0.5], [0.5, 0.5], *[[0.9, 0.1]] * 4, [0.6, 0.4]])
    model = LabellerModel(frame, LABELS, csv_path, model=proba)
    assert model.row == 7 and model.shown == TEXTS[-1]
    assert model.progress == "0 of 5 rows labelled, 5 left; 1 had a label before"


def test_learn_orders_what_is_left_by_the_labels_so_far(csv_path: Path) -> None:
    model = LabellerModel(TEXTS, LABELS, csv_path)
    keys(model, "21")
    with pytest.raises(InputError, match="too few labels to learn from: class 'fraud' has 1 row"):
        model.learn()
    keys(model, "21")
    model.learn()
    floor = slmkit.FloorClassifier().fit(TEXTS[:4], ["fraud", "legitimate"] * 2)
    left = np.abs(np.diff(floor.predict_proba(TEXTS[4:]), axis=1)).ravel()
    assert model.row == 5 + int(left.argmin())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((6, 2)), "must be at least 0 and sum to 1"),
        (np.full((5, 2), 0.5), "must have the shape (rows, classes) = (6, 2); got (5, 2)"),
        (np.ones((6, 1)), "at least 2 classes are needed; got 1"),
        (np.ones(6), "must have the shape"),
        (slmkit.FloorClassifier(), "FloorClassifier gives no probabilities"),
        ("floor", "must be a fitted classifier or probabilities; got str"),
    ],
)
def test_unusable_probabilities_are_said_and_the_order_stays(csv_path: Path, given: Any, said: str) -> None:
    model = LabellerModel(TEXTS, LABELS, csv_path)
    with pytest.raises(InputError, match=re.escape(said)):
        model.order_by(given)
    assert model.row == 1


@pytest.mark.parametrize("at", ["before", "after"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the process that is killed is forked")
def test_a_kill_in_the_middle_of_an_act_leaves_a_whole_file(csv_path: Path, at: str) -> None:
    """Killed before the new file is in its place, the act is not there; after that it is; never half of one."""
    if (child := os.fork()) == 0:
        try:
            model = LabellerModel(TEXTS, LABELS, csv_path)
            keys(model, "21")
            move = os.replace

            def killed(part: Path, final: Path) -> None:
                if at == "after":
                    move(part, final)
                os.kill(os.getpid(), signal.SIGKILL)

            os.replace = killed
            model.press("s")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    acts = [["1", "fraud"], ["2", "legitimate"], ["3", ""]][: 3 if at == "after" else 2]
    assert [[row, label] for row, _, label in lines(csv_path)] == acts
    parts = [path for path in csv_path.parent.iterdir() if path != csv_path]
    assert len(parts) == (at == "before")
    for part in parts:
        os.utime(part, (0, 0))
    again = LabellerModel(TEXTS, LABELS, csv_path)
    assert [path.name for path in csv_path.parent.iterdir()] == ["labels.csv"]  # the half of the act is swept away
    assert again.row == len(acts) + 1
    again.undo()
    assert again.row == len(acts)  # undo reaches over the restart
    keys(again, "2")
    assert [[row, label] for row, _, label in lines(csv_path)] == [*acts[:-1], [str(len(acts)), "fraud"]]


def test_undo_of_all_after_a_restart_leaves_a_file_that_can_be_gone_on_with(csv_path: Path) -> None:
    keys(LabellerModel(TEXTS, LABELS, csv_path), "1")
    LabellerModel(TEXTS, LABELS, csv_path).undo()
    model = LabellerModel(TEXTS, LABELS, csv_path)
    assert model.row == 1 and not model.can_undo and keys(model, "2") == [True]
    assert len(lines(csv_path)) == 1


def test_a_file_of_other_rows_is_refused_with_the_difference_and_left_alone(csv_path: Path) -> None:
    keys(LabellerModel(TEXTS, LABELS, csv_path), "121121")
    before = csv_path.read_bytes()
    with pytest.raises(InputError) as caught:
        LabellerModel(["another text", *TEXTS[2:], TEXTS[1]], LABELS, csv_path)
    said = str(caught.value)
    assert "it was made of other rows: 6 of its 6 lines do not fit these 6." in said and "; and 1 more." in said
    assert f"row 1 has another text now (SHA-256 {text_hash('another text')[:8]}..." in said
    assert f"written down {text_hash(TEXTS[1])[:8]}...), and its text stands at row 6" in said
    with pytest.raises(InputError, match="2 of its 6 lines do not fit these 4. row 5 does not exist; row 6 does not"):
        LabellerModel(TEXTS[:4], LABELS, csv_path)
    with pytest.raises(InputError, match="it holds labels that are not among 'spam', 'ham': 'fraud', 'legitimate'"):
        LabellerModel(TEXTS, ["spam", "ham"], csv_path)
    assert csv_path.read_bytes() == before


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("text,label\nhello,fraud\n", "is no file of labels: it has no column row and no text_sha256"),
        ("row,text_sha256,label\nfirst,ab,fraud\n", "line 2: row must be a whole number; got 'first'"),
        (f"row,text_sha256,label\n1,{text_hash(TEXTS[0])},fraud\n1,{text_hash(TEXTS[0])},\n", "more than once: '1'"),
        ('row,text_sha256,label\n1,"', 'a quote (") is opened and never closed'),
    ],
)
def test_a_file_that_is_something_else_is_refused_and_left_alone(csv_path: Path, document: str, said: str) -> None:
    csv_path.write_text(document)
    with pytest.raises(InputError) as caught:
        LabellerModel(TEXTS, LABELS, csv_path)
    assert said in str(caught.value) and csv_path.read_text() == document


def test_an_act_that_cannot_be_written_is_not_taken_and_says_why(csv_path: Path) -> None:
    one, other = LabellerModel(TEXTS, LABELS, csv_path), LabellerModel(TEXTS, LABELS, csv_path)
    one.press("1")
    assert keys(other, "2") == [None]
    assert "another program wrote to it (labels.csv was not there before)" in other.error and other.row == 1
    third = LabellerModel(TEXTS, LABELS, csv_path)
    one.press("1")
    assert keys(third, "2") == [None] and "Open it again and go on there" in third.error and third.row == 2
    assert [label for _, _, label in lines(csv_path)] == ["legitimate", "legitimate"]


def test_a_full_disk_takes_no_act_and_loses_none(csv_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LabellerModel(TEXTS, LABELS, csv_path)
    model.press("1")

    def full(path: Path, document: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(labelfile.files, "replace", full)
        assert keys(model, "2") == [None]
    assert model.error == f"{csv_path}: the disk is full. Nothing was lost; this act was not taken"
    assert model.row == 2 and keys(model, "2") == [True] and model.error == ""
    assert [label for _, _, label in lines(csv_path)] == ["legitimate", "fraud"]


def test_hostile_texts_labels_and_file_names_stay_text(tmp_path: Path) -> None:
    path, formula = tmp_path / f"{HOSTILE.replace('/', '')[:40]}'\n.csv", "=cmd|' /C calc'!A0"
    model = LabellerModel([HOSTILE, "x" * 100_000], [HOSTILE, formula, "a\nb"], path)
    assert model.shown.startswith("<img src=x onerror=") and "\x1b" not in model.shown and "\u202e" not in model.shown
    assert all(len(name) <= 60 and name.isprintable() for name in model.choices)
    assert keys(model, "2") == [True] and len(model.shown) == 5_000
    keys(model, "1")
    raw = path.read_text(encoding="utf-8")
    assert f"'{formula}" in raw  # no spreadsheet runs it
    assert LabellerModel([HOSTILE, "x" * 100_000], [HOSTILE, formula, "a b"], path).finished
    assert labelled([HOSTILE, "x" * 100_000], path)["label"].tolist() == [formula, HOSTILE]
    assert model.code.isascii() and len(model.code.splitlines()) == 5
    compile(model.code, "code", "exec")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a"], "2 to 30 labels are needed"),
        (None, "2 to 30 labels are needed"),
        ("ab", "labels must be a sequence of names"),
        (["a", " "], "a label must have a character that can be seen"),
        (["a", "a\u202e"], "labels must differ as they are shown; more than once: 'a'"),
        ([str(n) for n in range(31)], "got 31"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(csv_path: Path, labels: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        LabellerModel(TEXTS, labels, csv_path)


@pytest.mark.parametrize(
    ("path", "said"),
    [("labels.txt", "must end in .csv and lie in a folder that exists"), ("no/labels.csv", "must end in .csv and lie")],
)
def test_a_place_for_the_file_is_checked_first(tmp_path: Path, path: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        LabellerModel(TEXTS, LABELS, tmp_path / path)


def test_rows_of_a_file_with_some_labels_give_the_choices_and_the_code_gives_the_same_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, path = tmp_path / "my rows.csv", tmp_path / "labels.csv"
    labels = ["fraud", "ham", "fraud", "ham", "", ""]
    pd.DataFrame({"text": TEXTS, "label": labels}).to_csv(rows, index=False)
    model = LabellerModel(rows, path=path)
    assert model.labels == ("fraud", "ham") and model.row == 5
    keys(model, "12")
    assert model.finished
    import sys

    import slmkit_widgets

    monkeypatch.setattr(slmkit_widgets, "labelled", labelled, raising=False)
    found: dict[str, Any] = {}
    with pytest.raises(InputError, match="has 1 row"):  # two rows are too few for a classifier; the frame is there
        exec(model.code, found)
    assert found["frame"].to_dict("records") == model.labelled().to_dict("records")
    assert found["frame"]["source_row"].tolist() == [5, 6] and "slmkit" in sys.modules
    pd.DataFrame({"text": TEXTS, "label": [*labels[:4], "fraud", "ham"]}).to_csv(rows, index=False)
    again = LabellerModel(rows, path=path)
    again.undo()
    assert again.row == 6  # also when the labels were put into the rows meanwhile


def test_numbers_that_rows_have_already_name_them(csv_path: Path) -> None:
    frame = pd.DataFrame({"text": TEXTS, "source_row": [7, 9, 11, 13, 15, 17]}).iloc[::-1]
    model = LabellerModel(frame, LABELS, csv_path)
    assert model.row == 17 and keys(model, "1") == [True]
    assert lines(csv_path)[0][:2] == ["17", text_hash(TEXTS[-1])]
    with pytest.raises(InputError, match="no file at"):
        labelled(frame, csv_path.with_name("other.csv"))


def test_a_disk_error_is_the_librarys(tmp_path: Path) -> None:
    model = LabellerModel(TEXTS, LABELS, tmp_path / "labels.csv")
    (tmp_path / "labels.csv").mkdir()
    with pytest.raises(SlmkitError):
        model.file.save([])
    assert keys(model, "1") == [None] and "labels.csv" in model.error
