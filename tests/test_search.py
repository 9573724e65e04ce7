"""The range test and the search: what they see, what they choose, that they go on, and that test rows stay unseen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import slmkit
from slmkit import data, plots
from slmkit.__main__ import app
from slmkit.assets import ModelSource
from slmkit.backends import _shared as shared
from slmkit.backends import dummy
from slmkit.backends.base import LoRAConfig
from slmkit.errors import InputError
from slmkit.tuning import rates
from slmkit.tuning import rows as material
from slmkit.tuning.labels import tune_labels

WORDS = {
    "ham": ["lunch", "train", "flowers", "lovely", "tomorrow"],
    "spam": ["prize", "password", "card", "blocked", "claim"],
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Sixty rows that can be told apart, none of them near another."""
    rng, rows = np.random.default_rng(0), []
    for i in range(60):
        label = ("ham", "spam")[i % 2]
        noise = ["".join(rng.choice(list("abcdefghijklm"), 7)) for _ in range(4)]
        rows.append({"text": " ".join([*rng.choice(WORDS[label], 2), *noise]), "label": label})
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


# learning rates


def test_rates_rise_by_the_same_factor_and_a_diverged_loss_ends_the_test() -> None:
    config = LoRAConfig(learning_rate=0.1, lowest_rate=1e-5)
    found = [shared.rate_of(step, 9, config) for step in range(9)]
    assert found[0] == pytest.approx(1e-5) and found[-1] == pytest.approx(0.1)
    np.testing.assert_allclose(np.diff(np.log(found)), np.log(1e4) / 8)
    assert not shared.has_diverged([1.0, 3.9]) and shared.has_diverged([1.0, 4.1])
    assert shared.has_diverged([1.0, float("nan")]) and not shared.has_diverged([1.0])


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_lowest_loss() -> None:
    steps = np.geomspace(1e-6, 1, 61)
    losses = (1 - 0.8 * np.exp(-((np.log10(steps) + 2) ** 2))).tolist()  # lowest at 1e-2
    found = rates.of_losses(steps.tolist(), losses)
    assert 5e-4 < found.suggestion < 3e-3 and "a tenth of" in found.reason
    assert found.frame["smoothed"].iloc[0] == pytest.approx(losses[0])
    with pytest.raises(InputError, match="the loss never fell between rates of 1e-06 and 1"):
        rates.of_losses(steps.tolist(), np.linspace(1, 2, 61).tolist())


def test_a_range_test_on_labels_and_its_picture(table: Path) -> None:
    found = slmkit.find_lr("dummy", str(table), steps=40, low=1e-5, high=1.0)
    assert found.frame["learning_rate"].is_monotonic_increasing and len(found.frame) <= 40
    assert 1e-5 < found.suggestion < 0.01
    figure = plots.learning_rates(found.frame, found.suggestion)
    assert figure.layout.xaxis.type == "log" and list(figure.data[0].y) == found.frame["loss"].tolist()
    assert set(figure.data[-1].x) == {found.suggestion}
    with pytest.raises(InputError, match=r"range test must have rows and the columns .*; lacks \['loss'\]"):
        plots.learning_rates(found.frame.drop(columns="loss"))


def test_a_range_test_on_dialogues_ends_where_the_loss_diverges(tiny_chat_decoder: ModelSource, tmp_path: Path) -> None:
    rows = pd.DataFrame({"prompt": [f"What of {w} number {i}?" for i, w in enumerate("abcdefghij")], "answer": "No."})
    rows.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    how: dict[str, Any] = {"method": "full", "backend": "bnb", "batch_size": 4, "low": 1e-5, "high": 1.0, "steps": 30}
    found = slmkit.find_lr(str(tiny_chat_decoder.folder), str(tmp_path / "rows.jsonl"), **how)
    assert found.frame["smoothed"].min() < 0.8 * found.frame["loss"].iloc[0]
    assert 1e-5 < found.suggestion < 0.05


@pytest.mark.parametrize("bounds", [{"low": 0.0}, {"low": 0.5}, {"high": 2.0}, {"steps": 3}])
def test_bounds_that_make_no_test_are_refused(table: Path, bounds: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="rates must be 0 < low < high <= 1, and steps at least 10"):
        slmkit.find_lr("dummy", str(table), **bounds)


def test_texts_under_two_labels_are_left_out_and_said_so(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = pd.read_csv(table)
    frame.loc[len(frame)] = [frame["text"][0], "spam" if frame["label"][0] == "ham" else "ham"]
    frame.to_csv(table, index=False)
    with caplog.at_level("WARNING"):
        told = tune_labels("dummy", str(table), out=tmp_path / "out", epochs=1)
    assert "2 rows dropped because the same text stands under two labels" in caplog.text
    assert told.n_train + told.n_test == 59


# search


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that a training or its validation reads."""
    pytest.importorskip("optuna")
    texts: list[str] = []
    train = dummy.DummyBackend.train_lora

    def spied(self: Any, source: Any, rows: Any, y: Any, **how: Any) -> Any:
        texts.extend([*rows, *how["watch"].held_out[0]])
        return train(self, source, rows, y, **how)

    monkeypatch.setattr(dummy.DummyBackend, "train_lora", spied)
    return texts


def test_a_search_is_no_worse_than_the_usual_setting_and_never_sees_a_test_row(
    table: Path, tmp_path: Path, seen: list[str]
) -> None:
    found = slmkit.search("dummy", str(table), trials=5, out=tmp_path / "out")
    assert len(found.frame) == 5 and found.frame["trial"].tolist() == [0, 1, 2, 3, 4]
    first = found.frame.iloc[0]
    assert (first["learning_rate"], first["epochs"], first["rank"]) == (5e-4, 3, 16)
    assert found.loss == found.frame["loss"].min() <= first["loss"]
    best = found.frame.loc[found.frame["loss"].idxmin()]
    assert found.best["learning_rate"] == best["learning_rate"] and found.best["alpha"] == 2 * found.best["rank"]
    test = set(data.split(data.read(table), seed=0).test["text"])
    assert len(test) == 12 and not test & set(seen) and len(set(seen)) == 48 == found.n_train + found.n_validation
    assert any("chosen on" in line for line in found.lines())


def test_a_search_goes_on_where_it_was_stopped_as_if_it_had_not_been(
    table: Path, tmp_path: Path, seen: list[str]
) -> None:
    whole = slmkit.search("dummy", str(table), trials=4, out=tmp_path / "whole")
    slmkit.search("dummy", str(table), trials=2, out=tmp_path / "parts")
    told: list[str] = []
    parts = slmkit.search("dummy", str(table), trials=4, out=tmp_path / "parts", say=told.append)
    pd.testing.assert_frame_equal(parts.frame.drop(columns="seconds"), whole.frame.drop(columns="seconds"))
    assert (
        told[0].startswith("2 of 4 trials to come, about")
        and len([line for line in told if line.startswith("trial ")]) == 2
    )
    with pytest.raises(InputError, match="trials of another search: .*seed 0 there, 1 now"):
        slmkit.search("dummy", str(table), trials=4, out=tmp_path / "parts", seed=1)
    with pytest.raises(InputError, match="trials must be at least 1; got 0"):
        slmkit.search("dummy", str(table), trials=0, out=tmp_path / "parts")


def test_a_trial_that_diverges_counts_and_is_not_chosen(
    table: Path, tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(self: Any, *args: Any, **how: Any) -> Any:
        raise InputError("the loss became nan at step 3")

    usual = dummy.DummyBackend.train_lora
    slmkit.search("dummy", str(table), trials=1, out=tmp_path / "out")
    monkeypatch.setattr(dummy.DummyBackend, "train_lora", diverging)
    found = slmkit.search("dummy", str(table), trials=3, out=tmp_path / "out")
    assert np.isinf(found.frame["loss"].tolist()[1:]).all() and found.best["learning_rate"] == 5e-4
    with pytest.raises(InputError, match="no trial came to an end: the loss became nan"):
        slmkit.search("dummy", str(table), trials=2, out=tmp_path / "none")
    assert usual is not diverging


def test_dialogues_are_parted_by_dialogue() -> None:
    known = pd.DataFrame({"text": [f"{w} talk of its own number {w * 3}" for w in "abcdefgh"], "group": ""})
    owners = [i for i in range(8) for _ in range(3)]
    rows = material.Rows("x", [str(i) for i in range(24)], ["yes"] * 24, (), known, owners)
    learned, checked = rows.parted(0.25, seed=0)
    assert not set(learned.owners) & set(checked.owners) and len(learned.texts) + len(checked.texts) == 24
    assert len(checked.texts) % 3 == 0


def test_the_command_searches_and_tunes_with_what_it_chose(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    out = tmp_path / "tuned"
    done = CliRunner().invoke(
        app, ["tune", "dummy", str(table), "-o", str(out), "--search", "3", "--find-lr", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert "3 of 3 trials to come" in done.stderr and "learning rate " in done.stderr
    params = json.loads((out / "classifier.json").read_text(encoding="utf-8"))["params"]
    said = [line for line in done.stderr.splitlines() if line.startswith("chosen on")]
    assert len(said) == 1 and f"learning_rate {params['learning_rate']:.3g}" in said[0]
