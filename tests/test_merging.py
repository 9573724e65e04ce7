"""Adapters inside their model: the same answers, weights taken out of their few bits first, and nothing half done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from checkpoints import CASES, make
from engines import available
from random_adapters import random_peft
from safetensors.numpy import load_file
from scipy.special import softmax
from typer.testing import CliRunner

import slmkit
from slmkit import assets
from slmkit.__main__ import app
from slmkit.assets import ModelSource
from slmkit.classify import LoRAClassifier
from slmkit.errors import AssetError, InputError, NotEnoughMemory, SlmkitError
from slmkit.training import forgetting
from slmkit.tuning import merging

pytest.importorskip("peft")
TEXTS = ["Call now! You have won a prize.", "See you at lunch tomorrow.", "The bank wrote to you about your account."]


@pytest.fixture(scope="module")
def chat(tiny_chat_decoder: ModelSource) -> ModelSource:
    return assets.resolve(tiny_chat_decoder.name)


@pytest.fixture(scope="module")
def adapter(chat: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_peft(chat, tmp_path_factory.mktemp("adapter"), size=0.3)


def said(source: str | Path, **how: Any) -> np.ndarray:
    with slmkit.load(str(source), **how) as model:
        return forgetting.score(model, TEXTS).nats


def test_the_folder_is_read_by_plain_transformers_and_says_what_base_and_adapter_say(
    chat: ModelSource, adapter: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = str(chat.folder)
    done = slmkit.merge(name, adapter, out=tmp_path / "merged", texts=TEXTS)
    ids = torch.tensor([AutoTokenizer.from_pretrained(done.folder)(TEXTS[0])["input_ids"]])
    plain, base = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in (done.folder, name))
    with torch.inference_mode():
        untuned = base(ids).logits.log_softmax(-1)
        wanted = PeftModel.from_pretrained(base, str(adapter))(ids).logits.log_softmax(-1)
        found = plain(ids).logits.log_softmax(-1)
    assert (found - wanted).abs().mean() < 0.03 < 0.3 < (untuned - wanted).abs().mean()  # rounded to bfloat16
    assert {p.dtype for p in AutoModelForCausalLM.from_pretrained(done.folder).parameters()} == {torch.bfloat16}
    assert done.shift_merged < 0.15 * done.effect and abs(done.loss_adapter - done.loss_merged) < 0.02
    assert done.stored_bytes / (chat.folder / "model.safetensors").stat().st_size == pytest.approx(1, abs=0.02)
    assert assets.problem_with(done.folder) is None


def test_an_adapter_of_four_bits_corrects_the_weights_as_four_bits_hold_them(chat: ModelSource, tmp_path: Path) -> None:
    name, folder = str(chat.folder), random_peft(chat, tmp_path / "adapter", bits=4, size=0.3)
    done = slmkit.merge(name, folder, out=tmp_path / "merged", texts=TEXTS)
    assert done.base_bits == 4 and done.shift_merged < 0.15 * done.effect
    wanted = said(name, bits=4, adapter=folder, dtype="float32")
    found = said(done.folder, dtype="float32")
    wrong = said(name, bits=16, adapter=folder, dtype="float32")  # added to the weights as published
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wrong - wanted).max()


@pytest.mark.parametrize("backend", ["bnb", "mlx"])
def test_four_bits_are_made_anew_from_the_merged_weights_and_the_command_says_what_they_cost(
    chat: ModelSource, adapter: Path, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "N_TEXTS", 2)
    available(backend)
    out = tmp_path / "few"
    command = ["merge", str(chat.folder), str(adapter), "-o", str(out), "--bits", "4", "--backend", backend]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    facts = json.loads((out / "slmkit_merged.json").read_text())
    losses = f"{facts['loss_adapter']:.4f} adapter beside base, {facts['loss_merged']:.4f} merged"
    assert f"loss on 2 texts: {losses}" in done.output
    assert f"in 4 bits: loss {facts['loss_stored']:.4f}, largest difference {facts['shift_stored']:.4f}" in done.output
    form = assets.resolve(str(out)).stored
    assert form and (form.bits, form.backend) == (4, backend) == (facts["bits"], facts["backend"])
    assert facts["shift_merged"] < 0.15 * facts["effect"] and facts["shift_stored"] > 3 * facts["shift_merged"]
    assert facts["stored_bytes"] < 0.45 * (chat.folder / "model.safetensors").stat().st_size
    with slmkit.load(str(out), dtype="float32") as model:
        found = forgetting.score(model, forgetting.passages()[: merging.N_TEXTS])
    assert -found.nats.sum() / found.n_tokens.sum() == pytest.approx(facts["loss_stored"], abs=1e-3)
    card = json.loads((out / "slmkit_quantised.json").read_text())
    assert (card["base"], card["base_revision"]) == (chat.folder.name, chat.revision)
    header = yaml.safe_load((out / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert header["library_name"] == ("slmkit" if backend == "bnb" else "mlx") and "4-bit" in header["tags"]
    assert not [path for path in out.iterdir() if path.is_dir()]


@pytest.mark.parametrize("name", ["Falcon", "Gemma"])
def test_what_mlx_merges_is_read_by_the_other_backend(tmp_path: Path, name: str) -> None:
    pytest.importorskip("mlx_lm")
    (tmp_path / "base").mkdir()
    source = make(next(case for case in CASES if case.name == name), tmp_path / "base")
    done = slmkit.merge(
        source.name, random_peft(source, tmp_path / "a"), out=tmp_path / "m", backend="mlx", texts=TEXTS
    )
    found, wanted = (said(done.folder, backend=backend, dtype="float32") for backend in ("bnb", "mlx"))
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_a_classifier_keeps_its_head_and_its_probabilities(chat: ModelSource, tmp_path: Path) -> None:
    how = {"rank": 4, "alpha": 8, "epochs": 6, "batch_size": 3, "learning_rate": 5e-3, "checks": False}
    classifier = LoRAClassifier(str(chat.folder), backend="bnb", **how).fit(TEXTS, ["a", "b", "a"])
    wanted = classifier.predict_proba(TEXTS)
    saved = classifier.save(tmp_path / "saved")
    classifier.release()
    done = slmkit.merge(str(chat.folder), saved, out=tmp_path / "merged", texts=TEXTS)
    assert done.unit == "probability" and done.loss_adapter is None and done.shift_merged < 0.05 < done.effect
    head = load_file(done.folder / "head.safetensors")
    with slmkit.load(str(done.folder)) as model:
        scores = model.embed(TEXTS, pooling="last") @ head["weight"].T + head["bias"]
    np.testing.assert_allclose(softmax(scores, axis=1), wanted, atol=0.05)
    assert np.ptp(wanted[:, 0]) > 0.5
    assert "softmax" in (done.folder / "README.md").read_text(encoding="utf-8")


# refusals


def refused(kind: type[Exception], source: ModelSource, adapter: Path, out: Path, **how: Any) -> str:
    with pytest.raises(kind) as error:
        slmkit.merge(str(source.folder), adapter, out=out, **{"texts": TEXTS, **how})
    assert not out.exists() or list(out.iterdir()) == [out / "mine"]
    assert not list(out.parent.glob(".*"))
    return str(error.value)


def test_what_cannot_be_merged_is_refused_and_leaves_nothing(
    chat: ModelSource, tiny_decoder: ModelSource, tiny_encoder: ModelSource, adapter: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert "another chat template" in refused(AssetError, tiny_decoder, adapter, out)  # the same weights
    assert "only a decoder's adapter can be merged" in refused(InputError, tiny_encoder, adapter, out)
    assert "bits must be one of 4, 8, 16; got 5" in refused(InputError, chat, adapter, out, bits=5)
    assert "is not an adapter" in refused(AssetError, chat, tmp_path, out)
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    facts = json.loads((copy / "slmkit_adapter.json").read_text())
    (copy / "slmkit_adapter.json").write_text(json.dumps(facts | {"revision": "f" * 40}))
    assert "was trained on" in refused(AssetError, chat, copy, out)
    weights = copy / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    (copy / "slmkit_adapter.json").write_text(json.dumps(facts))
    assert "is truncated or altered" in refused(AssetError, chat, copy, out)
    out.mkdir()
    (out / "mine").touch()
    assert f"{out} exists. Choose another one" in refused(InputError, chat, adapter, out)


def test_no_room_is_said_before_anything_is_written(
    chat: ModelSource, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(merging.shutil, "disk_usage", lambda _: usage)
        message = refused(SlmkitError, chat, adapter, tmp_path / "out", bits=4)
    assert "of the disk and 1 MB are free" in message
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "1MB")
    assert "bytes a weight) but this process may use 0.0 GB" in refused(
        NotEnoughMemory, chat, adapter, tmp_path / "out"
    )


def test_a_merge_that_lost_the_adapter_is_refused(
    chat: ModelSource, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgets(_: str, source: ModelSource, *, out: Path, **__: Any) -> None:
        shutil.copytree(source.folder, out, dirs_exist_ok=True)

    monkeypatch.setattr(merging.backends, "merge", forgets)
    message = refused(SlmkitError, chat, adapter, tmp_path / "out")
    assert "do not say what base and adapter say together" in message and "is allowed" in message
