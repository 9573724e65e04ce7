"""The workshop kit: what a check says and keeps, the notebooks with and without solutions, nbgrader's marks."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from pathlib import Path

import pytest

from slmkit import workshop
from slmkit.workshop import checks, exercise, record
from slmkit.workshop.exercise import Exercise, Hint

build_notebooks = pytest.importorskip("tools.build_notebooks")
nbformat = pytest.importorskip("nbformat")


def judge(answer: object, wanted: float) -> str:
    found = workshop.number(answer, "the number")
    if found == wanted:
        return "Well done."
    if found == 13:
        raise ZeroDivisionError("thirteen")
    raise Hint("too small" if found < wanted else "too large\x1b[31m")


@pytest.fixture(autouse=True)
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two exercises of the tests' own, a solution of one, and a progress file in a folder of its own."""
    known = {name: Exercise(name, f"the number {name}", judge, "it is even") for name in ("30.2", "30.10")}
    for module in (checks, exercise):
        monkeypatch.setattr(module, "exercises", lambda: known)
    monkeypatch.setattr(checks, "solutions", lambda: {"30.2": "answer_30_2 = 6 * 7"})
    monkeypatch.setenv("SLMKIT_PROGRESS", str(tmp_path / "class" / "progress.json"))
    return tmp_path / "class" / "progress.json"


def entries(file: Path) -> dict[str, dict[str, object]]:
    return json.loads(file.read_text(encoding="utf-8"))["exercises"]


def test_an_answer_is_not_yet_then_wrong_with_hints_then_right(two: Path) -> None:
    assert repr(workshop.check("30.2", ..., wanted=42)) == (
        "30.2: not yet. Write your answer in place of the dots: the number 30.2"
    )
    assert not two.exists()
    assert repr(workshop.check("30.2", 1, wanted=42)) == "30.2: not right. Hint: too small"
    assert repr(workshop.check("30.2", 50, wanted=42)).splitlines() == [
        "30.2: not right. Hint: too large",
        "Second hint: it is even",
        'One way to do it: workshop.solution("30.2")',
    ]
    said = workshop.check("30.2", 42, wanted=42)
    assert said.passed and repr(said) == "30.2: right. Well done."
    assert entries(two)["30.2"]["tries"] == 3 and entries(two)["30.2"]["passed"] is True


def test_a_right_answer_stays_done_and_its_time_is_that_of_the_first(two: Path) -> None:
    workshop.check("30.2", 42, wanted=42)
    before = entries(two)["30.2"]["passed_utc"]
    workshop.check("30.2", 41, wanted=42)
    workshop.check("30.2", 42, wanted=42)
    assert entries(two)["30.2"] == {"tries": 3, "passed": True, "passed_utc": before}


def test_what_breaks_in_a_judge_is_a_sentence_and_no_try(two: Path) -> None:
    said = repr(workshop.check("30.2", 13, wanted=42))
    assert said == "30.2: could not be checked (ZeroDivisionError: thirteen). Are the cells above run?"
    assert not two.exists()


def test_unknown_names_and_numbers_as_names() -> None:
    assert "unknown exercise '30.3'. Did you mean '30.2'" in repr(workshop.check("30.3", 1))
    assert "not yet" in repr(workshop.check(30.2))
    for odd in (None, ["30.2"], {}, "x" * 5000):
        assert len(repr(workshop.check(odd))) < 500 and repr(workshop.solution(odd)).startswith("unknown exercise")


def test_progress_lists_every_exercise_in_order(two: Path) -> None:
    workshop.check("30.10", 1, wanted=42)
    workshop.check("30.2", 42, wanted=42)
    assert repr(workshop.solution("30.2")) == "answer_30_2 = 6 * 7"
    assert [line.split("  ")[0] for line in repr(workshop.progress()).splitlines()] == ["30.2", "30.10", "1 of 2 done"]
    assert re.search(r"^30.2 +done, 1 try, solution seen +the number 30.2$", repr(workshop.progress()), re.MULTILINE)
    assert re.search(r"^30.10 +1 try +the number 30.10$", repr(workshop.progress()), re.MULTILINE)


def test_progress_lies_in_the_working_folder_unless_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLMKIT_PROGRESS")
    monkeypatch.chdir(tmp_path)
    workshop.check("30.2", 42, wanted=42)
    assert [path.name for path in tmp_path.iterdir()] == ["slmkit_progress.json"]


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"exercises": 3}', '{"exercises": {"30.2": 5}}'])
def test_a_damaged_file_is_kept_aside_and_said(two: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    two.parent.mkdir()
    two.write_text(damage, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert "0 of 2 done" in repr(workshop.progress())
        assert workshop.check("30.2", 42, wanted=42)
    assert "progress.json.damaged" in caplog.text
    assert entries(two)["30.2"]["passed"] is True
    assert two.with_name("progress.json.damaged").read_text(encoding="utf-8") == damage


def test_a_folder_that_cannot_be_written_changes_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("SLMKIT_PROGRESS", str(tmp_path / "file" / "progress.json"))
    said = workshop.check("30.2", 42, wanted=42)
    assert said and "Your progress is not kept: " in repr(said)


def test_a_write_that_fails_leaves_what_was_there(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.check("30.2", 42, wanted=42)
    before = two.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in repr(workshop.check("30.10", 42, wanted=42))
    assert two.read_bytes() == before and [p.name for p in two.parent.iterdir()] == [two.name]


def test_nothing_but_names_tries_and_times_is_kept(two: Path) -> None:
    workshop.check("30.2", "a text of mine", wanted=42)
    assert "mine" not in two.read_text(encoding="utf-8")
    assert stat.S_ISREG(two.stat().st_mode)


SOURCE = """\
# %% [markdown]
# **Exercise 30.2.** How many?

# %%
wanted = 42
### BEGIN SOLUTION
six = 6
if six:
    answer_30_2 = six * 7
### END SOLUTION
print("kept")
workshop.check("30.2", answer_30_2, wanted=wanted)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "30_fraud_text.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def cells(document: str) -> list[str]:
    return [cell.source for cell in nbformat.reads(document, as_version=4).cells]


def test_a_notebook_has_a_place_to_write_in_and_no_solution(source: Path) -> None:
    assert cells(build_notebooks.render(source))[1] == (
        'wanted = 42\nanswer_30_2 = ...  # your answer\nprint("kept")\n'
        'workshop.check("30.2", answer_30_2, wanted=wanted)'
    )
    assert "six * 7" in cells(build_notebooks.render(source, solved=True))[1]
    assert build_notebooks.solutions(source) == {"30.2": "six = 6\nif six:\n    answer_30_2 = six * 7"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("### END SOLUTION\n", "", "must stand in pairs"),
        ("### BEGIN SOLUTION\n", "", "must stand in pairs"),
        ("### BEGIN SOLUTION\n", "x = 1 ### BEGIN SOLUTION\n", "must stand in pairs"),
        ("answer_30_2 = six", "answer = six", "must set one answer_NN_N"),
        ("six = 6", "answer_30_3 = 6", "must set one answer_NN_N"),
    ],
)
def test_a_slip_with_the_delimiters_is_an_error(source: Path, old: str, new: str, message: str) -> None:
    source.write_text(SOURCE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        build_notebooks.render(source)


def as_nbgrader_clears(cell: str) -> str:
    """What nbgrader's ClearSolutions leaves of a cell, by its rules: a line that holds BEGIN SOLUTION opens a region,
    one that holds END SOLUTION closes it, and a stub with the first line's indent stands in its place."""
    kept, inside = [], False
    for line in cell.splitlines():
        if "BEGIN SOLUTION" in line:
            assert not inside
            inside = True
            kept.append(f"{line[: len(line) - len(line.lstrip())]}raise NotImplementedError()")
        elif "END SOLUTION" in line:
            assert inside
            inside = False
        elif not inside:
            kept.append(line)
    assert not inside
    return "\n".join(kept)


def test_the_source_feeds_nbgrader(source: Path) -> None:
    notebook = nbformat.reads(build_notebooks.render_for_nbgrader(source), as_version=4)
    _, answer, graded = notebook.cells
    assert as_nbgrader_clears(answer.source) == 'wanted = 42\nraise NotImplementedError()\nprint("kept")'
    assert graded.source == 'assert workshop.check("30.2", answer_30_2, wanted=wanted)'
    marks = [cell.metadata["nbgrader"] for cell in (answer, graded)]
    assert [mark["grade_id"] for mark in marks] == ["answer-30-2", "check-30-2"]
    assert [(mark["solution"], mark["grade"], mark["locked"]) for mark in marks] == [
        (True, False, False),
        (False, True, True),
    ]
    assert marks[1]["points"] == 1 and marks[0]["schema_version"] == 3


def test_every_notebook_feeds_nbgrader(tmp_path: Path) -> None:
    assert build_notebooks.main(["--nbgrader", str(tmp_path)]) == 0
    for source in build_notebooks.sources():
        book = nbformat.read(tmp_path / f"{source.stem}.ipynb", as_version=4)
        marked = [cell for cell in book.cells if "nbgrader" in cell.metadata]
        assert len(marked) == 2 * len(build_notebooks.solutions(source))
        assert all("SOLUTION" not in as_nbgrader_clears(cell.source) for cell in book.cells)
        for cell in book.cells:
            compile(cell.source, source.name, "exec") if cell.cell_type == "code" else None


def test_generated_solutions_that_are_out_of_date_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build_notebooks.main(["--check"]) == 0
    other = tmp_path / "solutions.json"
    other.write_text("{}", encoding="utf-8")
    monkeypatch.setattr(build_notebooks, "SOLUTIONS", other)
    assert build_notebooks.main(["--check"]) == 1
    assert "solutions.json" in capsys.readouterr().err


def test_the_file_of_progress_is_locked_while_it_is_written(two: Path) -> None:
    import threading

    threads = [threading.Thread(target=record.note, args=(f"30.{i}",), kwargs={"tries": 1}) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries(two)) == 20
