"""A split file names rows by their hash: the same rows in any order give the same split, other rows are refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
from full_disk import open_on_full_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from slmkit import data, files
from slmkit.errors import InputError, SlmkitError
from slmkit.splits import Split, splitfile
from slmkit.splits.splitfile import GivenSplit


def frame_of(n: int) -> pd.DataFrame:
    letters = "abcdefghijklmnopqrstuvwxyz"
    texts = [
        f"{letters[i // 26 % 26]}{letters[i % 26]}o says {letters[i % 26]}{letters[i // 26 % 26]}e" for i in range(n)
    ]
    return pd.DataFrame({"text": texts, "label": ["ab"[i % 2] for i in range(n)]})


def rows_of(frame: pd.DataFrame) -> list[tuple[str, str]]:
    return sorted(zip(frame["text"], frame["label"], strict=True))


def repeated(path: Path, frame: pd.DataFrame) -> Split:
    return data.given(GivenSplit(file=path).applied(frame), seed=0)


def test_a_shuffled_file_gives_the_same_split(tmp_path: Path) -> None:
    frame = frame_of(200)
    first = data.split(frame, seed=5, train=100, test=40)
    path = splitfile.save(first, tmp_path / "split.json", data_sha256="ab" * 32, seed=5)
    for again in (frame, frame.sample(frac=1, random_state=1), frame[::-1].set_axis(range(7, 207))):
        second = repeated(path, again)
        assert rows_of(second.train) == rows_of(first.train) and rows_of(second.test) == rows_of(first.test)
        assert second.given and (len(second.train), len(second.test)) == (100, 40)
        assert second.warnings == ("60 rows of the given split are neither train nor test and are not used",)


def test_the_file_says_how_to_hash_a_row_and_holds_no_text(tmp_path: Path) -> None:
    frame = frame_of(40).assign(text=lambda f: f["text"] + " größer 🙂")
    split = data.split(frame, seed=0)
    path = splitfile.save(split, tmp_path / "split.json", data_sha256="ab" * 32, seed=0)
    told = json.loads(path.read_text())
    assert (told["format"], told["data_sha256"], told["seed"]) == ("slmkit-split-1", "ab" * 32, 0)
    assert told["row"] == "first 24 hex digits of the SHA-256 of the JSON list [text, label]"
    text, label = split.test[["text", "label"]].iloc[0]
    assert hashlib.sha256(json.dumps([text, label]).encode()).hexdigest()[:24] == told["test"][0]
    assert "says" not in path.read_text()
    assert splitfile.row_hash("a", "b") == "3554d2b8a1e34099053865de", "the same on every machine and in every version"


def test_other_data_are_refused_with_the_count_of_missing_rows(tmp_path: Path) -> None:
    frame = frame_of(100)
    path = splitfile.save(data.split(frame, seed=0), tmp_path / "split.json")
    relabelled = frame.assign(label=["b", *frame["label"][1:]])
    for other, missing in ((frame[:90], 10), (relabelled, 1), (frame.assign(text=frame["text"].str.upper()), 100)):
        with pytest.raises(InputError) as caught:
            splitfile.load(path, other)
        assert str(caught.value) == (
            f"{path} names 100 rows, {missing} of which are not in these data; it was made from other rows"
        )


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("ab"), st.sampled_from(["train", "test", ""]))),
    st.randoms(use_true_random=False),
)
def test_published_parts_that_repeat_rows_come_back_with_every_copy(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], random: object
) -> None:
    frame = pd.DataFrame(rows, columns=["text", "label", "part"], dtype=object)
    split = Split(frame[frame["part"] == "train"], frame[frame["part"] == "test"], ())
    path = splitfile.save(split, tmp_path_factory.mktemp("split") / "split.json")
    random.shuffle(rows)  # type: ignore[attr-defined]
    shuffled = pd.DataFrame(rows, columns=["text", "label", "part"], dtype=object)
    parts = splitfile.load(path, shuffled)
    for part, whole in (("train", split.train), ("test", split.test)):
        assert rows_of(shuffled[(parts == part).to_numpy()]) == rows_of(whole)
    assert parts.index.equals(shuffled.index)


def test_a_split_file_is_replaced_and_any_other_file_is_left_alone(tmp_path: Path) -> None:
    first, second = data.split(frame_of(60), seed=0), data.split(frame_of(60), seed=1)
    path = splitfile.save(first, tmp_path / "split.json")
    splitfile.save(second, path)
    assert rows_of(repeated(path, frame_of(60)).test) == rows_of(second.test)
    mine = tmp_path / "settings.json"
    mine.write_text('{"theme": "dark"}')
    with pytest.raises(InputError, match="settings.json is not a split file: it must be a JSON object of the format"):
        splitfile.save(first, mine)
    assert mine.read_text() == '{"theme": "dark"}' and [p.name for p in tmp_path.iterdir() if p.suffix != ".json"] == []
    with pytest.raises(InputError, match="a split file's name must end in .json; got .*split.csv"):
        splitfile.save(first, tmp_path / "split.csv")
    with pytest.raises(InputError, match="there is no folder .*none"):
        splitfile.save(first, tmp_path / "none" / "split.json")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "text,label\n",
        "[1, 2]",
        "null",
        '{"format": "slmkit-split-1", "train": [], "test": "all"}',
        '{"format": "slmkit-split-1", "train": [["a"]], "test": []}',
        '{"format": "other", "train": [], "test": []}',
        "[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_split_file_is_refused(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "split.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=r"split\.json is not a split file: "):
        splitfile.load(path, frame_of(4))
    with pytest.raises(InputError, match=r"no split file at .*none\.json"):
        splitfile.load(tmp_path / "none.json", frame_of(4))


def test_what_a_study_is_told_names_a_column_a_split_file_or_a_test_file() -> None:
    assert GivenSplit.of(None, None) == GivenSplit() and not GivenSplit().is_asked
    assert GivenSplit.of("fold", None) == GivenSplit(column="fold") and GivenSplit.of("fold", None).is_asked
    assert GivenSplit.of("a/split.JSON", None) == GivenSplit(file=Path("a/split.JSON"))
    assert GivenSplit.of(None, "test.csv") == GivenSplit(test_file=Path("test.csv"))
    with pytest.raises(InputError, match="split and test_file both say which rows are for testing; give one of them"):
        GivenSplit.of("part", "test.csv")


def test_published_parts_are_used_as_they_are_and_asked_for_only_where_they_exist() -> None:
    frame = frame_of(40).assign(part=["train"] * 20 + ["test"] * 12 + ["validation"] * 8)
    split = data.given(GivenSplit(column="part").applied(frame), seed=0, test=6)
    assert split.train.index.tolist() == list(range(20)) and len(split.test) == 6
    assert set(split.test.index) < set(range(20, 32)) and split.test["label"].value_counts().to_dict() == {
        "a": 3,
        "b": 3,
    }
    assert split.given and "8 rows of the given split are neither train nor test" in split.warnings[0]
    with pytest.raises(InputError, match="these data come without published parts; let slmkit split them, or give a"):
        GivenSplit(column="part").applied(frame_of(4))
    with pytest.raises(InputError, match="the given split has classes among its test rows that no train row has: 'a'"):
        data.given(frame[frame["label"].eq("b") | frame["part"].eq("test")], seed=0)
    with pytest.raises(InputError, match="the given split has no train rows"):
        data.given(frame[20:], seed=0)
    with pytest.raises(
        InputError, match="13 test rows were asked for; the given split has 12, and at least 2 are needed"
    ):
        data.given(frame, seed=0, test=13)


def test_validation_rows_stand_in_where_nobody_published_test_rows() -> None:
    frame = frame_of(40).assign(part=["train"] * 30 + ["validation"] * 10)
    split = data.given(frame, seed=0)
    assert split.test.index.tolist() == list(range(30, 40))
    assert split.warnings == ("the given split has no test rows; those for validation are scored",)


def test_the_hash_of_a_split_is_that_of_its_rows_whatever_their_order_and_origin(tmp_path: Path) -> None:
    frame = pd.concat([frame_of(80), frame_of(10)], ignore_index=True)
    first = data.split(frame, seed=3)
    path = splitfile.save(first, tmp_path / "split.json", licence="CC BY 4.0")
    document = json.loads(path.read_text())
    assert document["licence"] == "CC BY 4.0" and document["split_sha256"] == splitfile.split_sha256(first)
    for again in (frame, frame.sample(frac=1, random_state=1)):
        assert splitfile.split_sha256(repeated(path, again)) == document["split_sha256"]
    assert splitfile.split_sha256(data.split(frame, seed=4)) != document["split_sha256"]
    assert splitfile.split_sha256(Split(first.test, first.train, ())) != document["split_sha256"]


def test_rows_without_labels_cannot_be_split() -> None:
    with pytest.raises(InputError, match="a split needs the columns text and label; no label among 'text', 'target'"):
        data.split(pd.DataFrame({"text": ["a", "b"], "target": ["x", "y"]}), seed=0)


def test_a_disk_that_refuses_the_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "open", open_on_full_disk(100), raising=False)
    with pytest.raises(SlmkitError, match=r"split\.json: the disk is full"):
        splitfile.save(data.split(frame_of(40), seed=0), tmp_path / "split.json")
    assert not list(tmp_path.iterdir())
