"""`slmkit doctor --model` on saved folders: silent on whole ones, and the damage by its name on damaged ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from test_classify import LABELS, TEXTS
from typer.testing import CliRunner

import slmkit
from slmkit.__main__ import app
from slmkit.assets import MANIFEST, ModelSource
from slmkit.classify import FloorClassifier, LoRAClassifier
from slmkit.guard import checkup
from slmkit.guard.findings import FAIL, OK, WARN


def statuses(folder: Path) -> dict[str, str]:
    return {one.name: one.status for one in checkup.examine(folder)}


def one(folder: Path, name: str) -> Any:
    return next(found for found in checkup.examine(folder) if found.name == name)


@pytest.fixture(scope="module")
def base(tiny_chat_decoder: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model in a folder that may be damaged."""
    folder = tmp_path_factory.mktemp("base") / "model"
    shutil.copytree(tiny_chat_decoder.folder, folder)
    return folder


@pytest.fixture(scope="module")
def classifier(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fitted = LoRAClassifier(str(base), epochs=3, learning_rate=5e-3, batch_size=8, rank=4).fit(TEXTS, LABELS)
    return fitted.save(tmp_path_factory.mktemp("saved") / "classifier")


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = pd.DataFrame({"prompt": [f"{text}?" for text in TEXTS[:8]], "answer": "No."})
    how: dict[str, Any] = {"epochs": 12, "learning_rate": 2e-2, "rank": 4, "backend": "bnb"}
    return slmkit.finetune(str(base), rows, out=tmp_path_factory.mktemp("saved") / "tuned", **how).folder


@pytest.fixture
def damaged(classifier: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the classifier without its manifest, so that only what a file says gives damage away."""

    def make(change: Callable[[Path], Any]) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(classifier, folder)
        (folder / MANIFEST).unlink()
        change(folder)
        return folder

    return make


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def swap_head(folder: Path) -> None:
    path = folder / "adapter" / "head.safetensors"
    head = {name: tensor.flip(0).contiguous() for name, tensor in load_file(path).items()}
    save_file(head, path)


def test_whole_folders_are_silent(classifier: Path, tuned: Path) -> None:
    found = statuses(classifier)
    assert set(found.values()) == {OK}, checkup.examine(classifier)
    assert {"files", "base model", "same template", "weights moved", "head", "batched = single"} <= set(found)
    assert {"as trained", "loss falls", "target modules", "head not quantised"} <= set(found)
    found = statuses(tuned)
    assert found.pop("answers end") in (OK, WARN) and set(found.values()) == {OK}, checkup.examine(tuned)
    assert {"as trained", "held-out loss", "same template"} <= set(found)


def test_any_altered_file_is_named(classifier: Path, tmp_path: Path) -> None:
    shutil.copytree(classifier, tmp_path / "copy")
    swap_head(tmp_path / "copy")
    found = one(tmp_path / "copy", "files")
    assert found.status == FAIL and "head.safetensors was altered" in found.found


def test_a_head_that_is_gone(damaged: Callable[..., Path]) -> None:
    folder = damaged(lambda folder: (folder / "adapter" / "head.safetensors").unlink())
    found = one(folder, "head")
    assert found.status == FAIL and "is not there" in found.found
    assert statuses(folder)["files"] == WARN and "as trained" not in statuses(folder)


def test_rows_of_the_head_that_were_swapped(damaged: Callable[..., Path]) -> None:
    found = one(damaged(swap_head), "as trained")
    assert found.status == FAIL and "'ham' comes out as 'spam', 'spam' comes out as 'ham'" in found.found


def test_classes_that_were_swapped_are_noticed_by_the_manifest_only(classifier: Path, tmp_path: Path) -> None:
    shutil.copytree(classifier, tmp_path / "copy")
    rewrite(tmp_path / "copy" / "classifier.json", classes=["spam", "ham"])
    assert "classifier.json" in one(tmp_path / "copy", "files").found


def test_another_base_model(damaged: Callable[..., Path], tiny_decoder: ModelSource, tmp_path: Path) -> None:
    folder = damaged(lambda folder: None)
    params = json.loads((folder / "classifier.json").read_text())["params"]
    moved = tmp_path / "moved"
    shutil.copytree(tiny_decoder.folder, moved)
    weights = load_file(moved / "model.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in weights.items()}, moved / "model.safetensors", {"format": "pt"})
    rewrite(folder / "classifier.json", params=params | {"model": str(moved)})
    found = one(folder, "base model")
    assert found.status == FAIL and "it was tuned on" in found.found and found.remedy.startswith("name ")
    rewrite(folder / "classifier.json", params=params | {"model": "smollm2-135m"})
    assert "cannot be found: unknown model 'smollm2-135m'. Did you mean" in one(folder, "base model").found


def test_another_chat_template(classifier: Path, tuned: Path, base: Path) -> None:
    path = base / "chat_template.jinja"
    kept = path.read_text()
    path.write_text(kept + " ")
    try:
        for folder in (classifier, tuned):
            found = one(folder, "same template")
            assert found.status == FAIL and "another chat template" in found.found
            assert "batched = single" not in statuses(folder)
    finally:
        path.write_text(kept)


def test_a_head_made_up_anew(damaged: Callable[..., Path]) -> None:
    def renew(folder: Path) -> None:
        path = folder / "adapter" / "head.safetensors"
        save_file({name: 0.02 * tensor.normal_() for name, tensor in load_file(path).items()}, path)

    found = one(damaged(renew), "as trained")
    assert found.status == FAIL and "not the model that was measured" in found.cost


def test_what_was_warned_of_in_training_is_said_again(damaged: Callable[..., Path]) -> None:
    def warn(folder: Path) -> None:
        path = folder / "classifier.json"
        state = json.loads(path.read_text())["state"]
        entry = {
            "name": "cut rows",
            "status": WARN,
            "found": "90% of the rows",
            "cost": "",
            "remedy": "",
            "evidence": {},
        }
        rewrite(path, state={**state, "guard": {**state["guard"], "before": [entry]}})

    found = one(damaged(warn), "cut rows")
    assert found.status == WARN and found.found == "said when it was trained: 90% of the rows"


def test_a_classifier_without_trained_weights(tmp_path: Path) -> None:
    folder = FloorClassifier().fit(TEXTS, LABELS).save(tmp_path / "floor")
    assert statuses(folder) == {"files": OK, "base model": OK}


def test_the_command_shows_a_table_or_json_and_says_by_its_status_what_is_broken(
    classifier: Path, damaged: Callable[..., Path]
) -> None:
    done = CliRunner().invoke(app, ["doctor", "--model", str(classifier)])
    assert done.exit_code == 0 and "0 broken" in done.stdout and "[OK]" in done.stdout
    folder = damaged(swap_head)
    done = CliRunner().invoke(app, ["doctor", "--model", str(folder)])
    assert done.exit_code == 1 and "[FAIL] as trained" in done.stdout and "-> put back" in done.stdout
    done = CliRunner().invoke(app, ["doctor", "--model", str(folder), "--json"])
    told = json.loads(done.stdout)
    (failed,) = [check for check in told["checks"] if check["status"] == FAIL]
    assert not told["ok"] and failed["name"] == "as trained" and failed["evidence"]["off"] > 0.2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("x"), "is a file"),
        (lambda path: path.mkdir(), "it holds nothing"),
        (lambda path: path.mkdir() or (path / "classifier.json").write_text("{"), "cannot be looked at"),
        (lambda path: path.mkdir() or (path / "classifier.json").write_text("{}"), "it has no 'class'"),
        (lambda path: path.mkdir() or (path / "finetune.json").write_text("[]"), "must hold a JSON object"),
        (lambda path: path.mkdir() or (path / "finetune.json").write_text('{"slmkit": "0"}'), "it has no 'model'"),
    ],
)
def test_a_folder_that_is_none_is_refused(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    make(tmp_path / "x")
    done = CliRunner().invoke(app, ["doctor", "--model", str(tmp_path / "x")])
    assert done.exit_code == 2 and message in done.output and "Traceback" not in done.output
