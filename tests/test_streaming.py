"""Quantising tensor by tensor: the same bytes as at once, little memory, a sentence for every broken checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from streamed_models import FAMILIES, checkpoint, small_config
from torch import nn

from slmkit import assets, backends, catalog
from slmkit.assets import ModelSource
from slmkit.backends._torch import loading, nibbles, packing, quantise, streaming
from slmkit.backends._torch.spool import Spool
from slmkit.errors import AssetError, SlmkitError


def source_of(folder: Path, kind: str = "decoder") -> ModelSource:
    return ModelSource(str(folder), folder, f"sha256:{folder}", kind, False)


def all_at_once(source: ModelSource, bits: int) -> dict[str, torch.Tensor]:
    """What a quantised copy must hold: transformers loads the model, each weight is quantised as a whole."""
    model = loading._load_16(source, torch.bfloat16)
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    for name, module in quantise.quantisable(model):
        key = f"{name}.weight"
        if key in tensors:
            packed, state = quantise.quantise_tensor(tensors[key], bits, nested=isinstance(module, nn.Linear))
            tensors[key] = packed
            tensors |= {f"{key}.{part}": value for part, value in quantise.state_tensors(state, bits).items()}
    return tensors


def copied(source: ModelSource, bits: int) -> dict[str, torch.Tensor]:
    return load_file(loading.quantised_folder(source, bits) / "model.safetensors")


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    different = [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)]
    assert not different and all(found[n].dtype == t.dtype for n, t in wanted.items()), different


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, and pieces so small that most weights have several."""
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(streaming, "PIECE", 150 * 256)
    return tmp_path / "cache"


@pytest.mark.parametrize(("family", "bits"), [*((family, 4) for family in FAMILIES), ("falcon-7b", 8)])
def test_pieces_are_stored_as_the_whole_would_be(family: str, bits: int, cache: Path, tmp_path: Path) -> None:
    source = source_of(checkpoint(tmp_path / "model", small_config(family)))
    wanted = all_at_once(source, bits)
    assert_same(copied(source, bits), wanted)
    quantised = {k for k in wanted if k.endswith(".absmax")}
    tables = 1 if catalog.get(family).tied else 2
    assert len(quantised) == 2 * len(catalog.get(family).lora_targets) + tables


def test_scores_are_those_of_a_copy_made_at_once(cache: Path, tiny_decoder: ModelSource, tmp_path: Path) -> None:
    with backends.get("bnb").load(tiny_decoder, bits=4, dtype="float32") as model:
        found = model.loglikelihood(["The bank wrote"], [" to you", " yesterday"])
    (tmp_path / "at-once").mkdir()
    metadata = {"format": "pt", "scheme": quantise.SCHEMES[4]}
    save_file(all_at_once(tiny_decoder, 4), tmp_path / "at-once" / "model.safetensors", metadata)
    with backends.get("bnb").load(tiny_decoder, bits=4, dtype="float32") as model:
        empty = loading.empty_model(tiny_decoder.folder, "decoder", torch.float32)
        model._model = quantise.fill_quantised(empty, 4, tmp_path / "at-once", torch.float32).eval()  # type: ignore[attr-defined]
        assert np.array_equal(found, model.loglikelihood(["The bank wrote"], [" to you", " yesterday"]))


def test_shards_are_found_by_their_index(cache: Path, tmp_path: Path) -> None:
    whole = source_of(checkpoint(tmp_path / "whole", small_config("mistral-7b-v0.1")))
    parts = source_of(tmp_path / "parts")
    loading._load_16(whole, torch.bfloat16).save_pretrained(parts.folder, max_shard_size="2MB")
    assert len(list(parts.folder.glob("model-*.safetensors"))) > 1
    save_file({"tok_embeddings.weight": torch.ones(2, 2)}, parts.folder / "consolidated.safetensors")
    assert_same(copied(parts, 4), copied(whole, 4))


def rewritten(source: ModelSource, folder: Path, change: Any) -> ModelSource:
    """A copy of a checkpoint with `change` applied to its tensors by name."""
    folder.mkdir()
    tensors = load_file(source.folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes((source.folder / "config.json").read_bytes())
    return replace(source_of(folder, source.kind), revision=str(folder))


def test_names_with_the_base_models_prefix_are_found(cache: Path, tmp_path: Path, tiny_encoder: ModelSource) -> None:
    other = rewritten(tiny_encoder, tmp_path / "other", lambda t: {f"bert.{name}": value for name, value in t.items()})
    model = loading.empty_model(other.folder, "encoder", torch.bfloat16)
    assert streaming.open_checkpoint(other.folder, model) is not None
    assert_same(copied(other, 4), copied(tiny_encoder, 4))


def test_names_that_only_transformers_knows_are_left_to_it(
    cache: Path, tmp_path: Path, tiny_encoder: ModelSource
) -> None:
    def old(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        return {
            next((n.replace(new, was) for new, was in renamed.items() if n.endswith(new)), n): t
            for n, t in tensors.items()
        }

    other = rewritten(tiny_encoder, tmp_path / "other", old)
    model = loading.empty_model(other.folder, "encoder", torch.bfloat16)
    assert streaming.open_checkpoint(other.folder, model) is None
    assert_same(copied(other, 4), copied(tiny_encoder, 4))


def test_a_missing_pooler_is_zero(cache: Path, tmp_path: Path, tiny_encoder: ModelSource) -> None:
    other = rewritten(tiny_encoder, tmp_path / "other", lambda t: {n: v for n, v in t.items() if "pooler" not in n})
    found = copied(other, 4)
    assert not found["pooler.dense.weight.absmax"].any() and not found["pooler.dense.bias"].any()


def test_a_missing_tensor_is_named(cache: Path, tmp_path: Path) -> None:
    source = source_of(checkpoint(tmp_path / "model", small_config("mistral-7b-v0.1")))
    gone = "model.layers.1.mlp.up_proj.weight"
    other = rewritten(source, tmp_path / "other", lambda t: {n: v for n, v in t.items() if n != gone})
    with pytest.raises(AssetError, match=rf"other lacks {gone} \(1 tensors missing\)"):
        loading.quantised_folder(other, 4)
    assert list((cache / "quantised").glob("*")) == []


def test_a_tensor_of_another_shape_is_named_with_its_file(cache: Path, tmp_path: Path) -> None:
    source = source_of(checkpoint(tmp_path / "model", small_config("mistral-7b-v0.1")))

    def cut(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return tensors | {"model.norm.weight": torch.ones(255, dtype=torch.bfloat16)}

    other = rewritten(source, tmp_path / "other", cut)
    with pytest.raises(
        AssetError, match=r"model.norm.weight in model.safetensors is \(255,\), config.json asks for \(256,"
    ):
        loading.quantised_folder(other, 4)


def test_interrupted_preparing_leaves_nothing(
    cache: Path, tiny_decoder: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = streaming.Checkpoint.pieces, []

    def stopping(self: streaming.Checkpoint, name: str, n_rows: int) -> Iterator[torch.Tensor]:
        seen.append(name)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return read(self, name, n_rows)

    monkeypatch.setattr(streaming.Checkpoint, "pieces", stopping)
    with pytest.raises(KeyboardInterrupt):
        loading.quantised_folder(tiny_decoder, 4)
    assert len(seen) == 5 and list((cache / "quantised").iterdir()) == []
    monkeypatch.setattr(streaming.Checkpoint, "pieces", read)
    assert assets.problem_with(loading.quantised_folder(tiny_decoder, 4)) is None


CHILD = """
import json, sys
from pathlib import Path
import torch
from slmkit import footprint
from slmkit.assets import ModelSource
from slmkit.backends._torch import loading, streaming
torch.set_num_threads(1)
streaming.PIECE = 1 << 19
for name in sys.argv[1:]:
    before = footprint.peak_ram_bytes()
    source = ModelSource(name, Path(name), name, "decoder", False)
    loading.quantised_folder(source, 4)
    prepared = footprint.peak_ram_bytes()
    loading.load_module(source, 4, torch.bfloat16, torch.device("cpu"))
    print(json.dumps([prepared - before, footprint.peak_ram_bytes() - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of a child are read from /proc")
def test_preparing_and_loading_never_hold_the_sixteen_bit_model(cache: Path, tmp_path: Path) -> None:
    """80 million parameters, 160 MB: making the copy takes the room of a layer or two, loading that of 4 bits."""
    config = small_config("mistral-7b-v0.1")
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 5, "num_attention_heads": 16}
    tiny, folder = (checkpoint(tmp_path / n, config | c) for n, c in (("tiny", {}), ("large", large)))
    n_bytes = (folder / "model.safetensors").stat().st_size
    command = [sys.executable, "-c", CHILD, str(tiny), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    prepared, loaded = json.loads(done.stdout.splitlines()[-1])
    four_bits, layer = 4.5 / 16 * n_bytes, n_bytes / 5
    assert n_bytes > 140e6 and prepared < 2 * layer
    assert loaded < four_bits + 2 * layer < n_bytes


def test_random_weights_are_no_constant_and_repeat(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(small_config("falcon-7b")))
    model = loading.empty_model(tmp_path, "decoder", torch.bfloat16)
    one, same, other = (dict(streaming.stored(model, streaming.RandomWeights(model, s), 16)) for s in (0, 0, 1))
    for name, tensor in one.items():
        assert torch.equal(tensor, same[name]) and not torch.equal(tensor, other[name])
        assert tensor.float().std() == pytest.approx(streaming.RANDOM_STD, rel=0.3)
    names = [n for n in one if n.endswith("dense.weight")]
    assert not torch.equal(one[names[0]], one[names[1]])


def test_a_spooled_file_is_what_the_library_writes(tmp_path: Path) -> None:
    noise = torch.Generator().manual_seed(0)
    tensors = {
        "b.scale": torch.tensor(0.5),
        "a.bytes": torch.randint(0, 255, (7,), generator=noise, dtype=torch.uint8),
        "c.half": torch.randn(3, 5, generator=noise).bfloat16(),
        "a.wide": torch.randn(2, 3, generator=noise),
        "empty": torch.zeros(0, 4),
    }
    with Spool(tmp_path / "own.safetensors") as spool:
        for name, tensor in tensors.items():
            spool.add(name, tensor)
        assert list(tmp_path.glob("*.safetensors")) == []
        spool.finish({"format": "pt"})
    save_file(tensors, tmp_path / "theirs.safetensors", {"format": "pt"})
    assert (tmp_path / "own.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    with safe_open(tmp_path / "own.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"} and torch.equal(file.get_tensor("c.half"), tensors["c.half"])


@pytest.mark.parametrize("shape", [(32, 64), (96, 4544), (16_416, 64)])
def test_the_writing_layout_loses_nothing(shape: tuple[int, int]) -> None:
    weight = torch.randint(0, 256, (shape[0] * shape[1] // 2, 1), dtype=torch.uint8)
    packed = nibbles.pack(weight, shape[0])
    assert not torch.equal(packed.view(-1, 1), weight) and torch.equal(nibbles.unpack(packed), weight)
    ids = torch.tensor([0, shape[0] - 1, 17, 15, 16, 17])
    assert torch.equal(nibbles.unpack_rows(packed, ids), weight.view(shape[0], -1)[ids])


@pytest.mark.skipif(not packing.available(), reason="this CPU has no AVX512-BF16")
@pytest.mark.parametrize("family", ["gemma-2b", "llama-2-7b"])  # the head is the embedding, or its own
def test_both_layouts_compute_the_same_model(family: str, cache: Path, tmp_path: Path) -> None:
    source = source_of(checkpoint(tmp_path / "model", small_config(family)))
    model = loading.load_module(source, 4, torch.bfloat16, torch.device("cpu"))
    ids = torch.arange(40, 70)[None]
    with torch.inference_mode():
        stored = model(input_ids=ids).logits.float()
        packing.for_writing(model)
        assert all(m.packed is not None for m in model.modules() if isinstance(m, quantise.QuantLinear))
        written = model(input_ids=ids).logits.float()
        packing.for_batches(model)
        assert torch.equal(model(input_ids=ids).logits.float(), stored)
    assert not torch.equal(written, stored) and (written - stored).norm() < 0.05 * stored.norm()


def test_scores_do_not_depend_on_what_was_written_before(tiny_decoder: ModelSource) -> None:
    with backends.get("bnb").load(tiny_decoder, bits=4) as model:
        before, vectors = model.loglikelihood(["The bank"], [" wrote", " is"]), model.embed(["The bank"])
        (text,) = model.generate(["The bank"], 8)
        assert np.array_equal(before, model.loglikelihood(["The bank"], [" wrote", " is"]))
        assert np.array_equal(vectors, model.embed(["The bank"]))
        assert model.generate(["The bank"], 8)[0].text == text.text


@pytest.mark.skipif(not packing.available(), reason="this CPU has no AVX512-BF16")
def test_a_model_laid_out_for_writing_refuses_to_be_trained(tiny_decoder: ModelSource) -> None:
    model = loading.load_module(tiny_decoder, 4, torch.bfloat16, torch.device("cpu"))
    packing.for_writing(model)
    x = torch.zeros(1, 128, dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(SlmkitError, match="pass no gradient; load the model to train it"):
        model.model.layers[0].self_attn.q_proj(x)  # type: ignore[union-attr, operator, index]
