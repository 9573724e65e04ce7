"""Reading: every unusable file is refused with its reason, every guess and dropped row is said. Splits leak nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slmkit import data
from slmkit.errors import InputError
from slmkit.splits import leaks

ROWS = [("Win a prize now", "spam"), ("See you at noon", "ham"), ("Free ring tone", "spam"), ("Call me, please", "ham")]


def frame_of(n: int, classes: str = "ab", **columns: list[str]) -> pd.DataFrame:
    """n rows whose texts are all different, digits aside."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    texts = ["text " + letters[i // 676 % 26] + letters[i // 26 % 26] + letters[i % 26] for i in range(n)]
    return pd.DataFrame({"text": texts, "label": [classes[i % len(classes)] for i in range(n)], **columns})


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def writer(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return writer


def four_files(folder: Path) -> list[Path]:
    frame = pd.DataFrame(ROWS, columns=["text", "label"])
    frame.to_csv(folder / "a.csv", index=False)
    frame.to_csv(folder / "a.tsv", index=False, sep="\t")
    frame.to_json(folder / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(folder / "a.parquet")
    return sorted(folder.iterdir())


def test_all_kinds_of_files_give_the_same_rows_and_the_same_hash(tmp_path: Path) -> None:
    frames = [data.read(path) for path in four_files(tmp_path)] + [
        data.read(pd.DataFrame(ROWS, columns=["text", "label"]))
    ]
    assert len(frames) == 5
    for frame in frames:
        assert list(frame.itertuples(index=False, name=None)) == [(*row, i + 1) for i, row in enumerate(ROWS)]
        assert frame.attrs == {"warnings": [], "sha256": frames[0].attrs["sha256"]}
    assert data.frame_sha256(frames[0][::-1]) != frames[0].attrs["sha256"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_by_content(write: Callable[..., Path], delimiter: str) -> None:
    lines = [f'"{text}"{delimiter}{label}' for text, label in ROWS]
    frame = data.read(write("a.csv", "\n".join([f"text{delimiter}label", *lines])))
    assert frame["text"].tolist() == [text for text, _ in ROWS]


def test_columns_named_otherwise_are_guessed_and_said(write: Callable[..., Path]) -> None:
    frame = data.read(write("a.csv", "when,Message,kind\n1,hello you,x\n2,bye now,x\n3,what is it,y\n4,nothing,y\n"))
    assert frame["label"].tolist() == ["x", "x", "y", "y"]
    assert frame.attrs["warnings"] == [
        "label column 'kind' taken because it alone has few values (2)",
        "text column 'Message' taken by its name",
    ]
    rows = [
        "the bank has written to you,0",
        "lunch at noon with everybody,1",
        "your card is blocked again,0",
        "bye then,1",
    ]
    warnings = data.read(write("b.csv", "\n".join(["note,flag", *rows]))).attrs["warnings"]
    assert warnings == [
        "label column 'flag' taken because it alone has few values (2)",
        "text column 'note' taken because no other is left",
    ]


def test_columns_that_cannot_be_told_apart_are_asked_for(write: Callable[..., Path]) -> None:
    path = write("a.csv", "one,two,three\na,b,c\na,d,c\ne,b,f\ne,d,f\n")
    with pytest.raises(InputError, match=r"which column holds the labels\? 3 of the columns could\. .*--label-column"):
        data.read(path)


def test_labels_become_stripped_strings_and_unusable_rows_are_counted(write: Callable[..., Path]) -> None:
    content = "text,label\na b, 1 \nc d,0\n   ,1\nno label,\ne f,1\ng h,0\n" + "x" * 100_000 + ",0\nshort\n"
    frame = data.read(write("a.csv", content))
    assert frame["label"].tolist() == ["1", "0", "1", "0", "0"]
    assert frame["text"].str.len().max() == 20_000
    assert frame.attrs["warnings"] == [
        "1 labels had spaces around them, which were taken off",
        "2 of 8 rows dropped: no label",
        "1 of 8 rows dropped: empty text or only spaces",
        "1 texts above 20,000 characters cut to that length",
    ]
    floats = data.read(pd.DataFrame({"text": ["a", "b", "c", "d", "e"], "label": [0, 1, 0, 1, None]}))
    assert floats["label"].tolist() == ["0", "1", "0", "1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty (0 bytes)"),
        ("a.csv", "\n\n", "holds no rows"),
        ("a.csv", "text,label\n", "has column names and no rows"),
        ("a.xlsx", "PK", "is not a readable workbook (cut off, altered or with a password)"),
        ("a.xlsx", "", "is empty (0 bytes)"),
        (
            "a.docx",
            "PK",
            "ending '.docx' is not supported. Allowed: .csv, .tsv, .jsonl, .ndjson, .parquet, .xlsx, .xlsm, .xls, .ods",
        ),
        ("a", "text,label\n", "ending 'none' is not supported"),
        ("a.csv", b"te\x00xt,label\nabc,x\n", "is not a text file: NUL at byte 2"),
        ("a.csv", "text,label\n".encode("utf-16"), "is UTF-16 (NUL at byte 3). Save it as UTF-8"),
        ("a.csv", b"text,label\na\x81,x\n", "byte 0x81 at offset 12 is neither UTF-8 nor Windows-1252"),
        ("a.csv", "text,label\nä,x\n".encode() + b"\xe4,y\n", "byte 0xe4 at offset 16 is not UTF-8, though 1 other"),
        ("a.csv", "text,label\na,x\nb,y,z,w\n", "line 3 has 4 fields, the header 2 (delimiter ',')"),
        ("a.csv", 'text,label\n"a,x\nb,y\n', 'row starting at line 2: a quote (") is opened and never closed'),
        ("a.csv", "text,text,label\na,b,x\n", "column names must differ; more than once: 'text'"),
        ("a.csv", "text\na\nb\n", "two columns are needed, texts and labels; there is only 'text'"),
        (
            "a.csv",
            "spam,hello\nham,bye\nham,win\nspam,call\n",
            "the first line looks like a row, not like column names",
        ),
        ("a.csv", "text,label\na,x\nb,x\n", "column 'label' holds one class only ('x'); two are needed"),
        ("a.csv", "text,label\na,x\nb,x\nc,y\n", "class 'y' has one row; merge it into another class or drop it"),
        ("a.csv", "text,label\na,\n ,x\n", "no usable row is left: 1 of 2 rows dropped: no label; 1 of 2 rows dropped"),
        ("a.jsonl", '{"text": "a"\n', "line 1 is not JSON: Expecting ',' delimiter (column 13)"),
        ("a.jsonl", '["a", "x"]\n', "line 1 is a list, not an object; JSONL has one {...} a line"),
        ("a.parquet", "PAR1 but not really", "is not a readable Parquet file (cut off or altered)"),
    ],
)
def test_unusable_files_are_refused_with_the_reason(
    write: Callable[..., Path], name: str, content: str | bytes, message: str
) -> None:
    path = write(name, content)
    with pytest.raises(InputError) as caught:
        data.read(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file at .*none\.csv"):
        data.read(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a folder, not a file"):
        data.read(tmp_path)


def test_all_problems_are_listed_at_once(write: Callable[..., Path]) -> None:
    path = write("a.csv", "text,label\n" + "a,b,c\n" * 7)
    with pytest.raises(InputError, match=r"7 problems\n- line 2 has 3.*\n- line 3(.|\n)*- and 2 more"):
        data.read(path)
    path = write("b.csv", "text,label\na,x\nb,y\n")
    with pytest.raises(InputError) as caught:
        data.read(path, "txet", "lable")
    assert "unknown column 'txet'. Did you mean 'text'?" in str(caught.value)
    assert "unknown column 'lable'. Did you mean 'label'? Known: text, label." in str(caught.value)
    with pytest.raises(InputError) as caught:
        data.read(path)
    assert "class 'x' has one row" in str(caught.value) and "class 'y' has one row" in str(caught.value)


def test_windows_1252_is_read_with_a_warning_and_a_byte_order_mark_is_no_part_of_a_name(
    write: Callable[..., Path],
) -> None:
    content = "text,label\nfünf €,x\nzwölf,x\na,y\nb,y\n"
    frame = data.read(write("a.csv", content.encode("cp1252")))
    assert frame["text"][0] == "fünf €"
    assert frame.attrs["warnings"] == ["the file is not UTF-8 (byte 0xfc at offset 12); read as Windows-1252"]
    marked = data.read(write("b.csv", content.encode("utf-8-sig")))
    assert marked.attrs == {"warnings": [], "sha256": frame.attrs["sha256"]}


def test_quotes_that_do_not_balance_in_a_tsv_are_part_of_the_texts(write: Callable[..., Path]) -> None:
    frame = data.read(write("a.tsv", 'label\ttext\nx\t"Hello\nx\tshe said "no"\ny\tbye\ny\t"quoted" and on\n'))
    assert frame["text"].tolist() == ['"Hello', 'she said "no"', "bye", '"quoted" and on']
    assert frame.attrs["warnings"] == ['quotes (") are not balanced; read as part of the texts']


def test_quoted_fields_keep_line_ends_delimiters_and_quotes(write: Callable[..., Path]) -> None:
    frame = data.read(write("a.csv", 'text,label\r\n"a, ""b""\r\nc",x\r\n\r\nd,x\r\ne,y\r\nf,y\r\n'))
    assert frame["text"].tolist() == ['a, "b"\r\nc', "d", "e", "f"]


def test_a_nul_in_a_row_is_read_as_the_replacement_sign_and_said(write: Callable[..., Path]) -> None:
    frame = data.read(write("a.csv", b"text,label\na\x00b,x\n\x00,x\nc,y\nd,y\n"))
    assert frame["text"].tolist() == ["a\ufffdb", "\ufffd", "c", "d"]
    assert frame.attrs["warnings"] == ["2 lines hold NUL bytes, which are read as \ufffd"]


def test_broken_surrogates_cannot_reach_a_tokenizer(write: Callable[..., Path]) -> None:
    lines = [json.dumps({"text": f"a \ud83d {i}", "label": str(i % 2)}) for i in range(4)]
    assert data.read(write("a.jsonl", "\n".join(lines)))["text"][0] == "a \ufffd 0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Hello,   WORLD!! ", "hello world"),
        ("Call 0906-174 now", "call 0906 174 now"),
        ("ﬁnance １２", "finance 12"),
        ("fr\u200bee \u202eprize", "free prize"),
        ("£5 🙂", "£5 🙂"),
        ("Straße", "strasse"),
        ("??!", "??!"),
        ("हिन्दी", "हिन्दी"),
    ],
)
def test_normalise_joins_what_a_reader_calls_the_same(text: str, expected: str) -> None:
    assert data.normalise(text) == expected


def test_deduplicate_keeps_the_first_and_drops_contradictions() -> None:
    frame = pd.DataFrame({"text": ["A b", "c", "a, B!", "d", "D."], "label": ["x", "x", "x", "x", "y"]})
    kept, n_dropped, n_conflicting = data.deduplicate(frame)
    assert kept.to_dict("list") == {"text": ["A b", "c"], "label": ["x", "x"]}
    assert (n_dropped, n_conflicting, list(kept.index)) == (1, 2, [0, 1])


def test_a_split_is_stratified_seeded_and_covers_every_row_once() -> None:
    frame = frame_of(1000, "aaaaaaaab")
    first, again, other = data.split(frame, seed=3), data.split(frame, seed=3), data.split(frame, seed=4)
    assert (len(first.train), len(first.test)) == (800, 200)
    assert sorted([*first.train.index, *first.test.index]) == list(range(1000))
    assert first.test.index.name == "row"
    assert first.test["label"].value_counts().to_dict() == {"a": 178, "b": 22}
    pd.testing.assert_frame_equal(first.test, again.test)
    assert set(first.test.index) != set(other.test.index)
    assert frame["text"][first.test.index].tolist() == first.test["text"].tolist()


def test_the_rows_of_a_seed_are_the_same_on_every_machine() -> None:
    assert data.split(frame_of(40), seed=7, test=4).test.index.tolist() == [6, 23, 32, 37]


def test_sizes_are_exact_and_the_test_rows_do_not_depend_on_train() -> None:
    frame = frame_of(500, "aaab")
    small, large = data.split(frame, seed=0, train=40, test=60), data.split(frame, seed=0, test=60)
    assert (len(small.train), len(small.test), len(large.train)) == (40, 60, 440)
    assert small.test.index.equals(large.test.index)
    assert small.train["label"].value_counts().to_dict() == {"a": 30, "b": 10}
    assert not set(small.train.index) & set(small.test.index)


def test_groups_never_straddle_even_when_a_size_is_asked_for() -> None:
    frame = frame_of(300, "aab", group=[f"g{i // 7}" if i % 2 else "" for i in range(300)])
    for arguments in ({}, {"test": 61}, {"test": 50, "train": 100}):
        parts = data.split(frame, seed=1, **arguments)
        shared = set(parts.train["group"]) & set(parts.test["group"]) - {""}
        assert not shared, shared
        assert len(parts.test) == arguments.get("test", len(parts.test)) and len(parts.test) >= 50
        assert len(parts.train) == arguments.get("train", len(parts.train))
        assert set(parts.train["label"]) == set(parts.test["label"]) == {"a", "b"}


def test_a_group_that_is_cut_for_an_exact_size_is_used_nowhere_else() -> None:
    frame = frame_of(40, "ab", group=[f"{'ab'[i % 2]}{i // 20}" for i in range(40)])
    parts = data.split(frame, seed=0, test=6)
    assert len(parts.test) == 6 and not set(parts.train["group"]) & set(parts.test["group"])
    assert parts.warnings == ("14 rows used nowhere: they belong to groups that gave test rows",)


def test_texts_that_differ_in_digits_or_spelling_stay_on_one_side() -> None:
    base = frame_of(200)
    twins = base.assign(text=base["text"] + " call 0906" + pd.Series(range(200)).astype(str))
    again = base.assign(text=base["text"] + " call 0807")
    parts = data.split(pd.concat([twins, again, base.assign(text=base["text"].str.upper() + "!"), base]), seed=0)
    assert parts.warnings == ("200 duplicate rows dropped (same text after normalisation, first one kept)",)
    keys = [
        set(part["text"].map(lambda t: data.normalise(t).rstrip("0123456789"))) for part in (parts.train, parts.test)
    ]
    assert len(parts.train) + len(parts.test) == 600 and not keys[0] & keys[1]


def test_generated_rows_that_differ_in_digits_alone_can_still_be_split() -> None:
    frame = pd.DataFrame({"text": [f"row {i}" for i in range(50)], "label": list("ab") * 25})
    parts = data.split(frame, seed=0)
    assert (len(parts.train), len(parts.test)) == (40, 10)
    assert parts.warnings == ("class 'a' is near-duplicates only; such rows may stand on both sides",)


def near_pairs(label: str, n: int) -> list[tuple[str, str]]:
    """Texts of `n` campaigns, two of each that differ in their number."""
    words = [f"{label}{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(n)]
    return [(f"{w} offer {w}x for {w}y today, call {number}", label) for w in words for number in (11, 22)]


def test_a_class_of_near_duplicates_alone_costs_the_others_nothing() -> None:
    rows = [*near_pairs("a", 40), *near_pairs("b", 40), *((f"the code is {i}", "c") for i in range(6))]
    frame = pd.DataFrame(rows, columns=["text", "label"])
    for seed in range(5):
        parts = data.split(frame, seed=seed)
        assert parts.warnings == ("class 'c' is near-duplicates only; such rows may stand on both sides",)
        report = leaks.check({"train": parts.train, "test": parts.test}, within=False)
        seen = parts.test["label"].iloc[report.across[0].rows["row"]]
        assert set(seen) <= {"c"}, seen.tolist()


@pytest.mark.parametrize(("n_template", "n_test"), [(6, 40), (95, 25)])
def test_a_template_stays_whole_where_a_split_can_do_without_cutting_it(n_template: int, n_test: int) -> None:
    base = frame_of(200).query("label == 'a'").head(100 - n_template)
    template = pd.DataFrame({"text": [f"your code is {i}" for i in range(n_template)], "label": "a"})
    other = frame_of(400).query("label == 'b'").head(100)
    frame = pd.concat([base, template, other], ignore_index=True)
    for seed in range(10):
        parts = data.split(frame, seed=seed)
        assert leaks.check({"train": parts.train, "test": parts.test}, within=False).n_leaking == 0
        assert len(parts.test) >= n_test and set(parts.test["label"]) == {"a", "b"}
        few = len(parts.test) < 36
        assert any("test rows instead of 40: groups and near-duplicates" in w for w in parts.warnings) == few


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test": 101}, "101 test rows and at least 2 train rows, one a class, were asked for; there are 100 rows"),
        ({"train": 90, "test": 20}, "20 test rows and 90 train rows were asked for; there are 100 rows"),
        ({"train": 81}, r"20 test rows \(20%\) and 81 train rows were asked for; there are 100 rows after"),
        ({"train": 1, "test": 0}, r"train must be at least 2, one row a class; got 1; test must be .* got 0"),
        ({"test_share": 1.5}, "test_share must be between 0 and 1; got 1.5"),
        ({"seed": -1}, "seed must be a whole number from 0; got -1"),
    ],
)
def test_impossible_sizes_are_refused_with_the_numbers(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.split(frame_of(100), **{"seed": 0, **arguments})


def test_classes_that_cannot_be_on_both_sides_are_named() -> None:
    frame = pd.DataFrame({"text": ["a", "b", "c", "C!", "d"], "label": ["x", "x", "y", "y", "x"]})
    with pytest.raises(InputError, match=r"class 'y' has one row after de-duplication \(1 duplicate rows dropped"):
        data.split(frame, seed=0)
    with pytest.raises(InputError, match="class 'b' has all its rows in one group"):
        data.split(frame_of(10, group=["", "g"] * 5), seed=0)
    with pytest.raises(InputError, match="two classes are needed; left after de-duplication"):
        data.split(pd.DataFrame({"text": ["a", "b", "b", "c"], "label": ["x", "x", "y", "x"]}), seed=0)


@pytest.mark.slow
def test_fifty_thousand_rows_are_split_quickly() -> None:
    rng = np.random.default_rng(0)
    words = np.array([f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(500)])
    texts = [" ".join(words[row]) for row in rng.integers(0, 500, (50_000, 20))]
    frame = pd.DataFrame({"text": texts, "label": rng.integers(0, 20, 50_000).astype(str)})
    started = time.perf_counter()
    parts = data.split(frame, seed=0)
    assert time.perf_counter() - started < 5  # about 0.8 s on two quiet cores
    assert (len(parts.train), len(parts.test)) == (40_000, 10_000)
