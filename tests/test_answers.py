"""Answers of runs row by row: side by side, with their texts, and as a table of who was taken for whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sample_runs import a_run

from slmkit import data, tasks
from slmkit.errors import InputError
from slmkit.runs import Run, answers, probability_frame, write_run

CLASSES = ["bad", "good", "so-so"]


def kept(folder: Path, predicted: str, rows: list[int], labels: str, **changes: object) -> Run:
    """A run whose answers are the classes that begin with these letters."""
    names = {name[0]: name for name in CLASSES}
    run = a_run(**changes)
    proba = np.array([[0.8 if c == names[letter] else 0.1 for c in CLASSES] for letter in predicted])
    write_run(run, folder, probability_frame(np.array(rows), [names.get(x, x) for x in labels], proba, CLASSES))
    return run


def test_answers_stand_beside_each_other_row_by_row(tmp_path: Path) -> None:
    one = kept(tmp_path, "bgg", [4, 0, 7], "bgb", right=100)
    two = kept(tmp_path, "bgs", [0, 4, 7], "gbb", right=101)  # the same rows in another order
    found = answers.side_by_side({"one": one, "two": two}, tmp_path)
    assert found.index.tolist() == [0, 4, 7]
    assert found["label"].tolist() == ["good", "bad", "bad"]
    assert found["one"].tolist() == ["good", "bad", "good"]
    assert found["two"].tolist() == ["bad", "good", "so-so"]


def test_answers_to_other_rows_are_refused(tmp_path: Path) -> None:
    one = kept(tmp_path, "bg", [1, 2], "bg", right=100)
    two = kept(tmp_path, "bg", [1, 3], "bg", right=101)
    with pytest.raises(InputError, match=r"'one' and 'two' answered to other rows"):
        answers.side_by_side({"one": one, "two": two}, tmp_path)
    with pytest.raises(InputError, match=r"other than 'label'; got 'label'"):
        answers.side_by_side({"label": one}, tmp_path)
    with pytest.raises(InputError, match=r"must hold one or more .* got none"):
        answers.side_by_side({}, tmp_path)


def test_classes_nobody_named_and_labels_never_learned_have_their_place(tmp_path: Path) -> None:
    run = kept(tmp_path, "bbgb", [0, 1, 2, 3], "bgg?")
    counts = answers.confusion(run, tmp_path)
    assert counts.columns.tolist() == CLASSES and counts.index.tolist() == [*CLASSES, "?"]
    assert counts.to_numpy().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_texts_are_those_the_rows_were_counted_on() -> None:
    whole = tasks.get("fraud_messages").load()
    run = replace(a_run(), data_sha256=data.frame_sha256(whole))
    found = answers.texts(run)
    assert found.tolist() == data.deduplicate(whole)[0]["text"].tolist()
    with pytest.raises(InputError, match=r"the rows of 'fraud_messages' are others than those of run"):
        answers.texts(a_run())


def test_examples_begin_with_the_surest_answers(tmp_path: Path) -> None:
    run = a_run()
    proba = np.array([[0.6, 0.4, 0.0], [0.0, 0.1, 0.9], [0.7, 0.2, 0.1]])
    write_run(run, tmp_path, probability_frame(np.array([4, 0, 7]), ["good", "bad", "bad"], proba, CLASSES))
    found = answers.examples(run, tmp_path, pd.Series({0: "zero", 4: "four", 7: "seven"}))
    assert found.to_numpy().tolist() == [["bad", "so-so", "zero"], ["bad", "bad", "seven"], ["good", "bad", "four"]]
    assert found.columns.tolist() == ["truth", "decided", "text"]
