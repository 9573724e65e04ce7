"""`slmkit tune` on labels: beside the floor, in words, with groups kept together, plain refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tuning_rows import LABELS, TEXTS
from typer.testing import CliRunner

from slmkit import assets, backends, classify
from slmkit.__main__ import app
from slmkit.assets import ModelSource
from slmkit.errors import InputError
from slmkit.training import recipe
from slmkit.tuning import labels
from slmkit.tuning import rows as material


def rows(path: Path, n: int = 6) -> Path:
    frame = pd.DataFrame({"text": TEXTS[: 8 * n], "label": LABELS[: 8 * n]})
    frame["text"] = [f"{text} {word}" for text, word in zip(frame["text"], iter_words(), strict=False)]
    frame.to_csv(path, index=False)
    return path


def iter_words() -> list[str]:
    rng = np.random.default_rng(3)
    return ["".join(rng.choice(list("abcdefghijklmnop"), 12)) for _ in TEXTS]


def test_the_command_tunes_on_labels_and_says_what_the_floor_does(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    command = ["tune", str(tiny_decoder.folder), str(rows(tmp_path / "rows.csv")), "-o", str(out)]
    command += ["--method", "full", "--last-k", "1", "--lr", "2e-3", "--epochs", "8", "--backend", "bnb", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    saved = json.loads((out / "tuning.json").read_text(encoding="utf-8"))
    assert told["n_train"] + told["n_test"] == len(TEXTS) == saved["n_train"] + saved["n_test"]
    again = classify.load(out)
    assert again.way == "full" and again.last_blocks == 1
    truth = pd.read_csv(tmp_path / "rows.csv").set_index("text")["label"]
    share = np.mean(again.predict(truth.index) == truth)
    assert share > 0.9 and told["accuracy_low"] < told["accuracy"] <= told["accuracy_high"]
    assert saved["scores"]["accuracy"] == told["accuracy"] and saved["floor"]["accuracy"] == told["floor_accuracy"]
    again.release()


def test_the_command_says_in_words_whether_it_was_worth_it(tmp_path: Path) -> None:
    command = ["tune", "dummy", str(rows(tmp_path / "rows.csv")), "-o", str(tmp_path / "tuned"), "--epochs", "6"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "floor, on the same rows:" in done.output and "It does not beat the floor" in done.output
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "out must be a new or an empty folder" in again.output


def test_dialogues_refuse_what_is_for_labels_and_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["tune", "dummy", "domain_dialogues", "-o", str(tmp_path / "x"), "--balanced"])
    assert done.exit_code == 2 and "class_weight belong to rows with labels" in done.output
    (tmp_path / "file").write_text("mine")
    command = ["tune", "dummy", str(rows(tmp_path / "rows.csv")), "-o", str(tmp_path / "file" / "x")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and f"out must lie where this user may write; {tmp_path / 'file'}" in done.output


def test_rows_to_stop_by_share_no_group_with_rows_to_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["prize", "lunch", "train", "flower", "card", "letter", "phone", "news", "fee", "price", "bank", "parcel"]
    found = [(f"{a} {b} {i}", ["ham", "spam"][i % 2], f"group {i // 4}") for i, (a, b) in enumerate(
        (a, b) for a in words[:6] for b in words[6:])]  # fmt: skip
    frame = pd.DataFrame(found, columns=["text", "label", "group"])
    group = dict(zip(frame["text"], frame["group"], strict=True))
    parts: list[tuple[Any, Any]] = []

    def caught(_: Any, source: Any, texts: Any, y: Any, *, watch: Any, **__: Any) -> Any:
        parts.append((list(texts), watch.held_out[0]))
        raise KeyboardInterrupt

    monkeypatch.setattr("slmkit.backends.dummy.DummyBackend.train_lora", caught)
    for seed in range(4):
        with pytest.raises(KeyboardInterrupt):
            how: dict[str, Any] = {"out": tmp_path / "x", "seed": seed, "test": 8, "checks": False}
            labels.tune_labels("dummy", frame, **how, early_stopping=True, validation_share=0.3, backend="dummy")
        parts.append(tuple(
            part.texts for part in material.of(frame, backends.get("dummy"), assets.resolve("dummy")).parted(0.3, seed)
        ))  # fmt: skip
    assert len(parts) == 8
    for learned, held_out in parts:
        assert held_out and not {group[text] for text in learned} & {group[text] for text in held_out}
    with pytest.raises(InputError, match="groups must be one a text, 2; got 1"):
        recipe.validation(["a", "b"], np.arange(2), ["x", "y"], 0.5, 0, ["g"])
