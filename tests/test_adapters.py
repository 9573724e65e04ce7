"""Adapters that travel: the same numbers on the other backend, files that PEFT and mlx-lm read, and plain refusals."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import CASES, Case
from random_adapters import random_peft
from typer.testing import CliRunner

import slmkit
from slmkit import adapters, backends
from slmkit.__main__ import app
from slmkit.assets import ModelSource
from slmkit.backends.base import LoRAConfig
from slmkit.classify import LoRAClassifier
from slmkit.errors import AssetError, InputError, SlmkitError

pytest.importorskip("peft")
pytest.importorskip("mlx_lm")
NAMED = ("Llama 2", "Mistral", "Phi-3", "Gemma", "Gemma 2", "Gemma 3", "Falcon", "Qwen2.5")
DECODERS = [case for case in CASES if case.name in NAMED]
PROMPTS = ["The bank wrote to you about your account: please confirm your password. Label:", "Is this a question? Yes"]
LABELS = [" spam", " ham and flowers"]
NATS = 2e-3  # as the conformance suite allows in float32
TEXTS = ["Call now!", "See you at lunch tomorrow.", "You have won a free prize.", "The train is late again."]


def scores(source: ModelSource, backend: str, adapter: Path | None = None) -> np.ndarray:
    with slmkit.load(str(source.folder), backend=backend, adapter=adapter, dtype="float32") as model:
        assert model.adapter == adapter
        return model.loglikelihood(PROMPTS, LABELS)


def arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file

    return {name: array.float().numpy() for name, array in load_file(path).items()}


@pytest.fixture(scope="module")
def llama(checkpoints: Callable[[Case], ModelSource]) -> ModelSource:
    return checkpoints(DECODERS[0])


@pytest.fixture(scope="module")
def kept(llama: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_peft(llama, tmp_path_factory.mktemp("kept"))


@pytest.fixture
def adapter(kept: Path, tmp_path: Path) -> Path:
    """A copy of PEFT's adapter of a Llama that a test may damage."""
    return Path(shutil.copytree(kept, tmp_path / "adapter"))


# the same numbers


@pytest.mark.parametrize("case", DECODERS, ids=[case.name.replace(" ", "") for case in DECODERS])
def test_an_adapter_says_the_same_on_the_other_backend_and_comes_back_bit_for_bit(
    checkpoints: Callable[[Case], ModelSource], case: Case, tmp_path: Path
) -> None:
    import mlx.core as mx
    import torch
    from mlx_lm.tuner.utils import load_adapters
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from slmkit.backends._mlx import weights

    source = checkpoints(case)
    first = random_peft(source, tmp_path / "first")
    np.testing.assert_allclose(scores(source, "mlx", first), scores(source, "bnb", first), atol=NATS)  # by itself

    there = adapters.convert(first, tmp_path / "there", "mlx")
    back = adapters.convert(there, tmp_path / "back", "peft")
    before, after = (arrays(folder / "adapter_model.safetensors") for folder in (first, back))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)

    ids = [[5, 17, 33, 40, 41]]  # what PEFT and mlx-lm compute by themselves
    model = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32)
    with torch.inference_mode():
        plain = model(torch.tensor(ids)).logits.numpy()
        theirs = PeftModel.from_pretrained(model, str(back)).eval()(torch.tensor(ids)).logits.numpy()
    net, _ = weights.read(source.folder)
    net.set_dtype(mx.float32)
    ours = np.array(load_adapters(net, str(there)).eval()(mx.array(ids)))
    np.testing.assert_allclose(ours, theirs, atol=NATS)
    assert np.abs(theirs - plain).max() > 100 * NATS


def test_a_classifier_tuned_on_mlx_answers_alike_on_the_other_backend(llama: ModelSource, tmp_path: Path) -> None:
    how = {
        "rank": 4,
        "alpha": 8,
        "epochs": 4,
        "batch_size": 4,
        "learning_rate": 5e-3,
        "last_blocks": 1,
        "checks": False,
    }
    classifier = LoRAClassifier(str(llama.folder), backend="mlx", **how).fit(TEXTS, ["a", "b", "a", "b"])
    wanted = classifier.predict_proba(TEXTS)
    folder = classifier.save(tmp_path / "saved")
    classifier.release()
    values = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
    values["params"]["backend"] = "bnb"
    (folder / "classifier.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "slmkit-manifest.json").unlink()
    there = slmkit.load_classifier(folder)
    found = there.predict_proba(TEXTS)
    there.release()
    np.testing.assert_allclose(found, wanted, atol=0.02)  # both compute in bfloat16
    assert np.ptp(wanted[:, 0]) > 0.2


def test_an_adapter_of_the_last_blocks_keeps_them(llama: ModelSource, tmp_path: Path) -> None:
    first = random_peft(llama, tmp_path / "first", last=1)
    np.testing.assert_allclose(scores(llama, "mlx", first), scores(llama, "bnb", first), atol=NATS)
    back = adapters.convert(adapters.convert(first, tmp_path / "there", "mlx"), tmp_path / "back", "peft")
    assert json.loads((back / "adapter_config.json").read_text())["layers_to_transform"] == [1]


def test_an_adapter_with_a_scale_by_the_root_of_its_rank_keeps_it(adapter: Path, tmp_path: Path) -> None:
    edit(adapter, use_rslora=True)
    there = adapters.convert(adapter, tmp_path / "there", "mlx")
    assert json.loads((there / "adapter_config.json").read_text())["lora_parameters"]["scale"] == 5.0
    back = adapters.convert(there, tmp_path / "back", "peft")
    assert json.loads((back / "adapter_config.json").read_text())["lora_alpha"] == 20


def test_an_adapter_of_another_program_converts_without_what_slmkit_writes_down(adapter: Path, tmp_path: Path) -> None:
    (adapter / "slmkit_adapter.json").unlink()
    there = adapters.convert(adapter, tmp_path / "there", "mlx")
    assert sorted(path.name for path in there.iterdir() if "manifest" not in path.name) == [
        "README.md",
        "adapter_config.json",
        "adapters.safetensors",
    ]
    assert "\nlibrary_name: mlx\n" in (there / "README.md").read_text(encoding="utf-8")


def test_the_copy_in_the_cache_is_made_once_and_anew_when_the_adapter_changed(
    llama: ModelSource, adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = adapters.for_backend(adapter, "mlx", llama)
    stamp = (copy / "adapters.safetensors").stat().st_mtime_ns
    assert adapters.for_backend(adapter, "mlx", llama) == copy
    assert (copy / "adapters.safetensors").stat().st_mtime_ns == stamp
    assert adapters.for_backend(adapter, "bnb", llama) == adapter
    edit(adapter, "slmkit_adapter.json", bits=4)
    with caplog.at_level(logging.WARNING):
        assert adapters.for_backend(adapter, "mlx", llama) != copy
    assert "was trained on 4 bits as another backend rounds them" in caplog.text


def test_bfloat16_stays_bfloat16(llama: ModelSource, tmp_path: Path) -> None:
    from safetensors import safe_open

    out = tmp_path / "tuned"
    out.mkdir()
    engine = backends.get("bnb")
    prompts = engine.dialogue_prompts(llama, [[{"role": "user", "content": text}] for text in TEXTS])
    config = LoRAConfig(rank=2, epochs=2, batch_size=4)
    engine.train_completion(llama, prompts, ["Yes."] * 4, bits=16, config=config, out=out)
    there = adapters.convert(out, tmp_path / "there", "mlx")
    with safe_open(out / "adapter_model.safetensors", "pt") as a, safe_open(there / "adapters.safetensors", "pt") as b:
        kinds = {file.get_tensor(name).dtype for file in (a, b) for name in file.keys()}  # noqa: SIM118
    assert len(kinds) == 1
    np.testing.assert_allclose(scores(llama, "mlx", there), scores(llama, "bnb", out), atol=NATS)


# refusals


def edit(folder: Path, name: str = "adapter_config.json", **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_dora": True}, "no counterpart for use_dora = True; only plain LoRA converts"),
        ({"rank_pattern": {"q_proj": 8}, "bias": "all"}, "bias = 'all', rank_pattern = {'q_proj': 8}"),
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save = ['lm_head']"),
        ({"r": 8}, "must have A and B of rank 8; got {'a': (192, 4), 'b': (4, 128)}"),
        ({"r": None}, "must name r and lora_alpha"),
    ],
)
def test_what_the_other_layout_cannot_say_is_named(
    adapter: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    edit(adapter, **values)
    assert message in refused(adapter, tmp_path)


def test_damaged_folders_are_named(adapter: Path, tmp_path: Path) -> None:
    whole = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(whole[:-8])
    assert "adapter_model.safetensors is truncated or altered" in refused(adapter, tmp_path)
    (adapter / "adapter_model.safetensors").write_bytes(whole)
    (adapter / "adapter_config.json").write_text("{")
    assert "adapter_config.json cannot be read" in refused(adapter, tmp_path)
    (adapter / "adapter_config.json").unlink()
    assert "has no adapter_config.json" in refused(adapter, tmp_path)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "it holds only pickled weights (adapter_model.bin)" in refused(adapter, tmp_path)
    assert "there is no such folder" in refused(tmp_path / "nowhere", tmp_path)


def test_a_saved_classifier_is_told_from_its_adapter(adapter: Path, tmp_path: Path) -> None:
    assert f"its adapter is in {adapter}" in refused(adapter.parent, tmp_path)


def refused(folder: Path, tmp_path: Path) -> str:
    with pytest.raises((InputError, AssetError)) as error:
        adapters.convert(folder, tmp_path / "out", "mlx")
    assert not (tmp_path / "out").exists()
    return str(error.value)


def test_matrices_of_no_linear_layer_or_in_one_block_only_are_named(adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    held = load_file(path)
    save_file({**held, "base_model.model.lm_head.lora_A.weight": held[min(held)].clone()}, path)
    assert "'base_model.model.lm_head.lora_A.weight' is not a LoRA matrix of a linear layer" in refused(
        adapter, tmp_path
    )
    save_file({name: array for name, array in held.items() if "layers.1.mlp.up" not in name}, path)
    assert "(model.layers.1.mlp.up_proj is left out)" in refused(adapter, tmp_path)


def test_an_adapter_of_another_model_is_refused_on_either_backend(
    checkpoints: Callable[[Case], ModelSource], llama: ModelSource, adapter: Path
) -> None:
    other = checkpoints(next(case for case in DECODERS if case.name == "Gemma 3"))
    with pytest.raises(AssetError, match=rf"{adapter} was trained on {llama.folder} \({llama.revision}\), not on"):
        slmkit.load(str(other.folder), backend="mlx", adapter=adapter)
    (adapter / "slmkit_adapter.json").unlink()
    with pytest.raises(InputError, match="adapts blocks 0 to 1 and the model has 3: it belongs to another model"):
        slmkit.load(str(other.folder), backend="mlx", adapter=adapter)


def test_an_adapter_of_another_template_is_refused_after_conversion_too(llama: ModelSource, adapter: Path) -> None:
    edit(adapter, "slmkit_adapter.json", template_sha256="0" * 64)
    with pytest.raises(AssetError, match="was trained with another chat template"):
        slmkit.load(str(llama.folder), backend="mlx", adapter=adapter)


def test_an_architecture_that_was_not_compared_is_refused_with_the_reason(llama: ModelSource, adapter: Path) -> None:
    folder = adapter.parent / "model"
    shutil.copytree(llama.folder, folder)
    edit(folder, "config.json", model_type="olmo2")
    (adapter / "slmkit_adapter.json").unlink()
    with pytest.raises(InputError, match="does not know how the layers of 'olmo2' are called there"):
        adapters.for_backend(adapter, "mlx", slmkit.assets.ModelSource("m", folder, "r", "decoder", False))


# the command


def test_the_command_converts_and_refuses_folders_that_exist(adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "there"
    done = CliRunner().invoke(app, ["adapters", "convert", str(adapter), "--to", "mlx", "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert adapters.layout_of(out) == "mlx" and str(out) in done.output
    for arguments, said in (
        ([str(adapter), "--to", "mlx", "-o", str(out)], "exists. Choose another one"),
        ([str(adapter), "--to", "peft", "-o", str(tmp_path / "x")], "is in the layout 'peft' already"),
        ([str(adapter), "--to", "onnx", "-o", str(tmp_path / "x")], "unknown layout 'onnx'"),
    ):
        done = CliRunner().invoke(app, ["adapters", "convert", *arguments])
        assert done.exit_code == 2 and said in done.output, done.output
    assert not (tmp_path / "x").exists()


def test_no_room_leaves_nothing(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapters, "serialize_file", full)
    with pytest.raises(SlmkitError, match="the disk is full. nothing was written"):
        adapters.convert(adapter, tmp_path / "out", "mlx")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
