"""Reading one's own data from Excel, `datasets`, frames and several columns, with published parts and every guess."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pandas as pd
import pytest

import slmkit
from slmkit import data
from slmkit.errors import InputError

ROWS = [("Win a prize now", "spam"), ("See you at noon", "ham"), ("Free ring tone", "spam"), ("Call me, please", "ham")]
CLASSES = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["ham", "spam"]))
ODS = """<?xml version="1.0" encoding="UTF-8"?><office:document-content
 xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" office:version="1.2"
 xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"
 xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"><office:body><office:spreadsheet>
<table:table table:name="One">{rows}</table:table></office:spreadsheet></office:body></office:document-content>"""


def workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, lines in sheets.items():
        sheet = book.create_sheet(name)
        for line in lines:
            sheet.append(line)
    book.save(path)
    return path


def open_document(path: Path, lines: list[tuple[str, str]]) -> Path:
    cell = '<table:table-cell office:value-type="string"><text:p>{}</text:p></table:table-cell>'
    rows = "".join(f"<table:table-row>{''.join(map(cell.format, line))}</table:table-row>" for line in lines)
    manifest = '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>'
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("META-INF/manifest.xml", manifest)
        archive.writestr("content.xml", ODS.format(rows=rows))
    return path


def of_rows(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    return list(frame[["text", "label"]].itertuples(index=False, name=None))


def dataset(*labels: int) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(len(labels))], "label": labels}, CLASSES)


def test_a_workbook_and_an_open_document_give_the_rows_of_the_csv(tmp_path: Path) -> None:
    pd.DataFrame(ROWS, columns=["text", "label"]).to_csv(tmp_path / "a.csv", index=False)
    sources = [
        tmp_path / "a.csv",
        workbook(tmp_path / "a.xlsx", One=[["text", "label"], *map(list, ROWS)]),
        open_document(tmp_path / "a.ods", [("text", "label"), *ROWS]),
    ]
    frames = [slmkit.read(source) for source in sources]
    for frame in frames:
        assert of_rows(frame) == ROWS
        assert frame.attrs == {"warnings": [], "sha256": frames[0].attrs["sha256"]}


def test_the_first_sheet_with_rows_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    lines = [["text", "label"], *map(list, ROWS)]
    path = workbook(tmp_path / "a.xlsx", Cover=[], Names=[["text", "label"]], Mine=[[], *lines], Old=lines, Older=lines)
    frame = data.read(path)
    assert of_rows(frame) == ROWS
    assert frame.attrs["warnings"] == ["sheet 'Mine' read; the others were not: 'Old', 'Older'"]


def test_cells_of_a_workbook_are_what_a_person_sees(tmp_path: Path) -> None:
    """Whole numbers without ".0"; NA and null are words; formulas are not evaluated; nameless empty columns go."""
    lines = [
        ["text", None, "label", None],
        ["NA", None, 1, None],
        [12, None, 1.0, None],
        ["null", None, 0, None],
        ["='x'!A1", None, "0", None],
        [None, None, 1, None],
        ["no label", None, None, None],
        [None, None, None, None],
        ["late", None, 0, None],
    ]
    frame = data.read(workbook(tmp_path / "a.xlsx", One=lines), "text", "label")
    assert of_rows(frame) == [("NA", "1"), ("12", "1"), ("null", "0"), ("late", "0")]
    assert frame.attrs["warnings"] == [
        "1 of 7 rows dropped: no label",
        "2 of 7 rows dropped: empty text or only spaces",
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no sheet with column names and rows"),
        ([["text", "label"]], "has no sheet with column names and rows"),
        ([["text", "text", "label"], ["a", "b", "c"]], "column names must differ; more than once: 'text'"),
        ([["text"], ["a"]], "two columns are needed, texts and labels; there is only 'text'"),
    ],
)
def test_a_workbook_without_a_table_is_refused(tmp_path: Path, lines: list[list[Any]], message: str) -> None:
    path = workbook(tmp_path / "a.xlsx", One=lines)
    with pytest.raises(InputError) as caught:
        data.read(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize("name", ["a.xlsx", "a.xlsm", "a.xls", "a.ods"])
def test_what_is_no_workbook_is_refused(tmp_path: Path, name: str) -> None:
    whole = workbook(tmp_path / "whole.xlsx", One=[["text", "label"], *map(list, ROWS)]).read_bytes()
    for content in (b"text,label\na,b\n", whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"is not a readable workbook \(cut off, altered or with a password\)"):
            data.read(tmp_path / name)
    with pytest.raises(InputError, match=r"no file at .*none\.xlsx"):
        data.read(tmp_path / "none.xlsx")


def test_class_numbers_of_a_dataset_become_their_names() -> None:
    frame = data.read(dataset(1, 0, 1, 0, -1))
    assert frame["label"].tolist() == ["spam", "ham", "spam", "ham"]
    assert frame.attrs["warnings"] == ["1 of 5 rows dropped: no label"]
    plain = datasets.Dataset.from_dict({"body": ["a text", "b text", "c text", "d text"], "kind": [1, 0, 1, 0]})
    frame = data.read(plain)
    assert frame["label"].tolist() == ["1", "0", "1", "0"]
    assert frame.attrs["warnings"][0] == "label column 'kind' taken because it alone has few values (2)"


def test_a_datasetdict_keeps_its_parts_and_says_which_names_are_none() -> None:
    parts = datasets.DatasetDict(train=dataset(0, 1), dev=dataset(1), test=dataset(0, 1), unsupervised=dataset(-1, 1))
    frame = data.read(parts)
    assert frame["part"].tolist() == ["train", "train", "validation", "test", "test", ""]
    assert frame.attrs["warnings"] == [
        "neither train, validation nor test by their names: 'unsupervised' (2 rows)",
        "1 of 7 rows dropped: no label",
    ]
    alone = data.read(datasets.DatasetDict(train=dataset(0, 1, 0, 1)))
    assert alone["part"].tolist() == ["train"] * 4, "what load_dataset gives for a file"


def test_a_dataset_without_rows_and_things_that_hold_none_are_refused() -> None:
    with pytest.raises(InputError, match="the Dataset has no rows"):
        data.read(dataset())
    with pytest.raises(InputError, match="the frame has no rows"):
        data.read(pd.DataFrame({"text": [], "label": []}))
    for thing, name in (([("a", "b")], "list"), (7, "int"), ({"text": ["a"]}, "dict"), (None, "NoneType")):
        with pytest.raises(InputError, match=f"a file, a frame or a Dataset can be read; got {name}"):
            data.read(thing)


@pytest.mark.parametrize("dtype", ["string", "object", "category"])
def test_what_pandas_calls_missing_is_missing(dtype: str) -> None:
    frame = pd.DataFrame({"text": ["a", "b", "c", "d", None, "f"], "label": ["x", "x", "y", "y", "x", None]})
    read = data.read(frame.astype(dtype))
    assert of_rows(read) == [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")]
    numbers = pd.DataFrame({"text": list("abcde"), "label": pd.array([0, 0, 1, 1, None], dtype="Int64")})
    assert data.read(numbers)["label"].tolist() == ["0", "0", "1", "1"]


def test_a_frame_whose_column_names_repeat_is_refused() -> None:
    frame = pd.DataFrame([["a", "x", "y"]], columns=["text", "label", "label"])
    with pytest.raises(InputError, match="the frame: column names must differ; more than once: 'label'"):
        data.read(frame)


MAILS = pd.DataFrame(
    {
        "subject": ["Prize", "", "Lunch", "Rent"],
        "body": ["You have won", "Pay now", None, "It is due"],
        "a,b": ["1", "2", "3", "4"],
        "kind": ["spam", "spam", "ham", "ham"],
    }
)


@pytest.mark.parametrize("given", [["subject", "body"], "subject,body", "subject, body", ("subject", "body")])
def test_several_text_columns_are_joined_in_their_order_and_empty_ones_leave_no_line(given: Any) -> None:
    frame = data.read(MAILS, given, "kind")
    assert frame["text"].tolist() == ["Prize\nYou have won", "Pay now", "Lunch", "Rent\nIt is due"]
    assert data.read(MAILS, ["body", "subject"], "kind")["text"][0] == "You have won\nPrize"


def test_a_name_with_a_comma_is_one_column_where_there_is_one() -> None:
    assert data.read(MAILS, "a,b", "kind")["text"].tolist() == ["1", "2", "3", "4"]


def test_all_wrong_columns_are_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        data.read(MAILS, "subjct,bodi", "kid", split_column="fold")
    for name, near in (("subjct", "'subject'"), ("bodi", "'body'"), ("kid", "'kind'"), ("fold", "")):
        assert f"unknown column '{name}'." + (f" Did you mean {near}?" if near else "") in str(caught.value)
    assert "the frame: 4 problems" in str(caught.value)
    with pytest.raises(InputError, match="text and label cannot both be column 'kind'"):
        data.read(MAILS, ["body", "kind"], "kind")


def parted(*values: str | None) -> pd.DataFrame:
    n = len(values)
    return pd.DataFrame({"text": [f"text {i}" for i in range(n)], "label": ["a", "b"] * (n // 2), "fold": list(values)})


def test_a_split_column_is_read_in_the_words_people_use() -> None:
    frame = data.read(parted("Train", "TRAINING", "tr", " train ", "dev", "valid", "Test", "eval", None, ""),
                      split_column="fold")  # fmt: skip
    assert frame["part"].tolist() == ["train"] * 4 + ["validation"] * 2 + ["test"] * 2 + ["", ""]
    assert "part" not in data.read(parted("train", "test", "train", "test"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("train", "test", "later", "0"), "column 'fold' must say train, validation or test (or nothing, for rows of no"
         " part); it says '0', 'later'"),
        (("train",) * 4, "column 'fold' names no test row"),
        (("test",) * 4, "column 'fold' names no train row"),
        ((None,) * 4, "column 'fold' names no train and no test row"),
    ],
)  # fmt: skip
def test_a_split_column_that_splits_nothing_is_refused(values: tuple[str | None, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        data.read(parted(*values), split_column="fold")
    assert str(caught.value) == f"the frame: {message}"


def test_a_split_column_is_never_taken_for_the_labels_or_the_texts() -> None:
    frame = pd.DataFrame(
        {
            "note": [f"a text that is longer than the others, number {i}" for i in range(8)],
            "mark": ["good", "bad"] * 4,
            "fold": ["train"] * 4 + ["test"] * 4,
        }
    )
    read = data.read(frame, split_column="fold")
    assert read["label"].tolist() == ["good", "bad"] * 4 and read["part"].tolist() == frame["fold"].tolist()
    assert read.attrs["warnings"] == [
        "label column 'mark' taken because it alone has few values (2)",
        "text column 'note' taken because no other is left",
    ]


def test_two_files_become_one_frame_with_parts() -> None:
    train = data.read(parted("", "", "", "").assign(group=["g", "", "", "g"]))
    test = data.read(parted("", "", "", "").assign(text=["new one", "new two", "new three", "new four"]))
    both = data.joined(train, test)
    assert (
        both["part"].tolist() == ["train"] * 4 + ["test"] * 4
        and both["group"].tolist() == ["g", "", "", "g"] + [""] * 4
    )
    assert both.attrs["sha256"] == data.frame_sha256(both) and both.index.tolist() == list(range(8))


def test_columns_without_a_name_are_called_by_their_place(tmp_path: Path) -> None:
    path = tmp_path / "spam.csv"
    path.write_bytes(
        "v1,v2,,,\nham,see you,,,\nspam,win £100,,,\nham,caf\xe9 at noon,,,\nspam,free prize,,,\n".encode("cp1252")
    )
    frame = data.read(path)
    assert of_rows(frame)[1] == ("win £100", "spam") and len(frame) == 4
    assert data.rows(path).columns.tolist() == ["text", "source_row", "label"]
    path.write_text(",text\n0,see you at noon\n1,SEE YOU AT NOON\n")
    assert data.rows(path).columns.tolist() == ["text", "source_row"], "a nameless index is no label"
