"""Labels that are meant to be one are proposed, labels that may be two never, and nothing changes unasked."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import pytest

from slmkit import data
from slmkit.errors import InputError
from slmkit.reading import labels

SPELLING, SLIP = "they differ in case, spaces or separators only", "the names are nearly the same"


def proposed(counts: Mapping[str, int]) -> dict[str, tuple[str, str]]:
    found = labels.propose([name for name, n in counts.items() for _ in range(n)])
    return {p.found: (p.into, p.why) for p in found}


def rows(counts: Mapping[str, int]) -> pd.DataFrame:
    values = [name for name, n in counts.items() for _ in range(n)]
    return pd.DataFrame({"text": [f"text {i}" for i in range(len(values))], "label": values})


@pytest.mark.parametrize(
    ("found", "into", "why"),
    [
        ("Spam", "spam", SPELLING),
        ("not  spam", "not spam", SPELLING),
        ("not_spam", "not spam", SPELLING),
        ("Not-Spam", "not_spam", SPELLING),
        ("spam_", "spam", SPELLING),
        ("negitive", "negative", SLIP),
        ("fraudelent", "fraudulent", SLIP),
        ("charge back", "chargeback", SLIP),
        ("card paymant", "card payment", SLIP),
        ("domestic transfers", "domestic transfer", SLIP),
    ],
)
def test_spellings_and_slips_are_proposed_the_rarer_into_the_commoner(found: str, into: str, why: str) -> None:
    assert proposed({found: 3, into: 100, "something else": 50}) == {found: (into, why)}


def test_the_commoner_spelling_wins_whatever_it_looks_like() -> None:
    assert proposed({"SPAM": 60, "spam": 40, "Spam": 2, "ham": 9}) == {
        "spam": ("SPAM", SPELLING),
        "Spam": ("SPAM", SPELLING),
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("legal", "illegal"), ("fraud", "not fraud"), ("fraud", "not_fraud"), ("fraud", "non-fraud")),
        *(("class1", "class2"), ("class 1", "class 2"), ("class a", "class b"), ("type i", "type ii")),
        *(("normal", "abnormal"), ("compliant", "non-compliant"), ("approved", "disapproved"), ("safe", "unsafe")),
        *(("authorised", "unauthorised"), ("typical", "atypical"), ("regular", "irregular"), ("fraud", "anti-fraud")),
        *(("1", "-1"), ("1", "+1"), ("A", "A-"), ("A", "A+"), ("2024-01", "2024-02"), ("c", "c++")),
        *(("card present", "card not present"), ("with interest", "without interest"), ("paid out", "paid")),
        *(("employee", "employer"), ("mortgagor", "mortgagee"), ("hypertension", "hypotension")),
        *(("macroeconomic", "microeconomic"), ("harmful", "harmless"), ("internal", "external")),
        *(("incoming payment", "outgoing payment"), ("prepayment", "repayment"), ("ham", "spam")),
    ],
)
def test_opposites_numbers_and_signs_are_never_proposed(one: str, other: str) -> None:
    assert proposed({one: 2, other: 1000}) == {} and proposed({one: 1000, other: 2}) == {}
    assert proposed({one.upper(): 500, other: 500}) == {}


def test_nearly_the_same_name_is_a_slip_only_when_it_is_rare() -> None:
    assert proposed({"payments": 40, "payment": 100}) == {}
    assert proposed({"payments": 5, "payment": 100}) == {"payments": ("payment", SLIP)}


def test_hundreds_of_labels_or_very_long_ones_are_not_compared() -> None:
    assert proposed({f"label {chr(97 + i // 20)}{chr(97 + i % 20)}": 2 for i in range(201)} | {"LABEL AA": 1}) == {}
    assert proposed({"x" * 10_000 + "y": 2, "x" * 10_000: 1_000}) == {}


def test_chains_end_at_the_commonest_spelling() -> None:
    found = labels.propose(["negative"] * 200 + ["negitive"] * 6 + ["Negitive"] * 3)
    assert labels.mapping(found) == {"negitive": "negative", "Negitive": "negative"}
    circle = [labels.Proposal("a", "b", 1, 1, ""), labels.Proposal("b", "a", 1, 1, "")]
    assert set(labels.mapping(circle)) == {"a", "b"}, "a circle ends"


def test_reading_proposes_and_changes_nothing() -> None:
    frame = data.read(rows({"Spam": 3, "spam": 60, "ham": 60}))
    assert frame["label"].value_counts().to_dict() == {"spam": 60, "ham": 60, "Spam": 3}
    assert frame.attrs["warnings"] == [
        f"label 'Spam' (3 rows) may be meant as 'spam' (60 rows): {SPELLING}",
        "no label was changed; relabel='proposed' (--relabel) merges what is named here",
    ]


def test_what_is_proposed_is_done_when_asked_and_said() -> None:
    frame = data.read(rows({"Spam": 1, "spam": 60, "legal": 60, "illegal": 2}), relabel="proposed")
    assert frame["label"].value_counts().to_dict() == {"spam": 61, "legal": 60, "illegal": 2}
    assert frame.attrs["warnings"] == ["label 'Spam' renamed to 'spam' in 1 rows, as asked"]


def test_a_class_of_one_row_that_is_a_slip_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError) as caught:
        data.read(rows({"Spam": 1, "spam": 60, "ham": 60, "eggs": 1}))
    assert "class 'Spam' has one row; is 'spam' meant? relabel='proposed' (--relabel) merges them" in str(caught.value)
    assert "class 'eggs' has one row; merge it into another class or drop it" in str(caught.value)


def test_a_mapping_of_ones_own_renames_and_merges() -> None:
    frame = data.read(rows({"0": 30, "1": 20, "2": 9}), relabel={"0": "ham", 1: "spam", "2": "spam"})  # type: ignore[dict-item]
    assert frame["label"].value_counts().to_dict() == {"ham": 30, "spam": 29}
    assert frame.attrs["warnings"] == [
        "label '0' renamed to 'ham' in 30 rows, as asked",
        "label '1' renamed to 'spam' in 20 rows, as asked",
        "label '2' renamed to 'spam' in 9 rows, as asked",
    ]
    assert frame.attrs["sha256"] == data.frame_sha256(frame), "the hash is that of the rows as they are used"


@pytest.mark.parametrize(
    ("relabel", "message"),
    [
        ("all", "relabel must be 'proposed' or a mapping of old labels to new; got 'all'"),
        ({"spma": "spam", "x": "y"}, "relabel names labels that do not occur: 'spma', 'x'"),
        ({"spam": " "}, "relabel gives no new label for 'spam'"),
        ({"spam": None, "x": "y"}, "do not occur: 'x'; relabel gives no new label for 'spam'"),
    ],
)
def test_a_wrong_relabel_is_refused(relabel: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        data.read(rows({"spam": 5, "ham": 5}), relabel=relabel)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_merging_all_classes_into_one_is_refused() -> None:
    with pytest.raises(InputError, match="column 'label' holds one class only"):
        data.read(rows({"spam": 5, "ham": 5}), relabel={"ham": "spam"})


def test_line_breaks_and_spaces_around_a_label_are_taken_out_and_said() -> None:
    frame = data.read(rows({" spam ": 2, "not\r\nspam": 2, "not spam": 3, "spam": 3}))
    assert frame["label"].value_counts().to_dict() == {"not spam": 5, "spam": 5}
    assert frame.attrs["warnings"] == [
        "2 labels had spaces around them, which were taken off",
        "2 labels had line breaks in them, which are read as spaces",
    ]
