"""`slmkit data check, sheet and split`: what they find is said, what they cannot do is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from slmkit import __main__ as cli
from slmkit import files


def slmkit_data(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["data", *map(str, arguments)])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Forty texts without a double, with a part each; row 21, counted as in the file, has no text."""
    words = [f"{a}{b}" for a in "abcdefgh" for b in "mnopq"]
    rows = pd.DataFrame({"text": [f"{w}e wants {w[::-1]}o today" for w in words], "label": ["x", "y"] * 20})
    rows["part"] = ["train", "train", "train", "test"] * 10
    rows.loc[20, "text"] = ""
    rows.loc[39, "text"] = rows.loc[22, "text"].upper()
    path = tmp_path / "rows.csv"
    rows.to_csv(path, index=False)
    return path


def test_check_finds_a_leak_between_parts_and_names_rows_as_the_file_does(table: Path) -> None:
    done = slmkit_data("check", table, "--split-column", "part")
    assert done.exit_code == 0 and "test row 40 = train row 23 (normalised)" in done.output
    assert "1 of 40 rows dropped: empty text" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{table}", "{table}", "--split-column", "part"], "cuts one table into parts; with two tables leave it out"),
        (["compliance_notes", "--split-column", "bogus"], "say their part in the column 'part'; got 'bogus'"),
    ],
)
def test_check_refuses_parts_it_could_not_compare(table: Path, arguments: list[str], message: str) -> None:
    done = slmkit_data("check", *[a.format(table=table) for a in arguments])
    assert done.exit_code == 2 and message in " ".join(done.output.split())


def test_split_says_how_many_rows_leak_where_nothing_else_is_possible(tmp_path: Path) -> None:
    codes = [f"Your code is {i}" for i in range(20)]
    path = tmp_path / "codes.csv"
    others = [f"{w}e wants {w[::-1]}o" for w in (f"{a}{b}" for a in "abcd" for b in "mnopq")]
    pd.DataFrame({"text": [*codes, *others], "label": ["code"] * 20 + ["other"] * 20}).to_csv(path, index=False)
    done = slmkit_data("split", path, "-o", tmp_path / "split.json")
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    assert facts["leaked_test_rows"] == 4 and "a study takes this one with --allow-leaks only" in done.output


@pytest.mark.parametrize("command", [["split", "-o", "gone/split.json"], ["sheet", "--rows", "gone/rows.csv"]])
def test_a_target_that_cannot_be_is_refused_before_the_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = slmkit_data(command[0], "no_such_rows.csv", *command[1:])
    assert done.exit_code == 2 and "folder" in done.output and "no_such_rows" not in done.output


def test_a_disk_that_refuses_the_list_is_named(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, document: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "replace", full)
    done = slmkit_data("sheet", table, "--model", "none", "--rows", tmp_path / "odd.csv")
    assert done.exit_code == 2 and "odd.csv: the disk is full" in done.output and not (tmp_path / "odd.csv").exists()
