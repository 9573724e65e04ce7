"""Studies on splits that come with the data: repeated, refused when they leak, marked when that was allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from test_study import QUICK, table  # noqa: F401 - the fixture

import slmkit
from slmkit import assets, data, tasks, verdict
from slmkit.assets import licences
from slmkit.errors import InputError
from slmkit.runs import read_runs
from slmkit.splits import splitfile

FLOOR = {**QUICK, "methods": "floor"}


@pytest.fixture
def parts(table: Path, tmp_path: Path) -> tuple[Path, Path]:  # noqa: F811
    """Two tables; three rows of the second stand in the first: to the letter, in capitals, and with another number."""
    rows = pd.read_csv(table)
    train, test = rows.iloc[::2], rows.iloc[1::2]
    copies = train.iloc[[0, 1, -1]].copy()
    copies.loc[copies.index[1], "text"] = copies["text"].iloc[1].upper() + "!"
    copies.loc[copies.index[2], "text"] = copies["text"].iloc[2].replace(" at 7 ", " at 77 ")
    paths = tmp_path / "train.csv", tmp_path / "test.csv"
    train.to_csv(paths[0], index=False)
    pd.concat([test, copies]).to_csv(paths[1], index=False)
    return paths


def test_a_leaking_test_file_is_refused_with_the_rows_and_nothing_is_written(
    parts: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        slmkit.study(parts[0], test_file=parts[1], **FLOOR, out=tmp_path / "runs")
    said = str(caught.value)
    assert "the given split leaks" in said and "stand in train: " in said and "--allow-leaks" in said
    assert "test row 41 = train row 1 (exact)" in said and "(normalised)" in said
    assert not (tmp_path / "runs").exists()


def test_an_allowed_leak_marks_every_record_and_comes_first_in_the_verdict(
    parts: tuple[Path, Path], tmp_path: Path
) -> None:
    found = slmkit.study(
        parts[0], test_file=parts[1], allow_leaks=True, **{**QUICK, "methods": "embedding"}, out=tmp_path / "runs"
    )
    assert len(found.runs) == 3 and all(run.split == "given" and run.leaked_test_rows >= 3 for run in found.runs)
    assert read_runs(tmp_path / "runs")[0].leaked_test_rows == found.runs[0].leaked_test_rows
    assert verdict.verdicts(found.runs)[0].startswith("Leak: ")


def test_a_seeded_split_leaks_nothing_and_says_so_in_its_record(table: Path, tmp_path: Path) -> None:  # noqa: F811
    run = slmkit.study(table, **FLOOR, out=tmp_path / "runs").runs[0]
    assert (run.split, run.leaked_test_rows) == ("seeded", 0) and len(run.split_sha256 or "") == 64
    (written,) = (tmp_path / "runs" / "splits").glob("*.json")
    document = json.loads(written.read_text())
    assert (len(document["train"]), len(document["test"])) == (run.n_train, run.n_test)
    assert document["data_sha256"] == run.data_sha256 and document["seed"] == 0


def test_a_split_file_repeats_the_split_on_shuffled_rows(table: Path, tmp_path: Path) -> None:  # noqa: F811
    frame = data.read(table)
    path = splitfile.save(data.split(frame, seed=5), tmp_path / "split.json")
    first = slmkit.study(table, split=path, **FLOOR, out=tmp_path / "a").runs[0]
    shuffled = tmp_path / "shuffled.csv"
    frame.sample(frac=1, random_state=1).to_csv(shuffled, index=False)
    second = slmkit.study(shuffled, split=path, **FLOOR, out=tmp_path / "b").runs[0]
    hashes = [{*json.loads(next((tmp_path / n / "splits").glob("*.json")).read_text())["test"]} for n in "ab"]
    assert hashes[0] == hashes[1] and (first.n_test, first.split) == (second.n_test, "given")


def test_a_frame_and_a_split_column_are_a_study_too(table: Path, tmp_path: Path) -> None:  # noqa: F811
    rows = pd.read_csv(table)
    rows["fold"] = ["test" if i % 4 == 0 else "train" for i in range(len(rows))]
    run = slmkit.study(rows, split="fold", allow_leaks=True, **FLOOR, out=tmp_path / "runs").runs[0]
    assert (run.task, run.n_test, run.n_train) == ("frame", len(rows) // 4, len(rows) - len(rows) // 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "a.json", "test_file": "b.csv"}, "split and test_file both say which rows are for testing"),
        ({"split": "fold"}, "unknown column 'fold'"),
        ({"test_file": "nowhere.csv"}, "no file at nowhere.csv"),
        ({"split": "none.json"}, "no split file at none.json"),
    ],
)
def test_wrong_splits_are_told_before_anything_is_written(
    table: Path,  # noqa: F811
    tmp_path: Path,
    arguments: dict[str, str],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        slmkit.study(table, **arguments, **FLOOR, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_task_takes_no_columns_and_no_test_file_and_texts_for_texts_are_no_study(tmp_path: Path) -> None:
    for arguments in ({"test_file": "x.csv"}, {"split": "fold"}):
        with pytest.raises(InputError, match="task 'fraud_messages' takes the split 'part'"):
            slmkit.study("fraud_messages", **arguments, **FLOOR, out=tmp_path / "runs")
    with pytest.raises(InputError, match="come without published parts"):
        slmkit.study("fraud_messages", split="part", **FLOOR, out=tmp_path / "runs")
    with pytest.raises(InputError, match="task 'dialogsum' turns texts into texts; a study classifies"):
        slmkit.study("dialogsum", **FLOOR, out=tmp_path / "runs")


def test_a_study_asks_for_the_licence_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(licences.LicenceNotAccepted, match=r"CC BY-NC-SA 3\.0.*other than commercial.*--accept-license"):
        slmkit.study("financial_phrasebank", **FLOOR, out=tmp_path / "runs")
    task = tasks.named("financial_phrasebank")
    assert not licences.accepted(task.gate, task.licence)
    monkeypatch.delenv("SLMKIT_ASSETS", raising=False)
    with pytest.raises(slmkit.errors.AssetError, match="slmkit data fetch financial_phrasebank"):
        slmkit.study("financial_phrasebank", accept_license=True, **FLOOR, out=tmp_path / "runs")
    assert licences.accepted(task.gate, task.licence)


def test_a_split_file_is_known_as_the_split_it_was_made_from(table: Path, tmp_path: Path) -> None:  # noqa: F811
    frame = data.read(table)
    path = splitfile.save(data.split(frame, seed=0), tmp_path / "split.json")
    first = slmkit.study(table, **FLOOR, out=tmp_path / "runs").runs[0]
    events: list[str] = []
    quick = {**FLOOR, "progress": lambda event: events.append(event["event"])}
    again = slmkit.study(table, split=path, **quick, out=tmp_path / "runs").runs[0]
    assert "skipped" in events and again.run_id == first.run_id and again.split_sha256 == first.split_sha256


def test_rows_that_are_only_tested_may_hold_one_class(parts: tuple[Path, Path], tmp_path: Path) -> None:
    rows = pd.read_csv(parts[1]).head(30)
    one = tmp_path / "one.csv"
    rows[rows["label"] == rows["label"].iloc[0]].to_csv(one, index=False)
    run = slmkit.study(parts[0], test_file=one, **FLOOR, out=tmp_path / "runs").runs[0]
    assert run.n_test == len(pd.read_csv(one)) and run.split == "given"


def test_nothing_is_fetched_for_rows_that_cannot_be_used(
    parts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "resolve", lambda name: pytest.fail(f"{name} was fetched"))
    for task, more in ((parts[0], {"test_file": parts[1]}), (parts[0], {"train": 10**6})):
        with pytest.raises(InputError, match="the given split leaks|rows were asked for"):
            slmkit.study(task, models="some/model", methods="prompt", measure_s=0.5, out=tmp_path / "runs", **more)
    licences.record().unlink(missing_ok=True)
    with pytest.raises(licences.LicenceNotAccepted):
        slmkit.study("financial_phrasebank", models="some/model", methods="prompt", out=tmp_path / "runs")


def test_equal_groups_in_two_files_are_refused_with_the_way_out(table: Path, tmp_path: Path) -> None:  # noqa: F811
    rows = pd.read_csv(table).assign(group=lambda f: range(len(f)))
    paths = tmp_path / "a.csv", tmp_path / "b.csv"
    for path, half in zip(paths, (rows.iloc[::2], rows.iloc[1::2]), strict=True):
        half.assign(group=range(len(half))).to_csv(path, index=False)
    with pytest.raises(InputError, match="If equal values of the column group mean nothing here, call it something"):
        slmkit.study(paths[0], test_file=paths[1], **FLOOR, out=tmp_path / "runs")
