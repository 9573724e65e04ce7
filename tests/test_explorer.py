"""The explorer: a page is all that is shown, reports are the library's, and neither rows nor errors harm it."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sample_runs import HOSTILE

import slmkit
from slmkit import tasks
from slmkit.errors import InputError, SlmkitError
from slmkit.splits import leaks, splitfile
from slmkit_widgets.models import explored
from slmkit_widgets.models.explorer import ALL, ORDERS, ExplorerModel


def rows(n: int = 60) -> pd.DataFrame:
    """Messages of two kinds of different lengths, each with words of its own."""
    words = random.Random(0)
    texts = [
        f"{'pay the fee' if i % 3 == 0 else 'see you'} "
        + " ".join("".join(words.choices("abdeilnorst", k=5)) for _ in range(7))
        + " now" * (i % 5)
        for i in range(n)
    ]
    return pd.DataFrame({"text": texts, "label": ["spam" if i % 3 == 0 else "ham" for i in range(n)]})


def shown(model: ExplorerModel) -> list[int]:
    return [line["row"] for line in model.rows]


def test_a_task_opens_with_its_labels_lengths_card_and_licence() -> None:
    model = ExplorerModel("fraud_messages")
    frame = tasks.get("fraud_messages").load()
    assert (model.name, model.n_rows, model.n_shown) == ("fraud_messages", 979, 979)
    assert {line["label"]: line["rows"] for line in model.labels} == frame["label"].value_counts().to_dict()
    assert sum(float(line["share"].removesuffix(" %")) for line in model.labels) == pytest.approx(100, abs=0.2)
    median = int(frame["text"].str.split().str.len().quantile(0.5))
    assert (
        sum(model.histogram.data[0].y) == model.n_rows and model.histogram.layout.xaxis.title.text == "words of a text"
    )
    assert model.lengths.startswith(f"Words a text: median {median}, nine in ten from")
    assert model.card.startswith("# ") and model.licence == "CC BY 4.0"
    assert shown(model) == list(range(1, 21)) and model.n_pages == 49
    assert model.whole == frame["text"][0]


def test_pages_filters_and_orders_show_the_same_rows_as_pandas() -> None:
    frame = rows()
    model = ExplorerModel(frame, page_size=10)
    model.turn(1)
    assert shown(model) == list(range(11, 21)) and model.page == 2
    model.turn(99)
    assert model.page == model.n_pages == 6 and shown(model) == list(range(51, 61))
    model.label = "spam"
    assert (model.page, model.n_shown, model.n_pages) == (1, 20, 2) and {r["label"] for r in model.rows} == {"spam"}
    model.find = "NOW NOW NOW NOW"
    wanted = frame[(frame["label"] == "spam") & frame["text"].str.contains("now now now now")].index + 1
    assert shown(model) == wanted.tolist() and model.n_shown == len(wanted) == 4
    found: dict[str, Any] = {"frame": frame}
    exec("\n".join(model.code.splitlines()[:3]), found)
    assert found["shown"]["source_row"].tolist() == wanted.tolist()
    model.label, model.find, model.order = None, "", ORDERS[1]
    n_words = [line["words"] for line in model.rows]
    assert n_words == sorted(n_words, reverse=True) and n_words[0] == frame["text"].str.split().str.len().max()
    model.order = ORDERS[2]
    assert model.rows[0]["words"] == frame["text"].str.split().str.len().min()
    model.find = "no text holds this"
    assert (model.rows, model.n_shown, model.n_pages, model.whole) == ((), 0, 1, "")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("page", 7, "page must be between 1 and 6; got 7"),
        ("page", 0, "page must be between 1 and 6; got 0"),
        ("page_size", 51, "page_size must be between 1 and 50; got 51"),
        ("label", "eggs", "no row has the label 'eggs'; known: all rows, ham, spam"),
        ("part", "test", "no row has the part 'test'; known: all rows"),
        ("only_odd", True, "rows worth a second look are known once the datasheet is made"),
    ],
)
def test_a_wrong_choice_is_refused_and_changes_nothing(name: str, value: Any, said: str) -> None:
    model = ExplorerModel(rows(), page_size=10)
    before = (getattr(model, name), model.rows)
    model.attempt(setattr, model, name, value)
    assert model.error == said and (getattr(model, name), model.rows) == before


def test_of_ten_thousand_long_rows_a_page_goes_to_the_browser() -> None:
    frame = pd.DataFrame({"text": [f"{i} " + "word " * 1_100 for i in range(10_000)], "label": list("ab") * 5_000})
    model = ExplorerModel(frame, page_size=50)
    assert model.n_pages == 200 and len(model.rows) == 50
    sent = {name: model.trait_values()[name] for name in model.trait_names() if name != "histogram"}
    assert len(json.dumps(sent)) < 30_000 and len(model.histogram.to_json()) < 30_000
    model.page = 200
    assert shown(model)[-1] == 10_000 and len(model.whole) == 5_000


def test_the_leak_report_is_the_guards_for_own_given_and_second_file(tmp_path: Path) -> None:
    frame = rows()
    twice = pd.concat([frame, frame.head(3)], ignore_index=True)
    model = ExplorerModel(twice)
    model.check(wait=True)
    assert model.leaks[0].startswith("rows: 3 of 63 rows (4.8%) repeat an earlier row: 3 the same text")
    assert "slmkit's own split, seed 0:" in model.leaks and model.leaks[-1].startswith("test: none of")
    given = ExplorerModel(twice.assign(part=["train"] * 60 + ["test"] * 3), split_column="part")
    assert given.part_options == [(ALL, None), ("train", "train"), ("test", "test")]
    given.part = "test"
    assert given.n_shown == 3
    given.check(wait=True)
    assert any(line.startswith("test: 3 of 3 rows (100.0%) stand in train") for line in given.leaks)
    other = tmp_path / "other.csv"
    frame.tail(2).to_csv(other, index=False)
    model.test_file = str(other)
    model.check(wait=True)
    want = leaks.check({"train": model.frame, "test": slmkit.read(frame.tail(2), few_labels=True)}).lines()
    assert list(model.leaks) == want and any(line.startswith("test: 2 of 2") for line in want)


def test_the_code_of_every_split_reports_what_was_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows_csv, other, split = tmp_path / "rows.csv", tmp_path / "it's.csv", tmp_path / "split.json"
    rows().to_csv(rows_csv, index=False)
    rows().tail(2).to_csv(other, index=False)
    splitfile.save(slmkit.split(slmkit.read(rows_csv), seed=3), split)
    model = ExplorerModel(rows_csv)
    for model.split, model.test_file in (("", ""), ("", str(other)), (str(split), "")):
        model.check(wait=True)
        exec(model.code.rpartition("\n")[0], {})  # but for the datasheet
        printed = capsys.readouterr().out.splitlines()
        assert printed and set(printed) <= set(model.leaks)


def test_odd_rows_are_the_datasheets_the_most_doubtful_first() -> None:
    frame = rows()
    frame.loc[[4, 20], "label"] = "spam"
    model = ExplorerModel(frame)
    model.look(wait=True)
    sheet = slmkit.datasheet(slmkit.read(frame), model=None)
    assert list(model.sheet) == sheet.lines()
    model.only_odd = True
    assert shown(model) == sheet.suspicious["source_row"].tolist() and {5, 21} <= set(shown(model))
    assert model.rows[0]["reason"] == sheet.suspicious["reason"][0] and model.rows[0]["suggestion"] == "ham"
    model.label = "ham"
    assert set(shown(model)) == set(sheet.suspicious.query("label == 'ham'")["source_row"])


def test_lengths_in_tokens_are_the_models() -> None:
    model = ExplorerModel(rows())
    model.count("dummy", wait=True)
    assert model.unit == "tokens" and model.lengths.startswith("Tokens (dummy) a text: median")
    n = slmkit.backends.count_tokens("dummy", [model.frame["text"][0]])[0]
    assert model.rows[0]["tokens"] == n
    with pytest.raises(SlmkitError, match="no-such-model"):
        model.count("no-such-model", wait=True)
    assert model.unit == "tokens" and model.busy == ""


def test_work_in_the_background_refuses_a_second_start_and_drops_what_came_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go, made = threading.Event(), explored.leak_report

    def slow(*args: Any) -> list[str]:
        assert go.wait(20)
        return made(*args)

    monkeypatch.setattr(explored, "leak_report", slow)
    model = ExplorerModel(rows())
    model.attempt(model.check)
    assert model.busy == "looking for leaks" and model.leaks == ()
    model.attempt(model.look)
    assert model.error == "still looking for leaks; what comes next has to wait until that is done"
    model.find = "fee"  # meanwhile pages answer
    assert model.n_shown == 20
    go.set()
    assert model.wait(20) and model.leaks and model.error == "" and model.n_shown == 20
    go.clear()
    model.check()
    model.open(rows(30))
    go.set()
    assert model.wait(20) and model.leaks == () and model.n_rows == 30


def test_an_error_in_the_background_is_said(tmp_path: Path) -> None:
    model = ExplorerModel(rows())
    model.test_file = str(tmp_path / "none.csv")
    model.check()
    assert model.wait(20) and model.error == f"no file at {tmp_path / 'none.csv'}" and model.busy == ""


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("text,label\nhello,a\n", "holds one class only ('a'); two are needed"),
        ("text,label\nhello,a\nbye,b\n", "class 'a' has one row"),
        ("text\nhello\nbye\n", "two columns are needed, texts and labels"),
    ],
)
def test_rows_that_no_study_can_take_are_shown_with_the_reason(tmp_path: Path, document: str, said: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(document)
    model = ExplorerModel(path)
    assert model.n_rows == document.count("\n") - 1 and model.rows[0]["text"] == "hello"
    assert model.notes[0].startswith("no study can take these rows as they are: ") and said in model.notes[0]
    found: dict[str, Any] = {}
    exec("\n".join(model.code.splitlines()[:3]), found)
    assert found["frame"].equals(model.frame)
    model.check(wait=True) if document.startswith("text\n") else None
    assert all("none of 2 rows" in line for line in model.leaks)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("fraud_mesages", "unknown task 'fraud_mesages'. Did you mean 'fraud_messages'?"),
        ("no/such.csv", "no file at no/such.csv"),
        ("bad.csv", "line 3 has 3 fields, the header 2"),
        ("  ", "nothing to open: give a task's name or a file"),
        (HOSTILE, "no file at <img src=x"),
    ],
)
def test_errors_of_reading_are_the_librarys_and_the_next_source_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("text,label\na,b\na,b,c\n")
    model = ExplorerModel(rows())
    model.attempt(model.open, source)
    assert said in model.error and "\x1b" not in model.error and "\u202e" not in model.error
    model.attempt(model.open, rows(30))
    assert model.error == "" and model.n_rows == 30


def test_a_task_whose_terms_are_not_accepted_shows_its_card_and_opens_once_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("SLMKIT_ASSETS", str(tmp_path))
    model = ExplorerModel()
    assert model.code == "import slmkit" and model.n_rows == 0
    model.attempt(model.check)
    assert model.error == "nothing is open: give a task's name, a file or a frame"
    model.attempt(model.open, "dialogsum")
    assert "To accept, once on this machine" in model.error and model.card and "non-commercial" in model.licence
    model.attempt(model.accept)
    assert "dialogsum is not on this disk" in model.error  # accepted; the rows are elsewhere
    assert model.card and model.rows == () and model.name == "dialogsum"


def test_hostile_rows_labels_columns_and_file_names_stay_short_text(tmp_path: Path) -> None:
    path = tmp_path / f"{HOSTILE.replace('/', '')[:60]}.csv"
    texts = [HOSTILE + f" {i}" for i in range(6)] + ["x" * 50_000, "$a$ \\(b\\) 'c'"]
    frame = pd.DataFrame({HOSTILE: texts, "__proto__": [HOSTILE, "b"] * 4})
    frame.to_csv(path, index=False)
    model = ExplorerModel(path, HOSTILE, "__proto__")
    model.check(wait=True)
    model.look(wait=True)
    said = [*(v for r in model.rows for v in r.values()), *model.leaks, *model.sheet, *model.notes, model.whole]
    said += [line["label"] for line in model.labels] + [name for name, _ in model.label_options] + [model.lengths]
    assert all(c.isprintable() or c == "\n" for one in said for c in str(one))
    assert max(len(str(line["text"])) for line in model.rows) == 200
    model.label = HOSTILE
    assert model.n_shown == 4
    found: dict[str, Any] = {}
    exec("\n".join(model.code.splitlines()[:3]), found)
    assert len(found["shown"]) == 4 and model.code.isprintable() is False and model.code.isascii()
    model.attempt(setattr, model, "label", "\u202e</script>")
    assert "\u202e" not in model.error


def test_a_closed_explorer_takes_nothing_that_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(explored, "leak_report", lambda *args: ["late"] if go.wait(20) else [])
    model = ExplorerModel(rows())
    model.check()
    model.close()
    go.set()
    assert model.wait(20) and model.leaks == ()


def test_nothing_but_rows_can_be_opened() -> None:
    with pytest.raises(InputError, match="task must be a task's name, a file or a frame; got 5"):
        ExplorerModel(5)
