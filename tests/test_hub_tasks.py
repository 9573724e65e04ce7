"""Tasks of the hub, read by their own code from small real files in each set's own format, columns and file names."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from slmkit import assets, data, tasks
from slmkit.assets import sources
from slmkit.assets.licences import LicenceNotAccepted
from slmkit.assets.sources import DataFile, HubData
from slmkit.errors import AssetError

Rows = dict[str, list[tuple[object, ...]]]
Read = list[tuple[str, str, str]]  # text, label or target, part

# Columns as published, rows of each part, and what the task makes of them.
PUBLISHED: dict[str, tuple[list[str], Rows, Read]] = {
    "sst2": (
        ["idx", "sentence", "label"],
        {"train": [(0, "a treat ", 1), (1, "dull , slow", 0)], "validation": [(0, "so so", -1), (1, "great", 1)]},
        [("a treat ", "positive", "train"), ("dull , slow", "negative", "train"), ("great", "positive", "validation")],
    ),
    "imdb": (
        ["text", "label"],
        {"train": [("Bad.<br /><br />Very <b>bad</b>.", 0)], "test": [("No label yet.", -1), ("Fine.", 1)]},
        [("Bad.\n\nVery <b>bad</b>.", "negative", "train"), ("Fine.", "positive", "test")],
    ),
    "ag_news": (
        ["text", "label"],
        {"train": [("#39;s", 3), ("W", 1)], "test": [("Up", 2), ("UN", 0)]},
        [("#39;s", "sci/tech", "train"), ("W", "sports", "train"), ("Up", "business", "test"), ("UN", "world", "test")],
    ),
    "tweet_sentiment": (
        ["text", "label"],
        {"train": [("@user no", 0)], "validation": [("@user ok", 1)], "test": [("yes 😀", 2)]},
        [("@user no", "negative", "train"), ("@user ok", "neutral", "validation"), ("yes 😀", "positive", "test")],
    ),
    "banking77": (
        ["text", "label"],
        {"train": [("Refund?", 51)], "test": [("Is it back?", 53), ("Rate?", 76)]},
        [("Refund?", "Refund_not_showing_up", "train"), ("Is it back?", "reverted_card_payment?", "test"),
         ("Rate?", "wrong_exchange_rate_for_cash_withdrawal", "test")],
    ),
    "financial_tweets": (
        ["text", "label"],
        {"train": [('$A "cut", low', 0), ("null", 1)], "validation": [("a\nb", 2)]},
        [('$A "cut", low', "bearish", "train"), ("null", "bullish", "train"), ("a\nb", "neutral", "validation")],
    ),
    "enron_spam": (
        ["message_id", "text", "label", "label_text", "subject", "message", "date"],
        {"train": [(1, "gas deal see below", 0, "ham", "gas deal", "see below", "1999-12-10")],
         "test": [(2, "win größer\u2028now ", 1, "spam", "win", "größer\u2028now ", "2004-01-02")]},
        [("gas deal see below", "ham", "train"), ("win größer\u2028now ", "spam", "test")],
    ),
    "opus100_de_en": (
        ["translation"],
        {"train": [({"de": "Ja.", "en": "Yes."},), ({"de": "Leer", "en": " "},), ({"de": "", "en": "Nothing"},)],
         "validation": [({"de": "Größe", "en": "Size"},)], "test": [({"de": "Nein.", "en": "No."},)]},
        [("Ja.", "Yes.", "train"), ("Größe", "Size", "validation"), ("Nein.", "No.", "test")],
    ),
    "dialogsum": (
        ["id", "dialogue", "summary", "topic"],
        {"train": [("train_0", '#Person1#: "Hi"\n#Person2#: a, b', "Hi.", "hello")],
         "validation": [("v", "Bye.", "NA", "end")], "test": [("t1", "Go!", "A.", "go"), ("t2", "Go!", "B.", "go")]},
        [('#Person1#: "Hi"\n#Person2#: a, b', "Hi.", "train"), ("Bye.", "NA", "validation"), ("Go!", "A.", "test"),
         ("Go!", "B.", "test")],
    ),
}  # fmt: skip
BESIDE = {  # lies in the same repository, or did once, and must not be read
    "sst2": "data/test-00000-of-00001.parquet",
    "imdb": "plain_text/unsupervised-00000-of-00001.parquet",
    "financial_tweets": "topic_train.csv",
    "enron_spam": "enron_spam_data.csv",
    "dialogsum": "holdout.csv",
}
CONDITIONS = {"ag_news": "non-commercial", "tweet_sentiment": "Twitter", "dialogsum": "commercial purposes only"}
NAMES = sorted(PUBLISHED)
UNUSED = {"idx", "message_id", "label_text", "subject", "message", "date", "id", "topic"}
USED = [(name, column) for name in NAMES for column in PUBLISHED[name][0] if column not in UNUSED]
# Columns taken by a function: _hub cannot look for them first, and says their bare name.
CALLED = {("imdb", "text"), ("opus100_de_en", "translation"), ("dialogsum", "dialogue"), ("dialogsum", "summary")}


@pytest.fixture(autouse=True)
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty mirror, and a cache in which no licence was accepted."""
    monkeypatch.setenv("SLMKIT_ASSETS", str(tmp_path / "mirror"))
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "mirror"


def hub_data(name: str) -> HubData:
    found = tasks.get(name).data
    assert isinstance(found, HubData)
    return found


def unpinned(name: str) -> tasks.Task:
    """The task with its own reading code, told to take any bytes; its licence accepted."""
    task = tasks.get(name)
    task.accept_license()
    read = importlib.import_module(f"slmkit.tasks.{name}").read
    return replace(task, read=partial(read, replace(hub_data(name), sha256={})))


def published(name: str, mirror: Path, without: str = "") -> dict[str, Path]:
    """The set's files below the mirror, by part."""
    columns, rows, _ = PUBLISHED[name]
    written = {}
    for part, pattern in hub_data(name).parts.items():
        path = written[part] = mirror / name / pattern.replace("*", "00000-of-00001.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        frame = pd.DataFrame(rows[part], columns=columns).drop(columns=[without] if without else [])
        if path.suffix == ".parquet":
            frame.to_parquet(path, index=False)
        elif path.suffix == ".csv":
            frame.to_csv(path, index=False)
        else:
            frame.to_json(path, orient="records", lines=True, force_ascii=False)
    return written


@pytest.mark.parametrize("name", NAMES)
def test_every_row_comes_with_its_text_its_label_by_name_and_its_part(name: str, mirror: Path) -> None:
    assert tasks.get(name).on_disk is None
    if published(name, mirror) and name in BESIDE:
        (mirror / name / BESIDE[name]).write_bytes(b"never read")
    assert tasks.get(name).on_disk == "mirror"
    frame = unpinned(name).load()
    answer = "label" if tasks.get(name).labels else "target"
    assert list(frame[["text", answer, "part"]].itertuples(index=False, name=None)) == PUBLISHED[name][2]
    assert set(frame["part"]) == set(hub_data(name).parts)
    if answer == "label":
        assert set(frame["label"]) <= set(tasks.get(name).labels)
        assert (frame.attrs["warnings"], frame.attrs["sha256"]) == ([], data.frame_sha256(frame))


@pytest.mark.parametrize("name", NAMES)
def test_data_with_conditions_are_read_only_after_their_terms_were_accepted(name: str, mirror: Path) -> None:
    task = tasks.get(name)
    assert bool(task.terms) == (name in CONDITIONS)
    if task.licence.startswith(("unknown", "other")):
        assert "licence: unknown; check with the source before you use it for more than" in " ".join(task.card.split())
    if name in CONDITIONS:
        assert CONDITIONS[name] in task.terms
        with pytest.raises(LicenceNotAccepted, match=re.escape(f"{name} is under {task.licence}. {task.terms}")):
            task.load()
        tasks.accept_license(name)
    with pytest.raises(AssetError, match=rf"{name} is not on this disk: .*slmkit data fetch {name}"):
        task.load()


@pytest.mark.parametrize("name", [name for name in NAMES if hub_data(name).sha256])
def test_another_file_than_the_pinned_one_is_refused_with_both_hashes(name: str, mirror: Path) -> None:
    published(name, mirror)
    task, pins = tasks.get(name), hub_data(name).sha256
    task.accept_license()
    with pytest.raises(AssetError) as refused:
        task.load()
    filename, pin = next(iter(pins.items()))
    path = mirror / name / filename
    assert all(said in str(refused.value) for said in (str(path), pin, assets.sha256_of(path)))


@pytest.mark.parametrize(("name", "column"), USED)
def test_a_missing_column_is_named(name: str, column: str, mirror: Path) -> None:
    published(name, mirror, without=column)
    with pytest.raises((AssetError, KeyError) if (name, column) in CALLED else AssetError, match=f"'{column}'"):
        unpinned(name).load()


# Half a CSV is a CSV: there only the hash that the first fetch writes down can tell.
@pytest.mark.parametrize("name", [name for name in NAMES if "train.csv" not in hub_data(name).parts["train"]])
def test_a_file_cut_in_half_is_refused_with_its_path(name: str, mirror: Path) -> None:
    path = published(name, mirror)["train"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AssetError, match=re.escape(f"{path} cannot be read (cut off or altered)")):
        unpinned(name).load()


def test_sources_are_well_formed_and_every_pinned_file_belongs_to_a_part() -> None:
    pins: list[str] = []
    for name in NAMES:
        found = hub_data(name)
        assert found.name == name and re.fullmatch(r"[\w.-]+/[\w.-]+", found.hub_id)
        assert re.fullmatch(r"main|[0-9a-f]{40}", found.revision)
        assert found.hub_id in tasks.get(name).card and found.revision in tasks.get(name).card
        assert all(any(fnmatchcase(file, pattern) for pattern in found.parts.values()) for file in found.sha256)
        assert len(found.sha256) in (0, len(found.parts)), "all files of a task are pinned, or none"
        pins += found.sha256.values()
    assert all(re.fullmatch("[0-9a-f]{64}", pin) for pin in pins)
    assert len(set(pins)) == len(pins) == 10, "a pin copied from one file to another pins neither"


def test_a_file_put_in_the_cache_by_hand_is_written_down_and_must_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path))
    monkeypatch.delenv("SLMKIT_ASSETS", raising=False)
    file, path = DataFile("rows/rows.txt", "https://example.org/rows.txt"), sources.data_dir() / "rows" / "rows.txt"
    path.parent.mkdir(parents=True)
    path.write_text("one")
    assert sources.obtain(file, "rows") == [path] == [sources.path(file, "rows")]
    path.write_text("two")
    with pytest.raises(AssetError, match="another file than slmkit knows"):
        sources.path(file, "rows")


def test_a_pinned_set_fetched_at_another_commit_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMKIT_ASSETS", str(tmp_path))
    (tmp_path / "rows" / "data").mkdir(parents=True)
    (tmp_path / "rows" / "data" / "a.csv").write_text("text,label\n")
    pinned = HubData("rows", "owner/rows", {"train": "data/*.csv"}, revision="a" * 40)
    assert sources.where(pinned) == "mirror"
    (tmp_path / sources.RECORD).write_text(json.dumps({"rows": {"revision": "b" * 40, "files": []}}))
    assert sources.where(pinned) is None
    with pytest.raises(AssetError, match="rows is not on this disk"):
        sources.hub_paths(pinned)
