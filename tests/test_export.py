"""A student's results as one file: what goes in, what must not, and that the file is whole or not there."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from sample_runs import a_floor, a_run
from typer.testing import CliRunner

from slmkit import __main__ as cli
from slmkit.errors import InputError, SlmkitError
from slmkit.runs import probability_frame, write_run
from slmkit.workshop import record
from slmkit.workshop.exports import MANIFEST, export, redacted

SECRET = "hf_AbCdEfGhIjKlMnOpQrSt"  # no token of anybody's
ROW = "Dear customer, your parcel of 12 May waits for you"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a notebook ran, with much in it that must stay there."""
    monkeypatch.delenv("SLMKIT_PROGRESS", raising=False)
    folder = tmp_path / "work"
    runs = folder / "runs" / "00_start_here_tiny"
    rows = pd.Series(range(4)).to_numpy()
    proba = pd.DataFrame({"a": [0.9, 0.2, 0.6, 0.1]}).assign(b=lambda f: 1 - f["a"]).to_numpy()
    frame = probability_frame(rows, ["fraud", "legitimate", "fraud", "=1+1"], proba, ["fraud", "legitimate"])
    here = str(folder.absolute() / "quantised" / "smollm2-4bit")
    params = {"adapter": here, "token": SECRET, "note": f"see {here}, and C:\\Users\\ada\\x.txt"}
    write_run(a_run(model=here, params=params, run_id="stored"), runs, frame)
    write_run(a_floor(), runs, frame)
    write_run(a_run("prompt", run_id="other", task=f"my/{SECRET}"), folder / "elsewhere")
    (runs / "logs").mkdir()
    (runs / "logs" / "a.json").write_text(json.dumps({"run_id": 1, "text": ROW}))
    (runs / "models" / "x").mkdir(parents=True)
    (runs / "models" / "x" / "slmkit_merged.json").write_text("{}")
    (folder / "quantised" / "smollm2-4bit").mkdir(parents=True)
    card = {"bits": 4, "base": str(folder), "stored_bytes": 71}
    (folder / "quantised" / "smollm2-4bit" / "slmkit_quantised.json").write_text(json.dumps(card))
    (folder / "my_data").mkdir()
    (folder / "my_data" / "messages.csv").write_text(f"text,label\n{ROW},fraud\n")
    (folder / "my_data" / "rows.json").write_text(json.dumps([ROW]))
    entries = {"00.1": {"tries": 2, "passed": True, "passed_utc": "2026-01-01T00:00:00+00:00", "note": ROW}, "xx": {}}
    (folder / record.FILE).write_text(json.dumps({"version": 1, "exercises": entries}))
    return folder


def held(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name).decode() for name in opened.namelist()}


def test_records_probabilities_cards_and_progress_go_in(work: Path, tmp_path: Path) -> None:
    found = export(work, tmp_path / "results.zip")
    assert (found.n_runs, found.n_probabilities, found.n_cards, found.has_progress) == (3, 2, 1, True)
    assert found.left_out == ()
    members = held(tmp_path / "results.zip")
    assert set(json.loads(members[MANIFEST])["files"]) == set(members) - {MANIFEST}
    assert members["progress.json"] == json.dumps(
        {"exercises": {"00.1": {"tries": 2, "passed": True, "passed_utc": "2026-01-01T00:00:00+00:00"}}}, indent=1
    )
    (card,) = [json.loads(text) for name, text in members.items() if name.startswith("cards/")]
    assert card == {"bits": 4, "base": "[...]/work", "stored_bytes": 71}
    floor = next(name for name in members if "floor" in name and name.endswith(".json"))
    assert floor.startswith("runs/00_start_here_tiny/") and json.loads(members[floor])["accuracy"] == a_floor().accuracy
    csv = members[floor.replace(".json", ".probabilities.csv")]
    assert csv.splitlines()[0] == "row,label,predicted,p_fraud,p_legitimate" and "'=1+1" in csv


def test_no_row_no_absolute_path_and_no_token_goes_in(work: Path, tmp_path: Path) -> None:
    export(work, tmp_path / "results.zip")
    whole = "\n".join([*held(tmp_path / "results.zip").values(), *held(tmp_path / "results.zip")])
    for secret in (ROW, SECRET, str(tmp_path), str(Path.home()) + "/", "Users", "my_data"):
        assert secret not in whole, secret
    assert not [part for part in tmp_path.parts[-2:] if part in whole]  # nor in the name of a member
    assert "[...]/smollm2-4bit" in whole and "hf_[redacted]" in whole and "[...]/x.txt" in whole


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("at /home/ada/models/a.gguf.", "at [...]/a.gguf."),
        ("(/mnt/x/y)", "([...]/y)"),
        ("/home/ada lovelace/my models/a b", "[...]/a b"),
        ("C:\\Users\\ada lovelace\\runs\\", "[...]/runs"),
        (f"in {Path.home()}/a", "in [...]/a"),
        ("/", "/"),
        ("~/work/runs", "[...]/runs"),
        ("C:\\Users\\ada\\runs", "[...]/runs"),
        ("D:/data/x", "[...]/x"),
        ("\\\\server\\share\\x", "[...]/x"),
        ("file=/var/lib/x", "file=[...]/x"),
        ("quantised/smollm2-4bit", "quantised/smollm2-4bit"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("20 rows/s and n/a, 3/4", "20 rows/s and n/a, 3/4"),
        (f"Bearer {SECRET}", "Bearer hf_[redacted]"),
        ("hf_hub", "hf_hub"),
        ({"/a/b/c": ["/d/e", 1, None, 2.5, True]}, {"[...]/c": ["[...]/e", 1, None, 2.5, True]}),
    ],
)
def test_paths_and_tokens_are_taken_out_and_nothing_else(said: object, kept: object) -> None:
    assert redacted(said) == kept


def test_probabilities_with_a_text_in_them_are_left_out_with_their_run(work: Path, tmp_path: Path) -> None:
    (path,) = (work / "runs" / "00_start_here_tiny").glob("*floor*.csv")
    path.write_text(f"row,label,predicted,p_fraud\n1,fraud,fraud,{ROW.replace(',', '')}\n")
    found = export(work, tmp_path / "results.zip")
    assert found.n_runs == 2 and "floor" in found.left_out[0]
    assert "parcel" not in "".join(held(tmp_path / "results.zip").values())


def test_columns_that_no_record_has_are_not_copied(work: Path, tmp_path: Path) -> None:
    (path,) = (work / "runs" / "00_start_here_tiny").glob("*floor*.csv")
    frame = pd.read_csv(path).assign(text=ROW)
    frame.to_csv(path, index=False)
    export(work, tmp_path / "results.zip")
    assert ROW not in "".join(held(tmp_path / "results.zip").values())


def test_links_and_damaged_records_do_not_go_in(work: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write_run(a_run(run_id="outside"), outside)
    (work / "runs" / "link").symlink_to(outside)
    (work / "runs" / "b.json").symlink_to(next(outside.glob("*.json")))
    (work / "runs" / "broken.json").write_text('{"run_id": "x", "task": 3}')
    (work / "runs" / "cut.json").write_text('{"run_id": ')
    (work / "runs" / "another.json").write_text("[1, 2]")
    found = export(work, tmp_path / "results.zip")
    assert found.n_runs == 3 and found.left_out == ("runs/broken.json", "runs/cut.json")
    assert "outside" not in "".join(held(tmp_path / "results.zip"))


def test_the_same_results_give_the_same_bytes_and_an_old_export_is_replaced(work: Path, tmp_path: Path) -> None:
    target = tmp_path / "results.zip"
    export(work, target)
    first = target.read_bytes()
    export(work, target)
    assert target.read_bytes() == first


def test_a_write_that_fails_leaves_the_old_export(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "results.zip"
    export(work, target)
    first = target.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(SlmkitError, match="the disk is full"):
        export(work, target)
    assert target.read_bytes() == first and not list(tmp_path.glob(".*part"))


def test_what_cannot_be_exported_is_a_clear_error(work: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"nothing to export in .*empty: no record of a run and no slmkit_progress"):
        export(empty, tmp_path / "a.zip")
    with pytest.raises(InputError, match="the folder to export must be a folder; got .*nowhere"):
        export(tmp_path / "nowhere", tmp_path / "a.zip")
    with pytest.raises(InputError, match=r"must end in \.zip; got 'a\.tar'"):
        export(work, tmp_path / "a.tar")
    with pytest.raises(InputError, match="no folder .*missing to write a.zip to"):
        export(work, tmp_path / "missing" / "a.zip")
    (tmp_path / "thesis.zip").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"thesis\.zip is there already and no export"):
        export(work, tmp_path / "thesis.zip")
    assert (tmp_path / "thesis.zip").read_bytes() == b"mine" and not (tmp_path / "a.zip").exists()


def test_progress_alone_is_worth_an_export_and_may_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SLMKIT_PROGRESS", str(tmp_path / "class.json"))
    (tmp_path / "class.json").write_text('{"exercises": {"00.1": {"tries": 1}}}')
    found = export(tmp_path / "empty", tmp_path / "results.zip")
    assert (found.n_runs, found.has_progress) == (0, True)


def test_the_command_says_what_went_in(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    (work / "runs" / "cut.json").write_text('{"run_id": ')
    done = CliRunner().invoke(cli.app, ["export"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "results.zip: 3 runs (2 row by row), 1 cards, the progress of exercises",
        "left out: runs/cut.json (no readable record)",
    ]
    assert (work / "results.zip").is_file()
    monkeypatch.chdir(work / "my_data")
    assert CliRunner().invoke(cli.app, ["export"]).exit_code == 2
