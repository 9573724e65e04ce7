"""The leak guard names every row of one part that stands in another, and splits of slmkit's own leave it nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmkit import data, tasks
from slmkit.errors import InputError
from slmkit.files import places
from slmkit.splits import alike, leaks

WORDS = [a + b + c for a in "bdfgklmn" for b in "aeiou" for c in "bdfgklmn"]
MIRROR = Path(__file__).resolve().parents[2] / "shared" / "data"


def rows(*texts: str, label: str | list[str] = "x", **columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"text": list(texts), "label": label, **columns})


def numbered(n: int, prefix: str = "row") -> list[str]:
    """Texts that share no near-duplicate."""
    rng = random.Random(prefix)
    return [" ".join(rng.sample(WORDS, 8)) for _ in range(n)]


def test_each_kind_of_leak_is_named_with_both_rows_counted_from_one() -> None:
    long = "your parcel waits at the depot please pay the small fee of two pounds now here today friend"
    near = long.replace("friend", "madam")
    train = rows("Call me at noon", "Win a PRIZE, now!", long, "of one thread", group=["", "", "", "t1"])
    test = rows("new text", "win a prize now", near, "Call me at noon", "thread goes on", group=["", "", "", "", "t1"])
    report = leaks.check({"train": train, "test": test})
    (found,) = report.across
    assert found.counts == {"exact": 1, "normalised": 1, "near": 1, "group": 1} and report.n_leaking == 4
    assert found.rows[["row", "kind", "other_row"]].values.tolist() == [
        [1, "normalised", 1],
        [2, "near", 2],
        [3, "exact", 0],
        [4, "group", 3],
    ]
    assert found.rows["similarity"].round(3).tolist()[:3] == [1.0, 0.889, 1.0] and np.isnan(found.rows["similarity"][3])
    lines = report.lines(examples=4)
    assert lines[2] == (
        "test: 4 of 5 rows (80.0%) stand in train: 1 the same text, 1 the same after normalisation (case, punctuation, "
        "spaces), 1 near-duplicates, 1 of the same group"
    )
    assert lines[3:] == [
        '  - test row 4 = train row 1 (exact): "Call me at noon"',
        '  - test row 2 = train row 2 (normalised): "win a prize now"',
        f'  - test row 3 = train row 3 (near, 0.89): "{near[:67]}..." and "{long[:67]}..."',
        '  - test row 5 = train row 4 (group): "thread goes on" and "of one thread"',
    ]


def test_repetitions_inside_each_part_are_found_and_can_be_left_out() -> None:
    parts = {"train": rows("a b", "A, b!", "c d"), "test": rows("e f", "e f", "e f")}
    report = leaks.check(parts)
    assert [found.counts for found in report.within] == [{"normalised": 1}, {"exact": 2}]
    assert report.within[1].rows["other_row"].tolist() == [0, 0]
    assert report.lines()[0].startswith("train: 1 of 3 rows (33.3%) repeat an earlier row: 1 the same after")
    assert leaks.check(parts, within=False).within == () and report.n_leaking == 0


def test_parts_of_any_name_are_looked_at_in_all_pairs() -> None:
    """Few-shot examples, a tuning pool and a distillation pool against the test rows."""
    test = numbered(30)
    parts: dict[str, Any] = {
        "few-shot examples": [test[0], *numbered(3, "shots")],
        "tuning pool": rows(*numbered(20, "tuning"), test[1].upper()),
        "distillation pool": [*numbered(20, "pool"), test[2] + " .", test[1]],
        "test": rows(*test),
    }
    report = leaks.check(parts)
    found = {(overlap.part, overlap.other): overlap.rows["row"].tolist() for overlap in report.across}
    assert len(found) == 6
    assert found["test", "few-shot examples"] == [0]
    assert found["test", "tuning pool"] == [1]
    assert found["test", "distillation pool"] == [1, 2]
    assert found["distillation pool", "tuning pool"] == [21] and found["tuning pool", "few-shot examples"] == []
    assert report.n_leaking == 3
    assert "test: 1 of 30 rows (3.3%) stand in few-shot examples: 1 the same text" in report.lines()


def test_the_same_text_under_another_label_is_a_contradiction_and_a_part_without_labels_contradicts_nothing() -> None:
    train, test = rows("a b c", "d e f", label=["spam", "ham"]), rows("A b c!", "d e f", label=["ham", "ham"])
    (found,) = leaks.check({"train": train, "test": test}).across
    assert found.rows["conflict"].tolist() == [True, False]
    assert "; 1 with another label" in found.sentence()
    (bare,) = leaks.check({"shots": ["a b c", "d e f"], "test": test}).across
    assert not bare.rows["conflict"].any() and "another label" not in bare.sentence()


@pytest.mark.parametrize("kind", [str, int, float])
def test_groups_are_compared_by_what_they_say_and_an_empty_one_links_nothing(kind: type) -> None:
    train = rows(*numbered(3, "a"), group=[kind(0), kind(7), None])
    test = rows(*numbered(4, "b"), group=[None, kind(0), kind(8), kind(7)])
    (found,) = leaks.check({"train": train, "test": test}).across
    assert found.rows[["row", "other_row"]].values.tolist() == [[1, 0], [3, 1]]
    none = leaks.check({"train": rows(*numbered(3, "a")), "test": test})
    assert none.n_leaking == 0


def test_a_set_inside_another_is_said_in_either_order() -> None:
    large, small = numbered(200), numbered(200)[50:90]
    for first, second in ((large, small), (small, large)):
        names = ("large", "small") if first is large else ("small", "large")
        (found,) = leaks.check(dict(zip(names, (first, second), strict=True)), within=False).across
        assert found.sentence().endswith("; small lies inside large")
        assert (found.nested, found.holds) == ((True, False) if first is large else (False, True))
    (half,) = leaks.check({"large": large, "other": [*small, *numbered(40, "new")]}, within=False).across
    assert not half.nested and not half.holds and "inside" not in half.sentence()


def test_the_chance_of_a_random_fifth_is_that_of_real_random_fifths() -> None:
    frame = rows(*numbered(300), *numbered(60), *numbered(20))
    expected = leaks.check({"rows": frame}).chance
    keys, rng, shares = frame["text"].map(alike.normalise).to_numpy(), np.random.default_rng(0), []
    for _ in range(400):
        test = rng.random(len(frame)) < 0.2
        shares.append(np.isin(keys[test], keys[~test]).mean())
    assert expected == pytest.approx(np.mean(shares), abs=0.005)
    lines = leaks.check({"rows": frame}).lines()
    assert lines[-1] == f"Of a random fifth of these rows, {expected:.1%} would have a copy or near-copy in the rest"
    assert leaks.check({"a": frame, "b": frame}).chance is None


def test_links_through_a_third_row_count_and_have_no_similarity_of_their_own() -> None:
    words = WORDS[:40]
    chain = [" ".join(words[k : k + 20]) for k in range(3)]  # neighbours share 19 of 21, the ends 18 of 22
    report = leaks.check({"train": [chain[0]], "validation": [chain[1]], "test": [chain[2]]}, within=False)
    similar = {(o.part, o.other): o.rows["similarity"].tolist() for o in report.across}
    assert similar["test", "validation"] == [pytest.approx(19 / 21)]
    assert len(similar["test", "train"]) == 1 and np.isnan(similar["test", "train"][0])
    assert "(near)" in report.lines()[3]


def test_the_report_as_json_holds_every_row_and_no_text() -> None:
    report = leaks.check({"train": rows("secret one", "two"), "test": rows("Secret one")})
    told = json.loads(json.dumps(report.to_dict()))
    assert told["overlaps"][2] == {
        "part": "test", "other": "train", "n_part": 1, "n_other": 2, "counts": {"normalised": 1}, "conflicts": 0,
        "nested": True, "holds": False, "rows": [0], "other_rows": [0],
    }  # fmt: skip
    assert "ecret" not in json.dumps(told)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "the leak guard needs at least one part, for example {'train': ..., 'test': ...}"),
        ({"train": ["a"], "test": []}, "part 'test' has no rows"),
        ({"test": pd.DataFrame({"txt": ["a"], "n": [1]})}, "part 'test' has no column 'text', only 'txt', 'n'"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(parts: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        leaks.check(parts)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_missing_texts_and_five_thousand_copies_are_counted_not_choked_on() -> None:
    assert leaks.check({"train": ["a b", None], "test": ["a b", float("nan")]}).n_leaking == 2  # type: ignore[list-item]
    rng = random.Random(0)
    base = rng.sample(WORDS, 20)
    copies = [" ".join([*rng.sample(base, 19), f"{rng.choice(WORDS)}{rng.choice(WORDS)}"]) for _ in range(5_000)]
    report = leaks.check({"train": copies[:4_000], "test": copies[4_000:]})
    assert report.n_leaking == 1_000 and len(report.within[0].rows) == 3_999


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), copies=st.integers(0, 40), grouped=st.booleans(), sized=st.booleans())
def test_a_split_of_our_own_leaves_the_guard_nothing(seed: int, copies: int, grouped: bool, sized: bool) -> None:
    rng = random.Random(seed)
    texts = [rng.sample(WORDS, 14) for _ in range(120)]
    planted = [[*rng.sample(rng.choice(texts), 14)[:13], rng.choice(WORDS)] for _ in range(copies)]
    again = [[word.upper() for word in rng.choice(texts)] for _ in range(copies // 3)]
    frame = rows(*(" ".join(words) for words in (*texts, *planted, *again)), label="a")
    frame["label"] = [rng.choice("abc") for _ in range(len(frame))]
    if grouped:
        frame["group"] = [rng.choice(["", "", f"g{i % 25}"]) for i in range(len(frame))]
    parts = data.split(frame, seed=seed % 1000, **({"train": 40, "test": 20} if sized else {}))
    report = leaks.check({"train": parts.train, "test": parts.test}, within=False)
    assert report.n_leaking == 0, report.lines()
    assert set(parts.train["label"]) == set(parts.test["label"]) == set("abc")
    assert not any("both sides" in warning for warning in parts.warnings)


@pytest.fixture
def real_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if places.mirror() is None:
        if not MIRROR.is_dir():
            pytest.skip("the data sets are not here; set SLMKIT_ASSETS to a folder that holds them")
        monkeypatch.setenv("SLMKIT_ASSETS", str(MIRROR))
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path))
    tasks.accept_license("financial_phrasebank")


def test_sms_spam_repeats_itself_as_often_as_known(real_sets: None) -> None:
    report = leaks.check({"rows": tasks.get("sms_spam").load()})
    assert report.within[0].counts == {"exact": 403, "normalised": 37, "near": 125}
    assert report.chance == pytest.approx(0.145, abs=0.0005)
    assert report.lines()[-1].endswith("14.5% would have a copy or near-copy in the rest")
    parts = data.split(tasks.get("sms_spam").load(), seed=0)
    assert leaks.check({"train": parts.train, "test": parts.test}).n_leaking == 0


def test_every_sentence_of_allagree_stands_in_50agree(real_sets: None) -> None:
    strict, loose = (tasks.get(f"financial_phrasebank_{level}").load() for level in ("allagree", "50agree"))
    (found,) = leaks.check({"50Agree": loose, "AllAgree": strict}, within=False).across
    assert len(found.rows) == found.n_part == 2264 and found.nested
    assert found.sentence().startswith("AllAgree: 2,264 of 2,264 rows (100.0%) stand in 50Agree: 2,264 the same text")
    assert found.sentence().endswith("; AllAgree lies inside 50Agree")


def test_rows_are_named_as_in_the_file_they_came_from(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n,x\nsee you at noon,x\n ,y\nanother thing,y\nSEE YOU AT NOON!,x\nlast one,y\n")
    [line] = leaks.check({"a": data.read(path)}).examples(leaks.check({"a": data.read(path)}).within[0], 5)
    assert line.startswith("row 5 = row 2 (normalised)")
