"""The shipped corpora are clean, keep their own rules, and are what their cards say."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import cache

import numpy as np
import pandas as pd
import pytest
import slmkit_data
from sklearn.model_selection import StratifiedGroupKFold

from slmkit import data, metrics, tasks
from slmkit.classify import FloorClassifier
from slmkit.splits import alike
from slmkit.tasks import domain_dialogues

COLUMNS = {  # of which the card gives the count of every value
    "fraud_messages": ["label", "kind", "channel"],
    "finance_sentiment": ["label", "source", "trap"],
    "support_tickets": ["label", "channel", "language"],
    "compliance_notes": ["label", "rule", "channel"],
    "domain_dialogues": ["label"],
}
NAMES, TABLES = tuple(COLUMNS), tuple(COLUMNS)[:4]
LEAST = dict(zip(NAMES, (900, 900, 900, 400, 300), strict=True))
OTHER_COLUMNS = {"fraud_messages": {"hard"}, "support_tickets": {"second_intent"}}
FRAUD = {"phishing", "smishing", "advance_fee", "investment", "romance", "impersonation", "refund", "job", "delivery"}
LEGITIMATE = {"bank_notice", "one_time_code", "delivery", "invoice", "family", "marketing", "support"}
TRAPS = {
    *("beat_but_lowered", "comparison", "conditional", "costs_fell", "fall_of_good", "guidance_kept", "irony"),
    *("less_bad", "loss_narrowed", "negation", "numbers_only", "one_off", "other_company", "priced_in", "rise_of_bad"),
}
CHANNELS = {"sms", "email", "chat", "call", "letter", "meeting"}
HIDDEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}  # control, invisible, bidirectional, private, unassigned
REAL_ADDRESS = re.compile(r"[\w-]\.(?:com|org|net|co|io|uk|bank|info)\b", re.IGNORECASE)
ANY_ADDRESS = re.compile(r"https?://\S*|www\.\S*|\S@\S+", re.IGNORECASE)
RESERVED = re.compile(r"\.(?:example|test|invalid)\b", re.IGNORECASE)
LONG_NUMBER = re.compile(r"\+\d[\d -]{6,}\d|\b\d(?:[ -]?\d){9,}\b|\b\d{3}-\d{4}\b")
FICTIONAL = re.compile(r"07700 900\d{3}|555-01\d\d")
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


@cache
def table(name: str) -> pd.DataFrame:
    """The rows as shipped; for dialogues the first message is the text and the topic the label."""
    if name not in TABLES:
        return domain_dialogues.read()
    return pd.read_csv(slmkit_data.path(f"{name}.csv"), dtype=str, keep_default_na=False)


@cache
def card(name: str) -> str:
    return slmkit_data.path(f"{name}.md").read_text(encoding="utf-8")


@cache
def texts(name: str) -> list[str]:
    """All that somebody says or writes in a corpus: the texts, or every turn of the dialogues."""
    if name in TABLES:
        return list(table(name)["text"])
    return [turn["content"] for row in domain_dialogues.dialogues() for turn in row["messages"]]


def sign(name: str) -> re.Pattern[str]:
    """The pattern that a line of the fraud card's table spells out: whole words, `*` for any ending."""
    line = next(line for line in card("fraud_messages").splitlines() if line.startswith(f"| {name} |"))
    terms = re.findall("`([^`]+)`", line)
    assert len(terms) >= 9, line
    forms = [re.escape(term).replace(r"\*", r"\w*") for term in terms]
    forms = [rf"\b{form}\b" if form[0].isalpha() else form for form in forms]
    return re.compile("|".join([*forms, *([r"\d"] if "any digit" in line else [])]), re.IGNORECASE)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_names_the_hashes_the_counts_and_the_licence(name: str) -> None:
    frame, page = table(name), card(name)
    files = [f"{name}.csv"] if name in TABLES else [f"{name}.jsonl", "larkmoor_facts.csv"]
    for file in files:
        content = slmkit_data.path(file).read_bytes()
        assert hashlib.sha256(content).hexdigest() in page and f"`{file}`" in page, file
        assert b"\r" not in content and content.endswith(b"\n"), "LF line ends"
    assert re.match(r"# .+: data card\n", page) and f"\n{len(frame)} " in page and len(page.splitlines()) < 90
    assert re.search(r'\n## Licence\n+CC BY 4\.0\. Credit: "slmkit .+"\.\n$', page)
    for column in COLUMNS[name]:
        for value, count in frame.loc[frame[column] != "", column].value_counts().items():
            assert f"| `{value}` | {count} |" in page, f"{column} {value}: {count}"


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_enough_and_have_the_documented_columns_and_labels(name: str) -> None:
    frame, page = table(name), card(name)
    assert len(frame) >= LEAST[name] and (frame["group"] != "").all()
    assert set(frame["label"]) == set(tasks.get(name).labels) and set(frame.get("channel", [])) <= CHANNELS
    if name in TABLES:
        assert set(frame) == {"text", "group", *COLUMNS[name], *OTHER_COLUMNS.get(name, set())}
        assert all(f"\n- `{column}`: " in page for column in frame)


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_there_twice_and_hardly_any_nearly_so(name: str) -> None:
    keys = [data.normalise(text) for text in texts(name)]
    assert len(set(texts(name))) == len(set(keys)) == len(keys)
    found, _ = alike.pairs(keys)
    assert len(set(found[:, 1].tolist())) < 0.01 * len(keys)


@pytest.mark.parametrize("name", NAMES)
def test_texts_hold_no_blanks_controls_real_addresses_or_real_phone_numbers(name: str) -> None:
    for text in texts(name):
        assert text.strip() == text != "" and "\ufffd" not in text
        assert not [c for c in text if unicodedata.category(c) in HIDDEN and c != "\n"], text
        assert not REAL_ADDRESS.search(text), text
        assert all(RESERVED.search(found) for found in ANY_ADDRESS.findall(text)), text
        assert all(FICTIONAL.fullmatch(found) for found in LONG_NUMBER.findall(text)), text


def test_fraud_kinds_belong_to_their_label_and_a_third_of_genuine_messages_look_like_fraud() -> None:
    frame = table("fraud_messages")
    fraud, legitimate = frame[frame["label"] == "fraud"], frame[frame["label"] == "legitimate"]
    assert set(fraud["kind"]) == FRAUD and set(legitimate["kind"]) == LEGITIMATE
    assert set(fraud["hard"]) == {""} and set(legitimate["hard"]) == {"yes", "no"}
    assert (legitimate["hard"] == "yes").mean() >= 1 / 3


def test_sixty_frauds_show_no_link_no_sum_and_no_urgency_as_the_card_counts_them() -> None:
    frame, page = table("fraud_messages"), card("fraud_messages")
    signs = ("link", "sum", "urgency")
    shows = pd.DataFrame({name: [bool(sign(name).search(text)) for text in frame["text"]] for name in signs})
    is_fraud = frame["label"] == "fraud"
    for name in signs:
        counts = f"| {shows.loc[is_fraud, name].sum()} | {shows.loc[~is_fraud, name].sum()} |"
        assert any(line.startswith(f"| {name} |") and line.endswith(counts) for line in page.splitlines()), counts
    bare = ~shows.any(axis=1)
    assert (bare & is_fraud).sum() >= 60
    assert f"{(bare & is_fraud).sum()} fraud rows hold none" in page and f"so do {(bare & ~is_fraud).sum()} leg" in page


def test_tickets_have_twelve_intents_second_wishes_and_other_languages() -> None:
    frame = table("support_tickets")
    intents = set(frame["label"])
    assert len(intents) == 12 and set(frame["second_intent"]) == {*intents, ""}
    assert (frame["second_intent"] != frame["label"]).all() and (frame["second_intent"] != "").mean() > 0.05
    assert set(frame["language"]) == {"en", "mixed", "es", "fr", "de", "pl", "pt", "it"}


def test_sentences_set_every_trap_and_irony_only_in_posts() -> None:
    frame = table("finance_sentiment")
    assert set(frame["trap"]) == {*TRAPS, ""} and set(frame["source"]) == {"news", "filing", "analyst", "post"}
    assert set(frame.loc[frame["trap"] == "irony", "source"]) == {"post"}


def test_each_compliance_rule_is_kept_broken_and_in_doubt() -> None:
    frame = table("compliance_notes")
    assert set(frame["rule"]) == {f"R{i:02}" for i in range(1, 13)}
    assert all(set(rows["label"]) == {"permitted", "needs_review", "prohibited"} for _, rows in frame.groupby("rule"))


def test_each_fact_has_a_value_of_its_own_and_answers_that_use_it() -> None:
    facts = domain_dialogues.facts()
    assert list(facts) == ["fact_id", "topic", "fact", "value"] and (facts != "").all(axis=None)
    assert list(facts["fact_id"]) == [f"F{i:02}" for i in range(1, len(facts) + 1)]
    used = [fact for row in domain_dialogues.dialogues() for fact in row["facts"]]
    for row in facts.itertuples():
        assert row.value in row.fact and sum(row.value in fact for fact in facts["fact"]) == 1, row.fact_id
        assert used.count(row.fact_id) >= 4, row.fact_id
    assert set(used) == set(facts["fact_id"])


def test_dialogues_are_chats_that_say_what_the_fact_sheet_says_and_no_other_number() -> None:
    sheet, places = domain_dialogues.facts().set_index("fact_id"), {"declined": "declined"}
    for row in domain_dialogues.dialogues():
        assert set(row) == {"messages", "topic", "facts", "group"}
        turns = row["messages"]
        assert turns and [t["role"] for t in turns] == ["user", "assistant"] * (len(turns) // 2)
        first = sheet.loc[row["facts"][0], "topic"] if row["facts"] else "declined"
        assert places.setdefault(first, row["topic"]) == row["topic"], "the first fact says what it is about"
        asked, said = ([t["content"] for t in turns if t["role"] == role] for role in ("user", "assistant"))
        assert all(any(sheet.loc[fact, "value"] in turn for turn in said) for fact in row["facts"]), row
        known = " ".join([*asked, *sheet.loc[row["facts"], "fact"]])
        assert set(NUMBER.findall(" ".join(said))) <= set(NUMBER.findall(known)), row


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_floor_is_where_the_card_says_and_leaves_room(name: str) -> None:
    frame = table(name)
    right = np.zeros(len(frame), bool)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for train, test in folds.split(frame["text"], frame["label"], frame["group"]):
        floor = FloorClassifier().fit(frame["text"][train].tolist(), frame["label"][train].tolist())
        right[test] = floor.predict(frame["text"][test].tolist()) == frame["label"][test]
    stated = re.search(r"n = (\d+): accuracy \*\*(\S+) %\*\*, 95 % interval (\S+) to (\S+) %", card(name))
    assert stated is not None and int(stated[1]) == len(frame)
    figure, low, high = (float(part) / 100 for part in stated.groups()[1:])
    assert metrics.wilson(round(figure * len(frame)), len(frame)) == pytest.approx((low, high), abs=0.0006)
    assert 0.60 <= right.mean() <= 0.93 and low <= right.mean() <= high
