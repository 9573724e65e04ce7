"""Every task's contract, the real data sets where a mirror holds them, and tasks made from files."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pandas as pd
import pytest
import slmkit_data

from slmkit import data, tasks
from slmkit.errors import AssetError, InputError
from slmkit.files import places

MIRROR = Path(__file__).resolve().parents[2] / "shared" / "data"
COUNTS = {
    "sms_spam": {"ham": 4827, "spam": 747},
    "financial_phrasebank": {"negative": 303, "neutral": 1391, "positive": 570},
    "financial_phrasebank_allagree": {"negative": 303, "neutral": 1391, "positive": 570},
    "financial_phrasebank_75agree": {"negative": 420, "neutral": 2146, "positive": 887},
    "financial_phrasebank_66agree": {"negative": 514, "neutral": 2535, "positive": 1168},
    "financial_phrasebank_50agree": {"negative": 604, "neutral": 2879, "positive": 1363},
}
REPEATED = {"sms_spam": (440, 0), "financial_phrasebank": (5, 0), "financial_phrasebank_50agree": (9, 4)}
SHIPPED = ("compliance_notes", "domain_dialogues", "finance_sentiment", "fraud_messages", "support_tickets")
HUB = ("ag_news", "banking77", "enron_spam", "financial_tweets", "imdb", "sst2", "tweet_sentiment")
PAIRED = ("dialogsum", "opus100_de_en")  # texts to be turned into texts: no labels


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if places.mirror() is None:
        if not MIRROR.is_dir():
            pytest.skip("the data sets are not here; set SLMKIT_ASSETS to a folder that holds them")
        monkeypatch.setenv("SLMKIT_ASSETS", str(MIRROR))
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path))
    tasks.accept_license("financial_phrasebank")
    return Path(str(places.mirror()))


def test_names_are_those_of_the_issue() -> None:
    assert tasks.names() == sorted([*COUNTS, *SHIPPED, *HUB, *PAIRED])


@pytest.mark.parametrize("name", tasks.names())
def test_a_task_says_all_that_a_record_and_a_prompt_need(name: str) -> None:
    task = tasks.get(name)
    assert task.name == name and task.title and task.noun
    assert task.labels == tuple(sorted(set(task.labels))) and (len(task.labels) > 1 or name in PAIRED)
    assert (task.labels == () and task.label_words == {}) == (name in PAIRED)
    assert task.positive in (None, *task.labels)
    assert task.instruction.endswith(".") and task.instruction.count(".") == 1
    assert set(task.label_words) == set(task.labels) and len(set(task.label_words.values())) == len(task.labels)
    assert all(word.isalpha() and word.islower() for word in task.label_words.values())
    assert all(word in task.instruction for word in ("spam", "normal")) or name != "sms_spam"
    assert task.card.startswith("# ") and task.licence.split(" (")[0] in task.card and len(task.source) > 20
    assert pickle.loads(pickle.dumps(task)).card == task.card, "a task goes to child processes"


@pytest.mark.parametrize("name", COUNTS)
def test_real_data_has_the_published_counts_and_leaks_nothing(name: str, mirror: Path) -> None:
    frame = tasks.get(name).load()
    assert frame["label"].value_counts().sort_index().to_dict() == COUNTS[name]
    assert frame.attrs["warnings"] == []
    if name in REPEATED:
        assert data.deduplicate(frame)[1:] == REPEATED[name]
    parts = data.split(frame, seed=0)
    shared = set(parts.train["text"].map(data.normalise)) & set(parts.test["text"].map(data.normalise))
    assert not shared, f"{len(shared)} texts on both sides"
    assert len(parts.test) == pytest.approx(0.2 * (len(parts.train) + len(parts.test)), abs=5)


def test_traps_of_the_two_formats_are_avoided(mirror: Path) -> None:
    sms = tasks.get("sms_spam").load()
    assert sms["text"].str.contains('"', regex=False).sum() > 50 and not sms["text"].str.contains("\n|\t").any()
    assert sms["text"].duplicated().sum() == 403
    sentences = tasks.get("financial_phrasebank_50agree").load()["text"]
    assert sentences.str.contains("ä").sum() == 4 and not sentences.str.contains("[\ufffdÃ]").any()


def test_another_file_under_the_same_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMKIT_ASSETS", str(tmp_path))
    with pytest.raises(AssetError, match="SMSSpamCollection"):
        tasks.get("sms_spam").load()
    (tmp_path / "sms_spam").mkdir()
    (tmp_path / "sms_spam" / "SMSSpamCollection").write_text("ham\thello\n")
    with pytest.raises(AssetError, match="7d039a24a6083ed9"):
        tasks.get("sms_spam").load()


def test_fraud_messages_are_shipped_clean_and_as_their_card_says() -> None:
    task = tasks.get("fraud_messages")
    frame = task.load()
    card = slmkit_data.path("fraud_messages.md").read_text(encoding="utf-8")
    content = slmkit_data.path("fraud_messages.csv").read_bytes()
    assert len(frame) >= 400 and set(frame["label"]) == set(task.labels) and frame.attrs["warnings"] == []
    assert data.deduplicate(frame)[1:] == (0, 0)
    assert hashlib.sha256(content).hexdigest() in card and f"{len(frame)} " in card
    parts = data.split(frame, seed=0)
    assert not set(parts.train["group"]) & set(parts.test["group"]) - {""}
    with pytest.raises(FileNotFoundError, match=r"ships no 'none\.csv'; it ships: .*fraud_messages\.csv"):
        slmkit_data.path("none.csv")


def test_a_file_is_a_task(tmp_path: Path) -> None:
    path = tmp_path / "my_mails.csv"
    rows = [
        ("give me money", "Fraud"),
        ("hello there", "Not_Fraud"),
        ("wire it now", "Fraud"),
        ("see you", "Not_Fraud"),
    ]
    pd.DataFrame(rows, columns=["mail", "kind"]).to_csv(path, index=False)
    task = tasks.get(path, "mail", "kind")
    assert (task.name, task.labels, task.positive) == ("my_mails", ("Fraud", "Not_Fraud"), "Fraud")
    assert task.label_words == {"Fraud": "fraud", "Not_Fraud": "not fraud"}
    assert task.instruction == "Decide which label fits the text: fraud or not fraud."
    assert task.licence == "unknown (your file)"
    assert pickle.loads(pickle.dumps(task)).load()["text"].tolist() == [text for text, _ in rows]


def test_a_file_is_read_once_and_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\none,a\ntwo,b\nsix,a\nten,b\nthree,\n")
    task = tasks.get(path)
    path.unlink()
    frame = task.load()
    assert (
        frame["text"].tolist() == ["one", "two", "six", "ten"]
        and len(frame.attrs["warnings"]) == len(caplog.records) == 1
    )


def test_labels_that_would_become_the_same_word_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    pd.DataFrame({"text": list("pqrs"), "label": ["a_b", "A b"] * 2}).to_csv(path, index=False)
    assert tasks.get(path).label_words == {"A b": "A b", "a_b": "a_b"}


def test_wrong_names_get_the_near_ones() -> None:
    with pytest.raises(
        InputError, match=r"unknown task 'sms_spma'\. Did you mean 'sms_spam'\?.* A file of your own must end in"
    ):
        tasks.get("sms_spma")
    with pytest.raises(InputError, match=r"no file at none\.csv"):
        tasks.get("none.csv")
    with pytest.raises(InputError, match="task 'sms_spam' has columns and labels of its own"):
        tasks.get("sms_spam", text_column="text")
