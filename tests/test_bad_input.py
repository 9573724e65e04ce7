"""Models, tokenizers, adapters and prompts that would be wrong without a word: each is refused with the way out."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slmkit import assets
from slmkit.assets import ModelSource
from slmkit.backends import get
from slmkit.backends.base import Backend, LanguageModel, LoRAConfig
from slmkit.errors import AssetError, InputError

CONTEXT = 512  # of the tiny decoders
WEIGHTS = {"bnb": "adapter_model.safetensors", "mlx": "adapters.safetensors"}
LORA = LoRAConfig(rank=2, alpha=4, epochs=1, batch_size=4, max_length=16)


@pytest.fixture(scope="module")
def model(backend: Backend, tiny_decoder: ModelSource) -> Iterator[LanguageModel]:
    with backend.load(tiny_decoder, dtype="float32") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def trained(backend: Backend, tiny_chat_decoder: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapter")
    texts, y = ["win now", "see you", "win", "see"], np.array([1, 0, 1, 0])
    backend.train_lora(tiny_chat_decoder, texts, y, n_classes=2, bits=16, config=LORA, out=out)
    return out


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """A copy of a trained adapter that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "adapter"))


def changed(source: ModelSource, to: Path, name: str = "config.json", **values: Any) -> ModelSource:
    """A copy of a model with other values in one of its JSON files."""
    folder = Path(shutil.copytree(source.folder, to))
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return replace(source, name=to.name, folder=folder)


def refused(backend: Backend, source: ModelSource, **how: Any) -> str:
    with pytest.raises((AssetError, InputError)) as error:
        backend.load(source, **how)
    return str(error.value)


def edit_facts(adapter: Path, **values: Any) -> None:
    path = adapter / "slmkit_adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# architectures and code


def test_an_unknown_architecture_is_named_with_its_file(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    said = refused(get("bnb"), changed(tiny_decoder, tmp_path / "new", model_type="nonesuch"))
    assert re.search(r"new/config\.json: transformers [\d.]+ has no architecture 'nonesuch'\. Take a model of a", said)


def test_code_of_the_model_itself_is_never_run(backend: Backend, tiny_decoder: ModelSource, tmp_path: Path) -> None:
    named = {"model_file": "own.py"} if backend.name == "mlx" else {"model_type": "own", "auto_map": {"X": "own.Own"}}
    source = changed(tiny_decoder, tmp_path / "own", **named)
    (source.folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    said = refused(backend, source)
    assert "config.json: " in said and "and code that comes with a model (own.py) is never run. Take a model" in said
    assert not (tmp_path / "ran").exists()


def test_code_that_is_passed_over_is_spoken_of(
    backend: Backend, tiny_decoder: ModelSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = changed(tiny_decoder, tmp_path / "auto", auto_map={"AutoModel": "own.Own", "AutoConfig": "conf.C"})
    backend.load(source).release()
    assert re.search(r"auto/config\.json names code of its own \(conf\.py, own\.py\); it is not run", caplog.text)


# vocabulary


def test_a_tokenizer_with_ids_beyond_the_embedding_is_refused(
    backend: Backend, tiny_decoder: ModelSource, tmp_path: Path
) -> None:
    source = _with_token(tiny_decoder, tmp_path / "pad", "<extra>", pad_token="<extra>")
    said = refused(backend, source)
    assert re.search(
        r"the tokenizer in .*pad does not belong to the model: 1 of its tokens, '<extra>' \(id \d+\)", said
    )
    assert "no row in the embedding of" in said and "Take the tokenizer files that came with the weights" in said
    config = json.loads((tiny_decoder.folder / "config.json").read_text())
    fewer = changed(tiny_decoder, tmp_path / "fewer", vocab_size=config["vocab_size"] - 100)
    assert "100 of its tokens" in refused(backend, fewer)


def test_an_added_token_that_nobody_uses_is_refused_only_in_a_text(
    backend: Backend, tiny_decoder: ModelSource, tmp_path: Path
) -> None:
    with backend.load(_with_token(tiny_decoder, tmp_path / "image", "<image>"), dtype="float32") as model:
        assert np.isfinite(model.embed(["an image"])).all()
        for use in (
            lambda: model.embed(["ok", "an <image>"]),
            lambda: model.loglikelihood(["an", "an <image>"], [" x"]),
        ):
            with pytest.raises(InputError, match=r"text 1 holds '<image>' \(id \d+\), for which the model's embedding"):
                use()


def _with_token(source: ModelSource, to: Path, token: str, **special: str) -> ModelSource:
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(source.folder, to))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([token])
    for name, value in special.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)
    return replace(source, folder=folder)


# adapters


def test_an_adapter_says_what_it_was_trained_on(
    backend: Backend, tiny_chat_decoder: ModelSource, adapter: Path
) -> None:
    facts = json.loads((adapter / "slmkit_adapter.json").read_text())
    assert facts["backend"] == backend.name and facts["revision"] == tiny_chat_decoder.revision and facts["bits"] == 16
    assert re.fullmatch("[0-9a-f]{64}", facts["template_sha256"])
    with backend.load(tiny_chat_decoder, adapter=adapter) as model:
        assert model.adapter == adapter


def test_an_adapter_of_another_model_is_refused(
    backend: Backend, tiny_chat_decoder: ModelSource, adapter: Path
) -> None:
    edit_facts(adapter, model="someone/other-model", revision="f" * 40)
    said = refused(backend, tiny_chat_decoder, adapter=adapter)
    assert said.startswith(f"the adapter in {adapter} was trained on someone/other-model ({'f' * 40}), not on ")
    assert tiny_chat_decoder.revision in said and "load the model it belongs to, or train it again" in said


def test_an_adapter_of_another_chat_template_is_refused(
    backend: Backend, tiny_chat_decoder: ModelSource, adapter: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_chat_decoder.folder, tmp_path / "model"))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{# altered #}")
    said = refused(backend, replace(tiny_chat_decoder, folder=folder), adapter=adapter)
    assert re.search(r"trained with another chat template \(sha256 [0-9a-f]{12}\) than .*model has \(sha256", said)
    template.unlink()
    assert "has (none): put back the tokenizer" in refused(
        backend, replace(tiny_chat_decoder, folder=folder), adapter=adapter
    )


def test_an_adapter_of_another_backend_is_refused(
    backend: Backend, tiny_chat_decoder: ModelSource, adapter: Path
) -> None:
    edit_facts(adapter, backend="dummy")
    said = refused(backend, tiny_chat_decoder, adapter=adapter)
    assert f"was trained with backend 'dummy' and '{backend.name}' cannot read it; load it with backend='dummy'" in said


def test_damaged_adapters_are_named(backend: Backend, tiny_chat_decoder: ModelSource, adapter: Path) -> None:
    weights = adapter / WEIGHTS[backend.name]
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    assert f"{weights} is truncated or altered" in refused(backend, tiny_chat_decoder, adapter=adapter)
    weights.rename(adapter / "adapter_model.bin")
    said = refused(backend, tiny_chat_decoder, adapter=adapter)
    assert f"{adapter} holds no adapter that slmkit reads: only pickled weights (adapter_model.bin)" in said
    (adapter / "adapter_model.bin").unlink()
    said = refused(backend, tiny_chat_decoder, adapter=adapter)
    assert f"no {weights.name}; give a folder with 'adapter_config.json', '{weights.name}'" in said


def test_an_adapter_whose_shapes_do_not_fit_is_refused_and_one_without_facts_warned_of(
    tiny_chat_decoder: ModelSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Trained elsewhere, it says nothing of its base, and peft itself would only warn of matrices it cannot place."""
    backend, out = get("bnb"), tmp_path / "adapter"
    out.mkdir()
    texts, y = ["win now", "see you"], np.array([1, 0])
    backend.train_lora(tiny_chat_decoder, texts, y, n_classes=2, bits=16, config=LORA, out=out)
    (out / "slmkit_adapter.json").unlink()
    backend.load(tiny_chat_decoder, adapter=out).release()
    assert "adapter does not say which model it was trained on (no slmkit_adapter.json)" in caplog.text
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    path = out / "adapter_model.safetensors"
    tensors = load_torch(path)
    save_torch({name.replace("layers.1", "layers.7"): value for name, value in tensors.items()}, path)
    said = refused(backend, tiny_chat_decoder, adapter=out)
    assert re.search(r"does not fit .*: \d+ matrices have no counterpart, .*layers\.[17]", said)
    save_torch({name: value[:, :-1].contiguous() for name, value in tensors.items()}, path)
    said = refused(backend, tiny_chat_decoder, adapter=out)
    assert f"the adapter in {out} does not fit {tiny_chat_decoder.name}: " in said and len(said) < 900


# context


def test_a_prompt_beyond_the_context_is_refused_with_numbers(model: LanguageModel) -> None:
    prompt = "fraud " * 600
    n_tokens = int(model.count_tokens([prompt])[0])
    assert n_tokens > CONTEXT
    with pytest.raises(InputError) as error:
        model.generate([prompt], 4)
    assert str(error.value).startswith(
        f"the prompt has {n_tokens} tokens and fills the model's context of {CONTEXT} tokens; shorten it by at least "
        f"{n_tokens - CONTEXT + 1}, or"
    )


def test_a_text_that_ends_at_the_context_says_length(model: LanguageModel) -> None:
    prompt = "a"
    while int(model.count_tokens([prompt])[0]) < CONTEXT - 2:
        prompt += " a"
    room = CONTEXT - int(model.count_tokens([prompt])[0])
    (made,) = model.generate([prompt], 50)
    assert (made.n_new_tokens, made.finish_reason) == (room, "length")


@pytest.mark.parametrize("use", ["loglikelihood", "embed"])
def test_texts_that_lose_a_part_to_the_context_are_spoken_of_once(
    backend: Backend, tiny_decoder: ModelSource, use: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    text = "fraud " * 600
    with backend.load(tiny_decoder, dtype="float32") as model:
        for short in ("See you", "a " * 100):
            model.loglikelihood([short], [" b"])
            model.embed([short, text], max_length=20)
        assert "context" not in caplog.text
        for _ in range(2):
            model.loglikelihood([text], [" b"]) if use == "loglikelihood" else model.embed([text])
    part = "beginning" if use == "loglikelihood" else "end"
    said = [record.getMessage() for record in caplog.records if "context" in record.getMessage()]
    assert len(said) == 1
    assert re.search(
        rf"a text of \d+ tokens is longer than the model's context of {CONTEXT}.* lose their {part}", said[0]
    )


def test_a_folder_without_one_shard_says_which(tiny_decoder: ModelSource, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_decoder.folder, tmp_path / "model"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(AssetError) as error:
        assets.resolve(str(folder))
    assert f"{folder} lacks model-00002-of-00002.safetensors (1 of 2 shards missing): copy or fetch" in str(error.value)
