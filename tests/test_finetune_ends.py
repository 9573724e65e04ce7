"""How a tuning ends: by rows held out, and by a kill beside a folder that is complete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tuning_rows import table

import slmkit
from slmkit import backends, dialogues, splits
from slmkit.assets import ModelSource
from slmkit.classify import LoRAClassifier
from slmkit.errors import InputError
from slmkit.splits import leaks
from slmkit.tuning.labels import tune_labels


def near_copies() -> pd.DataFrame:
    """The dialogues, and two more, each with a near-copy."""
    long = (
        "what is the fee of the account that my bank gave to us for every card in a year when we pay by phone",
        "please confirm the password of the letter that came at lunch and say whether the train is late again today",
    )
    rows = [{"prompt": f"{word} {text}", "answer": "Yes."} for text in long for word in ("Hi", "Hello")]
    return pd.concat([table(), pd.DataFrame(rows)], ignore_index=True)


def test_early_stopping_keeps_the_best_epoch_and_ends_it(tiny_chat_decoder: ModelSource, tmp_path: Path) -> None:
    how: dict[str, Any] = {"backend": "bnb", "out": tmp_path / "x", "batch_size": 4, "validation_share": 0.3}
    told = [
        "You won.",
        "9 pounds",
        "(no)",
        "tenth!",
        "the fox",
        "13.1",
        "lovely",
        "mum?",
        "spam",
        "= 4",
        "dog",
        "Hi, it",
    ]
    source, rows = str(tiny_chat_decoder.folder), table().assign(answer=told)
    tuned = slmkit.finetune(source, rows, **how, early_stopping=True, epochs=12, learning_rate=1e-2)
    measured = [entry for entry in tuned.history if "held_out_loss" in entry]
    best = min(measured, key=lambda entry: entry["held_out_loss"])
    assert 3 <= len(measured) < 12 and measured[-1]["stopped_early"] == 1 and not tuned.stopped
    assert measured[-1]["epoch"] - best["epoch"] == 2 and best is not measured[-1]
    assert (tuned.n_train, tuned.n_validation, tuned.n_test) == (7, 3, 2)
    split = dialogues.split(rows, seed=0)
    kept_back = splits.hold_out(split.train, seed=0, test_share=0.3).test
    with slmkit.load(source, adapter=tuned.folder, backend="bnb") as model:
        asked = [model.dialogue_prompt([{"role": "user", "content": text}]) for text in kept_back["text"]]
        nats, n_tokens = model.answer_loglikelihood(asked, [row.answers()[0][1] for row in kept_back["dialogue"]])
    assert -nats.sum() / n_tokens.sum() == pytest.approx(best["held_out_loss"], abs=0.02)
    assert "7 answers learned, 3 held back to stop by, 2 held out" in (tmp_path / "x" / "README.md").read_text()


def test_no_row_to_stop_by_is_a_near_copy_of_a_row_to_learn(
    tiny_chat_decoder: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, Any, Any]] = []

    def caught(_: Any, source: Any, texts: Any, answers: Any, *, watch: Any, **__: Any) -> Any:
        seen.append((list(texts), watch.held_out, watch.patience))
        raise KeyboardInterrupt

    monkeypatch.setattr("slmkit.backends.bnb.BnbBackend.train_completion", caught)
    monkeypatch.setattr("slmkit.backends.bnb.BnbBackend.train_lora", caught)
    name, rows = str(tiny_chat_decoder.folder), near_copies()
    for seed in range(3):
        how: dict[str, Any] = {"out": tmp_path / "x", "backend": "bnb", "seed": seed, "validation_share": 0.3}
        with pytest.raises(KeyboardInterrupt):
            slmkit.finetune(name, rows, **how, early_stopping=True, checks=False)
        labelled = LoRAClassifier(name, backend="bnb", seed=seed, validation_share=0.3, early_stopping=True)
        with pytest.raises(KeyboardInterrupt):
            labelled.set_params(checks=False).fit(rows["prompt"].tolist(), ["a", "b"] * 8)
    assert len(seen) == 6
    for learned, held_out, patience in seen:
        assert patience == 2 and 2 <= len(held_out[0]) < len(learned)
        assert leaks.check({"train": learned, "test": list(held_out[0])}, within=False).n_leaking == 0
    assert any(text.startswith(("<s><|user|>H", "H")) for _, held_out, _ in seen for text in held_out[0])


def test_dialogues_that_allow_no_rows_to_stop_by_are_refused(tiny_chat_decoder: ModelSource, tmp_path: Path) -> None:
    rows = near_copies().assign(group=["x"] * 12 + ["y"] * 4)
    with pytest.raises(InputError, match="early_stopping holds dialogues back, and these allow none: .* belong togeth"):
        slmkit.finetune(str(tiny_chat_decoder.folder), rows, out=tmp_path / "x", early_stopping=True, backend="bnb")


# killed when all but its checkpoints was in place


def test_a_kill_beside_a_complete_folder_is_cleaned_up_and_said(
    tiny_chat_decoder: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def killed(_: Any) -> None:
        raise KeyboardInterrupt

    name, out, partial = str(tiny_chat_decoder.folder), tmp_path / "x", tmp_path / "x.partial"
    how: dict[str, Any] = {"backend": "bnb", "out": out, "batch_size": 4, "epochs": 1}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("slmkit.backends.clear_checkpoints", killed)
        slmkit.finetune(name, table(), **how)
    assert (out / "finetune.json").is_file() and backends.unfinished(partial) == (3, 3)
    kept = tmp_path / "kept"
    shutil.copytree(partial, kept)
    with monkeypatch.context() as patch:
        patch.setattr("slmkit.backends.bnb.BnbBackend.train_completion", killed)
        tuned = slmkit.finetune(name, table(), **how)
    saved = json.loads((out / "finetune.json").read_text())
    assert "the work is done" in caplog.text and not partial.exists() and tuned.folder == out
    assert (tuned.history, tuned.loss_after, tuned.learned.ratio) == (
        saved["history"], saved["loss_after"], saved["learned"]["ratio"],
    )  # fmt: skip
    with pytest.raises(InputError, match="out must be a new or an empty folder"):
        slmkit.finetune(name, table(), **how)
    shutil.copytree(kept, partial)
    with pytest.raises(InputError, match="is complete and differs in config"):
        slmkit.finetune(name, table(), **{**how, "epochs": 2})
    assert not partial.exists()
    shutil.copytree(kept, partial)
    with pytest.raises(InputError, match="is complete and differs in dialogues"):
        slmkit.finetune(name, table(), **how, train=5)


def test_a_kill_beside_a_complete_classifier_too_and_one_before_it_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    words = {"spam": ("prize", "claim", "winner", "cash"), "ham": ("lunch", "train", "flowers", "mum")}
    found = [(f"{word} {i} {word}", label) for label, some in words.items() for i in range(6) for word in some]
    rows, out = pd.DataFrame(found, columns=["text", "label"]), tmp_path / "x"
    how: dict[str, Any] = {"out": out, "backend": "dummy", "epochs": 2, "test": 8}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # trained, and not yet scored and saved
        patch.setattr("slmkit.classify.lora.LoRAClassifier.predict_proba", killed)
        tune_labels("dummy", rows, **how)
    done, of = backends.unfinished(tmp_path / "x.partial")
    assert done == of and not out.exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("slmkit.backends.clear_checkpoints", killed)
        tune_labels("dummy", rows, **how, progress=lambda event: pytest.fail("it was trained before"))
    assert (out / "tuning.json").is_file() and (tmp_path / "x.partial").is_dir()
    with monkeypatch.context() as patch:
        patch.setattr("slmkit.classify.lora.LoRAClassifier.fit", killed)
        told = tune_labels("dummy", rows, **how)
    assert "the work is done" in caplog.text and not (tmp_path / "x.partial").exists()
    assert told.accuracy == json.loads((out / "tuning.json").read_text())["accuracy"] and told.folder == out
    with pytest.raises(InputError, match="out must be a new or an empty folder"):
        tune_labels("dummy", rows, **how)
