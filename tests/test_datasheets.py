"""A datasheet counts, measures in the model's tokens, and puts planted label errors at the top of its list."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slmkit import backends, datasheets, tasks
from slmkit.datasheets import datasheet
from slmkit.errors import InputError, MissingExtra

ENGLISH = ["The parcel of {} waits at the depot", "Please confirm the {} of your account", "The {} is due on Monday"]
GERMAN = ["Das Paket mit der {} liegt in der Filiale", "Bitte bestätigen Sie heute noch die {}", "Die {} ist fällig"]
THINGS = ["Rechnung", "Kennung", "Nummer", "Zahlung", "Lieferung", "Mahnung", "Buchung", "Karte"]


def bilingual() -> pd.DataFrame:
    texts = [form.format(thing) for form in (*ENGLISH, *GERMAN) for thing in THINGS]
    return pd.DataFrame({"text": texts, "label": ["en"] * 24 + ["de"] * 24})


def test_counts_lengths_and_what_would_be_cut() -> None:
    frame = pd.DataFrame({"text": ["a" * n for n in (10, 20, 30, 40, 50)], "label": ["x", "x", "x", "y", "y"]})
    sheet = datasheet(frame, model="dummy", max_tokens=31)
    assert (sheet.n_rows, sheet.labels, sheet.model) == (5, {"x": 3, "y": 2}, "dummy")
    assert sheet.characters == {"p5": 12, "p50": 30, "p95": 48, "p100": 50}
    assert sheet.tokens == {"p5": 13, "p50": 31, "p95": 49, "p100": 51}, "the dummy's tokens are bytes, and one more"
    assert sheet.n_cut == 2
    lines = sheet.lines()
    assert lines[0] == "5 rows in 2 classes: x 3 (60%), y 2 (40%)"
    assert "Characters: median 30, nine in ten from 12 to 48, longest 50" in lines
    assert (
        "Tokens of dummy: median 31, nine in ten from 13 to 49, longest 51; 2 texts (40.0%) are longer than 31 and lose"
        " their end"
    ) in lines


def test_without_a_model_no_tokens_are_counted() -> None:
    sheet = datasheet(bilingual(), model=None)
    assert sheet.tokens == {} and sheet.n_cut == 0 and not any("Tokens" in line for line in sheet.lines())


@pytest.mark.real
@pytest.mark.slow
def test_tokens_are_those_of_the_packaged_model(real_model: str) -> None:
    frame = tasks.get("fraud_messages").load()
    sheet = datasheet(frame, max_tokens=64)
    lengths = backends.count_tokens(real_model, frame["text"].tolist())
    assert sheet.model == real_model and sheet.tokens["p100"] == lengths.max()
    assert sheet.tokens["p50"] == int(np.percentile(lengths, 50)) < sheet.characters["p50"] / 2
    assert sheet.n_cut == (lengths > 64).sum() > 0


def test_languages_are_told_where_there_is_enough_text() -> None:
    frame = bilingual()
    frame["text"] += frame["label"].map({"en": ", and nobody has paid for it", "de": ", und niemand hat sie bezahlt"})
    for text in ("ok 12345 !!!", "OTP 993021", "🙂🙂🙂"):
        frame.loc[len(frame)] = [text, "en"]
    sheet = datasheet(frame, model=None)
    assert sheet.languages == {"en": 24, "de": 24, "?": 3}
    assert "Languages: en 24, de 24, ? 3" in sheet.lines()


def test_telling_words_are_those_of_the_class() -> None:
    sheet = datasheet(bilingual(), model=None)
    assert {"depot", "parcel", "account", "monday"} <= set(sheet.telling["en"])
    assert {"filiale", "liegt", "mit"} <= set(sheet.telling["de"])
    assert not set(sheet.telling["en"]) & set(sheet.telling["de"])
    assert not {"rechnung", "zahlung"} & {*sheet.telling["en"], *sheet.telling["de"]}, "they occur in both"


@pytest.mark.parametrize(
    ("task", "seed"),
    [("fraud_messages", 0), *(pytest.param("support_tickets", seed, marks=pytest.mark.slow) for seed in range(3))],
)
def test_four_of_five_flipped_labels_are_among_the_first_rows_of_the_list(task: str, seed: int) -> None:
    frame, rng = tasks.get(task).load(), np.random.default_rng(seed)
    classes, flipped = sorted(set(frame["label"])), rng.permutation(len(frame))[:5]
    for row in flipped:
        frame.loc[row, "label"] = rng.choice([name for name in classes if name != frame["label"][row]])
    sheet = datasheet(frame, model=None)
    first = sheet.suspicious["row"].tolist()[: int(0.15 * len(frame))]
    assert len(set(flipped) & set(first)) >= 4
    assert len(sheet.suspicious) <= 0.15 * len(frame) + 1 and sheet.suspicious["row"].is_unique
    assert 0.6 < (sheet.floor_accuracy or 0) < 1
    where = sheet.suspicious["row"].isin(flipped)
    assert sheet.suspicious["label"][where].tolist() == frame["label"][sheet.suspicious["row"][where]].tolist()
    assert (sheet.suspicious["suggestion"] != sheet.suspicious["label"]).all()
    top = sheet.suspicious.iloc[0]
    assert top["reason"] == f"{top['suggestion']!r} is likelier by the other rows"


def test_the_same_text_under_two_labels_comes_first_with_the_other_labels() -> None:
    frame = pd.concat([bilingual(), pd.DataFrame({"text": ["das paket mit der RECHNUNG liegt in der filiale!"],
                                                  "label": ["en"]})], ignore_index=True)  # fmt: skip
    sheet = datasheet(frame, model=None)
    told = sheet.suspicious.head(2)
    assert told["row"].tolist() == [24, 48] and told["suggestion"].tolist() == ["en", "de"]
    assert told["reason"].tolist() == ["the same text stands under another label"] * 2
    assert told["confidence"].isna().all()
    line = next(line for line in sheet.lines() if "- row 49, 'en'" in line)
    assert line.endswith(
        ': the same text stands under another label: "das paket mit der RECHNUNG liegt in der filiale!"'
    )


def test_repetitions_and_the_chance_of_a_leak_are_told() -> None:
    frame = pd.concat([bilingual(), bilingual().head(10)], ignore_index=True)
    sheet = datasheet(frame, model=None)
    assert sheet.repeats.within[0].counts["exact"] == 10
    assert any("would have a copy or near-copy in the rest" in line for line in sheet.lines())


def test_the_sheet_as_json_holds_no_text() -> None:
    told = json.loads(json.dumps(datasheet(bilingual(), model="dummy").to_dict(), allow_nan=False))
    assert told["labels"] == {"en": 24, "de": 24} and told["n_cut"] == 0 and "overlaps" in told
    assert "Paket mit" not in json.dumps(told)


def test_notes_of_reading_are_part_of_the_sheet() -> None:
    frame = bilingual()
    frame.attrs["warnings"] = ["2 of 50 rows dropped: no label"]
    assert "Note: 2 of 50 rows dropped: no label" in datasheet(frame, model=None).lines()


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"text": [f"{c}x {c} yes" for c in "abcdefghijkl"], "label": "a"}),
        pd.DataFrame({"text": ["🙂", "🙁", "!!!", "a", "the", "of"] * 2, "label": list("aabbab") * 2}),
        pd.DataFrame({"text": [f"win the prize of today {c}" for c in "abcdefgh"] + ["see you at lunch"] * 8,
                      "label": ["a"] * 8 + ["b"] * 8}),
        pd.DataFrame({"text": ["one", "two", "three"], "label": ["a", "b", "b"]}),
    ],
    ids=["one class", "no words", "near-duplicates only", "few rows"],
)  # fmt: skip
def test_odd_tables_still_get_a_sheet(frame: pd.DataFrame) -> None:
    sheet = datasheet(frame, model=None)
    assert sheet.n_rows == len(frame) and sum(sheet.languages.values()) == len(frame) and sheet.lines()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"body": ["a"]}), "a datasheet needs rows with text and label; no text and label"),
        (pd.DataFrame({"text": [], "label": []}), "a datasheet needs rows with text and label; no rows"),
    ],
)
def test_what_is_no_table_of_labelled_texts_is_refused(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message):
        datasheet(frame, model=None)


def test_the_rows_to_look_at_are_written_once_and_counted_from_one(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["same text", "Same text!", "b c"], "label": ["x", "y", "x"]})
    sheet = datasheet(frame, model=None)
    path = sheet.save_suspicious(tmp_path / "look.csv")
    written = pd.read_csv(path)
    assert written[["row", "text", "label", "suggestion"]].values.tolist() == [
        [1, "same text", "x", "y"],
        [2, "Same text!", "y", "x"],
    ]
    with pytest.raises(InputError, match=r"look\.csv exists; delete it or choose another name"):
        sheet.save_suspicious(path)
    for bad in ("look.xlsx", "none/look.csv"):
        with pytest.raises(InputError, match=r"must end in \.csv and lie in a folder that exists"):
            sheet.save_suspicious(tmp_path / bad)


def test_a_large_table_is_judged_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasheets, "MAX_ROWS", 24)
    sheet = datasheet(bilingual(), model=None)
    assert sheet.n_rows == 48 and sheet.floor_accuracy is not None and len(sheet.suspicious) <= 4


def test_a_class_of_few_rows_is_named_and_the_others_are_checked() -> None:
    rows = bilingual()
    rows.loc[0, "label"] = "de"  # an English text
    rare = pd.DataFrame({"text": ["quelque chose", "autre chose"], "label": "fr"})
    sheet = datasheet(pd.concat([rows, rare], ignore_index=True), model=None)
    assert "labels of too few rows to be checked (fewer than 4): 'fr'" in sheet.notes
    assert sheet.floor_accuracy is not None and 0 in set(sheet.suspicious["row"])


def test_few_texts_that_repeat_are_described_all_the_same() -> None:
    frame = pd.DataFrame({"text": ["good thing"] * 10 + ["bad thing"] * 10, "label": ["x"] * 10 + ["y"] * 10})
    sheet = datasheet(frame, model=None)
    assert sheet.n_rows == 20 and len(sheet.repeats.within[0].rows) == 18


def test_without_the_default_model_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise MissingExtra("no backend can run here")

    monkeypatch.setattr(backends, "count_tokens", missing)
    sheet = datasheet(bilingual())
    assert sheet.model is None and "tokens were not counted: no backend can run here" in sheet.notes
    with pytest.raises(MissingExtra):
        datasheet(bilingual(), model="minilm")


def test_the_licence_of_the_rows_is_on_the_sheet() -> None:
    sheet = datasheet(tasks.get("compliance_notes").load(), model=None)
    assert sheet.licence == "CC BY 4.0" == sheet.to_dict()["licence"] and "Licence: CC BY 4.0" in sheet.lines()
