"""`slmkit quantize`: the folder it writes is the cached copy to the byte, whole or not there, and refused kindly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from engines import available

import slmkit
from slmkit import LoRAClassifier, assets, backends, estimate, prequantise
from slmkit.__main__ import app
from slmkit.assets import ModelSource, stored, tensors
from slmkit.backends.base import Backend, LoRAConfig
from slmkit.errors import AssetError, InputError, NotEnoughMemory, SlmkitError
from slmkit.estimate import shapes

PROMPTS, LABELS = ["You have won a prize", "See you at lunch"], [" yes", " no"]
LAYOUTS = [("bnb", 4), ("bnb", 8), ("mlx", 4), ("mlx", 8)]


def test_single_tensors_are_read_bfloat16_too(tiny_decoder: ModelSource, small: Path) -> None:
    from safetensors.torch import load_file

    name = "model.layers.1.mlp.up_proj.weight"
    np.testing.assert_array_equal(
        tensors.read(tiny_decoder.folder, name), load_file(tiny_decoder.folder / "model.safetensors")[name].float()
    )
    nf4 = tensors.read(small, f"{name}.quant_map")
    assert nf4.shape == (16,) and (nf4[0], nf4[7], nf4[-1]) == (-1, 0, 1)
    with pytest.raises(InputError, match="unknown tensor 'model.layers.1.mlp.up.weight'. Did you mean"):
        tensors.read(tiny_decoder.folder, "model.layers.1.mlp.up.weight")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=LAYOUTS, ids=lambda layout: f"{layout[0]}-{layout[1]}bit")
def layout(request: pytest.FixtureRequest) -> tuple[str, int]:
    return available(request.param[0]).name, request.param[1]


@pytest.fixture(scope="module")
def small(tiny_decoder: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny decoder in 4 bits, for backend bnb."""
    return slmkit.quantize(tiny_decoder.name, out=tmp_path_factory.mktemp("stored") / "small", backend="bnb").folder


def test_a_stored_model_scores_and_weighs_as_the_cached_copy(
    layout: tuple[str, int], tiny_chat_decoder: ModelSource, tmp_path: Path, in_bfloat16: None
) -> None:
    backend, bits = layout
    made = slmkit.quantize(tiny_chat_decoder.name, out=tmp_path / "small", bits=bits, backend=backend)
    with slmkit.load(tiny_chat_decoder.name, bits=bits, backend=backend) as model:
        wanted, vectors = model.loglikelihood(PROMPTS, LABELS), model.embed(PROMPTS)
        sizes = model.weight_bytes(), model.n_parameters()
    with slmkit.load(str(tmp_path / "small")) as model:
        assert (model.backend, model.bits, model.scheme, model.source.chat) == (backend, bits, made.scheme, True)
        assert (model.weight_bytes(), model.n_parameters()) == sizes == (made.stored_bytes, made.n_parameters)
        np.testing.assert_array_equal(model.loglikelihood(PROMPTS, LABELS), wanted)
        np.testing.assert_array_equal(model.embed(PROMPTS), vectors)
    [copy] = (tmp_path / "cache" / "quantised").glob("*/model.safetensors")
    assert (tmp_path / "small" / "model.safetensors").read_bytes() == copy.read_bytes()


def test_an_encoder_is_stored_for_bnb_and_refused_for_mlx(tiny_encoder: ModelSource, tmp_path: Path) -> None:
    available("mlx")
    with pytest.raises(InputError, match=r"mlx-lm runs decoders only and .* is an encoder; use backend bnb"):
        slmkit.quantize(tiny_encoder.name, out=tmp_path / "small", backend="mlx")
    assert not (tmp_path / "small").exists()
    slmkit.quantize(tiny_encoder.name, out=tmp_path / "small", backend="bnb")
    with slmkit.load(tiny_encoder.name, bits=4, backend="bnb") as model:
        wanted = model.embed(PROMPTS)
    with slmkit.load(str(tmp_path / "small")) as model:
        assert model.source.kind == "encoder"
        np.testing.assert_array_equal(model.embed(PROMPTS), wanted)


def test_the_card_says_where_the_weights_come_from_and_what_they_weigh(small: Path, tiny_decoder: ModelSource) -> None:
    card = json.loads((small / stored.CARD).read_text(encoding="utf-8"))
    assert card["base"] == tiny_decoder.folder.name, "a path of this machine stays here"
    assert card["base_revision"] == assets.resolve(tiny_decoder.name).revision
    assert (card["bits"], card["scheme"], card["backend"], card["kind"]) == (4, "nf4-dq-mse", "bnb", "decoder")
    assert card["bytes_16bit"] == 2 * card["n_parameters"] == 2 * shapes.shape_of(small).n_parameters
    assert card["bytes_per_parameter"] == round(card["stored_bytes"] / card["n_parameters"], 4)
    assert card["licence"].startswith("not known") and "torch" in card["versions"]
    shown = (small / "README.md").read_text(encoding="utf-8")
    assert f"{card['bytes_per_parameter']:.3f} bytes a parameter" in shown and "Only slmkit reads this folder" in shown
    assert assets.problem_with(small) is None and small.stat().st_mode & 0o777 == 0o755


def test_terms_go_with_the_weights(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_decoder.folder, tmp_path / "base"))
    (folder / "LICENSE.txt").write_text("Do not sell.")
    (folder / "training_args.bin").write_bytes(b"x")
    made = slmkit.quantize(str(folder), out=tmp_path / "small", backend="bnb")
    assert (made.folder / "LICENSE.txt").read_text() == "Do not sell." and not list(made.folder.glob("*.bin"))


def test_plain_transformers_refuses_the_bnb_layout(small: Path) -> None:
    """Embeddings are packed as well, so it must not be read as if it were plain weights."""
    from transformers import AutoModelForCausalLM

    with pytest.raises(RuntimeError, match="(?i)mismatch"):
        AutoModelForCausalLM.from_pretrained(small)


def test_plain_mlx_lm_reads_the_mlx_layout(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    available("mlx")
    import mlx.core as mx
    from mlx_lm import load

    made = slmkit.quantize(tiny_decoder.name, out=tmp_path / "small", backend="mlx")
    net, tokenizer = load(str(made.folder))
    net.set_dtype(mx.float32)
    logits = net(mx.array([tokenizer.encode(PROMPTS[0] + LABELS[0])]))[0]
    with slmkit.load(str(made.folder)) as model:
        [[ours, _]] = model.loglikelihood(PROMPTS[:1], LABELS)
    tail = tokenizer.encode(LABELS[0], add_special_tokens=False)
    chosen = (logits - mx.logsumexp(logits, axis=-1, keepdims=True))[-len(tail) - 1 : -1]
    assert sum(float(chosen[i, token]) for i, token in enumerate(tail)) == pytest.approx(ours, abs=1e-4)


def test_contradicting_bits_and_backends_are_refused_with_both_named(small: Path) -> None:
    with pytest.raises(InputError, match="small is stored in 4 bits: bits must be 4; got 16"):
        slmkit.load(str(small), bits=16)
    with pytest.raises(InputError, match=r"small is stored as nf4-dq-mse, which only backend 'bnb' reads.* got 'mlx'"):
        slmkit.load(str(small), backend="mlx")
    source = assets.resolve(str(small))
    with pytest.raises(InputError, match="small is stored in 4 bits: bits must be 4; got 8"):
        backends.get("bnb").load(source, bits=8)
    with pytest.raises(InputError, match="small is stored in 4 bits: bits must be 4; got 16"):
        LoRAClassifier(str(small), bits=16).fit(["a", "b"], ["x", "y"])
    slmkit.load(str(small), bits=4, backend="bnb").release()


def refusals(small: Path, folder: Path, base: str) -> Iterator[tuple[dict[str, Any], str]]:
    (folder / "file").write_text("mine")
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("mine")
    gptq = Path(shutil.copytree(base, folder / "gptq"))
    config = json.loads((gptq / "config.json").read_text())
    (gptq / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    yield {"bits": 16}, "bits must be one of 4, 8; got 16"
    yield {"out": folder / "file"}, "cannot write the quantised model to .*file: it is a file. Name another folder"
    yield {"out": folder / "full"}, "full: it is not empty. Name another folder"
    yield {"out": folder / "full", "force": True}, "full: it is not empty. Name another folder"
    yield {"out": small}, "small: it is not empty; --force .* replaces what slmkit quantize wrote there"
    yield (
        {"model": str(small)},
        r"small is quantised already \(4 bits, nf4-dq-mse\).* quantise the model it was made from",
    )
    yield {"model": str(gptq)}, r"gptq is quantised already \(gptq\)"
    yield {"model": "dummy"}, "model 'dummy' is built in and has no weights to store"
    yield {"backend": "dummy"}, "backend 'dummy' stores no models: backend must be 'bnb' or 'mlx'; got 'dummy'"
    yield {"model": "smollm2-135n"}, "unknown model 'smollm2-135n'"


def test_what_cannot_be_stored_is_refused_and_nothing_is_written(
    small: Path, tiny_decoder: ModelSource, tmp_path: Path
) -> None:
    for wrong, message in refusals(small, tmp_path, tiny_decoder.name):
        before = sorted(p for p in tmp_path.rglob("*") if "cache" not in p.parts)
        arguments: dict[str, Any] = {"model": tiny_decoder.name, "out": tmp_path / "new", "backend": "bnb"} | wrong
        with pytest.raises(InputError, match=message):
            slmkit.quantize(**arguments)
        assert sorted(p for p in tmp_path.rglob("*") if "cache" not in p.parts) == before, message


def test_short_disk_and_short_memory_are_refused_before_the_work(
    tiny_decoder: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "100MB")
    with pytest.raises(NotEnoughMemory, match=r"needs about .* this process may use 0\.10 GB"):
        slmkit.quantize(tiny_decoder.name, out=tmp_path / "small", backend="bnb")
    monkeypatch.delenv("SLMKIT_MEMORY_LIMIT")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SlmkitError, match=r"takes about .* MB of the disk and 0 MB are free; make room"):
        slmkit.quantize(tiny_decoder.name, out=tmp_path / "small", backend="bnb")
    assert not (tmp_path / "small").exists()


def test_a_write_that_fails_leaves_the_earlier_folder_and_no_trace(
    tiny_decoder: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = slmkit.quantize(tiny_decoder.name, out=tmp_path / "there" / "small", backend="bnb")
    assert estimate.stored_bytes(assets.resolve(str(made.folder)), 16) == made.bytes_16bit

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for module, name in ((prequantise, "_add_files"), (prequantise, "_card"), (assets, "write_manifest")):
        with monkeypatch.context() as patch, pytest.raises(SlmkitError, match=r"small: the disk is full. nothing was"):
            patch.setattr(module, name, full)
            slmkit.quantize(tiny_decoder.name, out=made.folder, bits=8, backend="bnb", force=True)
        assert [p.name for p in made.folder.parent.iterdir()] == ["small"]
        assert assets.resolve(str(made.folder)).stored.bits == 4  # type: ignore[union-attr]
    slmkit.quantize(tiny_decoder.name, out=made.folder, bits=8, backend="bnb", force=True)
    assert [p.name for p in made.folder.parent.iterdir()] == ["small"]
    assert assets.resolve(str(made.folder)).stored.bits == 8  # type: ignore[union-attr]


def test_altered_weights_are_noticed(small: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "moved"))
    slmkit.load(str(folder)).release()
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(AssetError, match=r"weights in .*moved are not those that slmkit quantize wrote there"):
        slmkit.load(str(folder))


def test_an_adapter_remembers_the_stored_model_and_a_merged_one_can_be_stored(
    backend: Backend, tiny_decoder: ModelSource, tmp_path: Path
) -> None:
    base = slmkit.quantize(tiny_decoder.name, out=tmp_path / "small", backend=backend.name).folder
    source = assets.resolve(str(base))
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    adapter.mkdir()
    merged.mkdir()
    y = np.array([0, 1] * 4)
    backend.train_lora(
        source, [f"{p} {i}" for i in range(4) for p in PROMPTS], y, n_classes=2, bits=4,
        config=LoRAConfig(epochs=2, learning_rate=5e-3), out=adapter,
    )  # fmt: skip
    with pytest.raises(AssetError, match=r"was trained on .*small .*, not on"):
        slmkit.load(tiny_decoder.name, bits=4, backend=backend.name, adapter=adapter)
    with slmkit.load(str(base), adapter=adapter, dtype="float32") as model:
        wanted = model.loglikelihood(PROMPTS, LABELS)
    merge(backend.name)(source, 4, adapter, merged)
    with slmkit.load(str(merged), backend=backend.name, dtype="float32") as model:
        np.testing.assert_allclose(model.loglikelihood(PROMPTS, LABELS), wanted, atol=0.01)
    again = slmkit.quantize(str(merged), out=tmp_path / "again", backend=backend.name)
    with slmkit.load(str(again.folder)) as model:
        near = model.loglikelihood(PROMPTS, LABELS)
    assert again.base == "merged" and np.abs(near - wanted).max() < 5


def merge(backend: str) -> Any:
    if backend == "bnb":
        from slmkit.backends._torch.merging import merge as found
    else:
        from slmkit.backends._mlx.merging import merge as found
    return found


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [{"text": f"{'win a prize' if i % 2 else 'see you'} number {i}", "label": "ab"[i % 2]} for i in range(60)]
    path = tmp_path / "rows.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_a_study_takes_the_folder_in_its_own_bits_and_tests_it_against_what_it_came_from(
    small: Path, tiny_decoder: ModelSource, table: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    arguments = {"methods": "embedding", "measure_s": 0.05, "out": tmp_path / "runs", "backend": "bnb"}
    result = slmkit.study(
        table, models=[str(small), tiny_decoder.name], bits=[16, 4], **arguments,
        progress=lambda event: said.extend(event.get("lines", [])),
    )  # fmt: skip
    assert result.failed == []
    runs = {(run.model, run.bits): run for run in result.runs if run.model}
    assert set(runs) == {(str(small), 4), (tiny_decoder.name, 16), (tiny_decoder.name, 4)}
    own, cached = runs[str(small), 4], runs[tiny_decoder.name, 4]
    assert own.base_revision == runs[tiny_decoder.name, 16].revision
    assert own.p_vs_16bit == cached.p_vs_16bit is not None
    assert (own.accuracy, own.stored_bytes) == (cached.accuracy, cached.stored_bytes)
    assert f"Note: {small} is stored in 4 bits and runs in these only" in said


def test_a_study_refuses_bits_and_backends_that_contradict_the_folder(small: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="small is stored in 4 bits: bits must be 4; got 16"):
        slmkit.study(table, models=str(small), methods="prompt", bits=16, out=tmp_path / "runs")
    with pytest.raises(InputError, match="backend must be 'bnb'; got 'mlx'"):
        slmkit.study(table, models=str(small), methods="prompt", backend="mlx", out=tmp_path / "runs")


def test_the_command_prints_bytes_licence_and_the_next_step(
    tiny_decoder: ModelSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["quantize", tiny_decoder.name, "--backend", "bnb", "-o", str(tmp_path / "my model")]
    app(command, standalone_mode=False)
    shown = capsys.readouterr().out
    assert "0.722 MB in 16 bits, 0.302 MB here: 0.836 bytes a parameter, embeddings included" in shown
    assert "slmkit study TASK --models" in shown and f"'{tmp_path / 'my model'}'" in shown and "peak memory" in shown
    with pytest.raises(SystemExit) as ended:
        app(command)
    assert ended.value.code == 2 and "it is not empty; --force" in capsys.readouterr().err
