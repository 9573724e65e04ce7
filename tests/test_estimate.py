"""Sizes that are published or counted, refusals with their arithmetic, and estimates against what was measured once."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from slmkit import catalog, estimate, footprint
from slmkit.assets import ModelSource
from slmkit.errors import AssetError, InputError, NotEnoughMemory
from slmkit.estimate import shapes

MB = 1_000_000
SMOL = "smollm2-135m-instruct"
SMOL_CONFIG = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


@pytest.fixture(autouse=True)
def this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores with BF16, so that figures do not depend on where the tests run."""
    monkeypatch.setattr(footprint, "instruction_sets", lambda: ("avx2", "avx512f", "avx512_bf16"))
    monkeypatch.setattr(footprint, "machine", lambda: {"cores": 2, "threads": 2, "gpu": None})


@pytest.mark.parametrize(("bits", "expected", "within"), [(16, 269 * MB, 0.02), (4, 71 * MB, 0.05)])
def test_stored_bytes_of_smollm2_are_the_measured_ones(bits: int, expected: int, within: float) -> None:
    assert estimate.stored_bytes(SMOL, bits) == pytest.approx(expected, rel=within)


@pytest.mark.parametrize("entry", catalog.MODELS.values(), ids=lambda e: e.name)
def test_fewer_bits_are_fewer_bytes_for_every_model_of_the_catalog(entry: catalog.ModelEntry) -> None:
    sixteen, eight, four = (estimate.stored_bytes(entry, bits) for bits in (16, 8, 4))
    assert sixteen == 2 * entry.n_parameters
    assert 0.25 < four / sixteen < 0.29 and 0.5 < eight / sixteen < 0.54


def test_bits_are_checked() -> None:
    with pytest.raises(InputError, match="bits must be one of 4, 8, 16; got 5"):
        estimate.stored_bytes(SMOL, 5)


def test_a_config_counts_the_parameters() -> None:
    assert shapes.shape_of(SMOL_CONFIG).n_parameters == catalog.MODELS[SMOL].n_parameters == 134_515_008
    untied = shapes.shape_of({**SMOL_CONFIG, "tie_word_embeddings": False})
    assert untied.n_parameters == 134_515_008 + 49152 * 576


def test_a_config_without_sizes_is_named() -> None:
    with pytest.raises(InputError, match="the config of tiny must hold hidden_size or n_embd .*; got .*'vocab_size'"):
        shapes.shape_of({"name": "tiny", "vocab_size": 9})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = {**SMOL_CONFIG, "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"a": np.zeros((100, 64), np.float16)}, tmp_path / "model-1.safetensors")
    save_file({"b": np.zeros((64, 30), np.float32), "c": np.zeros(64, np.float32)}, tmp_path / "model-2.safetensors")
    return tmp_path


def test_a_folder_counts_what_its_headers_hold(folder: Path) -> None:
    found = shapes.shape_of(folder)
    assert (found.n_parameters, found.hidden, found.layers, found.vocab) == (6400 + 1920 + 64, 64, 2, 100)


def test_a_broken_header_is_named(folder: Path) -> None:
    (folder / "model-2.safetensors").write_bytes(struct.pack("<Q", 10) + b"not json!!")
    with pytest.raises(AssetError, match=r"model-2\.safetensors is not a readable safetensors file"):
        shapes.shape_of(folder)


def gguf(path: Path) -> Path:
    """A GGUF header: architecture, sizes, a list of tokens, one tensor of 64 x 100."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    tokens = struct.pack("<IQ", 8, 3) + b"".join(text(t) for t in ("a", "bc", "d"))
    pairs = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("llama.embedding_length") + struct.pack("<II", 4, 64),
        text("llama.block_count") + struct.pack("<II", 4, 2),
        text("tokenizer.ggml.tokens") + struct.pack("<I", 9) + tokens,
    ]
    tensor = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 64, 100, 1, 0)
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 1, len(pairs)) + b"".join(pairs) + tensor)
    return path


def test_a_gguf_file_not_yet_converted_is_measured_by_its_header(tmp_path: Path) -> None:
    path = gguf(tmp_path / "tiny.gguf")
    source = ModelSource(str(path), tmp_path / "not-there", "sha256:0", "decoder", False, gguf=path)
    found = shapes.shape_of(source)
    assert (found.title, found.n_parameters, found.hidden, found.layers, found.vocab) == ("tiny.gguf", 6400, 64, 2, 3)


def test_a_cut_gguf_file_is_named(tmp_path: Path) -> None:
    path = gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:120])
    with pytest.raises(AssetError, match=r"tiny\.gguf cannot be read as GGUF"):
        shapes.shape_of(path)


def test_refusal_holds_arithmetic_what_fits_and_what_helps() -> None:
    with pytest.raises(NotEnoughMemory) as caught:
        estimate.check_fits(SMOL, 16, limit=(880 * MB, "MEM_LIMIT"))
    assert str(caught.value) == (
        "SmolLM2-135M at 16 bits needs about 0.90 GB to score (0.27 weights + 0.03 activations + 0.04 logits + 0.05 "
        "cache + 0.51 runtime) but this process may use 0.88 GB (MEM_LIMIT). The largest model of the catalog that "
        "fits: minilm (0.64 GB). Remedy: bits=8 (about 0.84 GB), or a higher limit (set SLMKIT_MEMORY_LIMIT=4GB if the "
        "one found is wrong)."
    )


def test_refusal_says_when_nothing_fits() -> None:
    with pytest.raises(NotEnoughMemory, match=r"No model of the catalog fits\. Remedy: a smaller model, or a higher"):
        estimate.check_fits("llama-2-7b-chat", 4, limit=(200 * MB, "control group"))


def test_refused_training_names_the_smaller_batch_that_fits() -> None:
    how: dict[str, Any] = {"training": True, "limit": (1300 * MB, "MEM_LIMIT")}
    with pytest.raises(NotEnoughMemory, match=r"to train \(.* \+ 0\.03 adapter \+ .*\).* Remedy: max_batch_tokens=512"):
        estimate.check_fits(SMOL, 16, batch_tokens=1024, **how)
    assert estimate.check_fits(SMOL, 16, batch_tokens=256, **how)
    assert estimate.check_fits(SMOL, 16, last_blocks=8, **how)


def test_more_is_trained_on_at_once_where_that_takes_half_of_the_memory_at_most(tmp_path: Path) -> None:
    need = sum(estimate.model_memory(SMOL, 16, training=True, batch_tokens=1024).values())
    assert need > sum(estimate.model_memory(SMOL, 16, training=True, batch_tokens=512).values()) + 200 * MB
    assert estimate.training_tokens(SMOL, 16, limit=(2 * need, "enough")) == 1024
    assert estimate.training_tokens(SMOL, 16, limit=(2 * need - 1, "less")) == 512
    assert estimate.training_tokens(SMOL, 16, limit=(2 * need - 1, "less"), last_blocks=8) == 1024
    assert estimate.training_tokens(ModelSource("dummy", tmp_path, "builtin", "decoder", False), 16) == 512


def test_the_limit_itself_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    need = sum(estimate.model_memory(SMOL, 4).values())
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", str(need))
    assert sum(estimate.check_fits(SMOL, 4).values()) == need
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", str(need - 1))
    with pytest.raises(NotEnoughMemory, match=r"\(SLMKIT_MEMORY_LIMIT\)"):
        estimate.check_fits(SMOL, 4)


def test_too_little_free_now_warns_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(footprint, "memory_limit", lambda: (64_000 * MB, "machine"))
    monkeypatch.setattr(footprint, "available_memory", lambda: 300 * MB)
    assert estimate.check_fits("llama-2-7b-chat", 4)
    assert "Llama 2 7B at 4 bits needs about" in caplog.text and "only 0.30 GB is free now" in caplog.text


def test_dummy_models_weigh_nothing(tmp_path: Path) -> None:
    assert (
        estimate.check_fits(ModelSource("dummy", tmp_path, "builtin", "decoder", False), 4, limit=(1, "nobody")) == {}
    )


@pytest.mark.parametrize(
    ("bits", "how", "measured"),
    [
        (16, {}, 970),
        (4, {}, 759),
        (16, {"preparing": True}, 1153),
        (4, {"preparing": True}, 777),
        (8, {"preparing": True}, 823),
        (16, {"training": True, "last_blocks": 8, "batch_tokens": 600, "train_tokens": 58_000}, 1028),
    ],
)
def test_peaks_are_estimated_within_a_sixth_of_those_measured(bits: int, how: dict[str, object], measured: int) -> None:
    """Peak RSS in MB of SmolLM2-135M on two cores with BF16: scoring, making copies, LoRA on the last 8 blocks."""
    assert sum(estimate.model_memory(SMOL, bits, **how).values()) == pytest.approx(measured * MB, rel=1 / 6)


def test_float32_machines_need_twice_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    before = estimate.model_memory(SMOL, 16)["weights"]
    monkeypatch.setattr(footprint, "instruction_sets", lambda: ("avx2",))
    assert estimate.model_memory(SMOL, 16)["weights"] == 2 * before


def test_largest_that_fits_grows_with_the_room() -> None:
    names = [estimate.largest_that_fits(limit * MB, 4) for limit in (500, 600, 700, 1000, 16_000)]
    assert [found and found[0].name for found in names] == [
        None,
        "distilbert-base-uncased",
        "modernbert-base",
        "smollm2-360m-instruct",
        "mistral-7b-instruct-v0.3",
    ]
    trained = estimate.largest_that_fits(700 * MB, 16, training=True)
    assert trained is None, "an encoder gets no LoRA here"


def study(**changes: object) -> dict[str, object]:
    item = {"method": "lora", "model": SMOL, "bits": 16, "n_train": 1811, "n_test": 453, "epochs": 3, "mean_tokens": 32}
    return {**item, **changes}


def test_a_study_is_estimated_within_a_factor_of_two_of_a_measured_one() -> None:
    """Financial PhraseBank, all blocks, 3 epochs: 650 s of training measured on two cores."""
    found = estimate.study_estimate([study()])
    assert 650 / 2 < found["seconds"] < 650 * 2 and found["estimated"] is True
    assert found["lines"] == ["lora with SmolLM2-135M at 16 bits: about 12 min, 1.25 GB (estimated)"]


def test_a_studys_seconds_add_and_its_memory_is_the_largest_childs() -> None:
    floor = study(method="floor", model=None, bits=None)
    alone = [estimate.study_estimate([item]) for item in (floor, study())]
    both = estimate.study_estimate([floor, study()])
    assert both["seconds"] == pytest.approx(sum(a["seconds"] for a in alone))
    assert both["peak_bytes"] == alone[1]["peak_bytes"] > alone[0]["peak_bytes"]
    assert both["lines"][0].startswith("floor: about 15 s, 0.35 GB")


def test_less_work_is_estimated_as_less() -> None:
    def seconds(**changes: object) -> float:
        return float(estimate.study_estimate([study(**changes)])["seconds"])

    assert seconds(epochs=1) < seconds(last_blocks=8) < seconds()
    assert seconds(method="embedding", model="minilm") < seconds(method="prompt") < seconds(method="prompt", bits=4)


@pytest.mark.parametrize(("seconds", "words"), [(3, "5 s"), (41, "45 s"), (400, "7 min"), (12_600, "3.5 h")])
def test_durations_are_as_coarse_as_estimates(seconds: float, words: str) -> None:
    assert estimate.duration(seconds) == words
