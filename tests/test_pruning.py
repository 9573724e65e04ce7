"""A pruned model is the base without those blocks, to the bit, for every architecture; which ones go is measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import CASES, Case, make
from engines import available
from torch import nn

import slmkit
from slmkit import architectures, assets, backends
from slmkit.assets import ModelSource, tensors
from slmkit.classify import LoRAClassifier
from slmkit.errors import AssetError, InputError
from slmkit.tuning import pruning
from slmkit.tuning.pruning import choose, cut_config, prune

TEXT = "The bank wrote to you about your account: please confirm your password, or your card will be blocked today."
TYPES = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
KEPT = (0, 2, 3)


def four_blocks(case: Case, folder: Path) -> ModelSource:
    """A checkpoint of four blocks, those of the architectures with windows in turn."""
    listed = {"layer_types": ["full_attention", *TYPES[:3]]} if "layer_types" in case.settings else {}
    if "sliding_window_pattern" in case.settings:
        listed = {"layer_types": TYPES, "sliding_window_pattern": 2}
    return make(replace(case, sizes={**case.sizes, "layers": 4}, settings={**case.settings, **listed}), folder)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, closed_world: None) -> ModelSource:
    """A Llama of four blocks, of which block 2 adds next to nothing."""
    folder = tmp_path_factory.mktemp("four")
    make(replace(CASES[0], sizes={"layers": 4}), folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    block = model.model.layers[2]
    for part in (block.self_attn.o_proj, block.mlp.down_proj):
        part.weight.data *= 1e-3
    model.save_pretrained(folder)
    return assets.resolve(str(folder))


def outputs(model: Any, ids: torch.Tensor) -> torch.Tensor:
    model.config.use_cache = False  # which goes by the blocks' own numbers
    with torch.inference_mode():
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


def load_plain(folder: Path, kind: str) -> Any:
    auto = transformers.AutoModel if kind == "encoder" else transformers.AutoModelForCausalLM
    model, facts = auto.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not facts["missing_keys"] and not facts["unexpected_keys"]
    return model.eval()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_pruned_model_is_the_base_without_those_blocks(case: Case, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    source = four_blocks(case, tmp_path / "base")
    made = prune(str(source.folder), out=tmp_path / "pruned", blocks=KEPT)
    model = load_plain(source.folder, case.kind)
    ids = torch.tensor([transformers.AutoTokenizer.from_pretrained(source.folder)(TEXT)["input_ids"]])
    whole = outputs(model, ids)
    this = architectures.get(model.config.model_type)
    where, _, name = this.blocks.rpartition(".")
    parent = model.get_submodule(where)
    setattr(parent, name, nn.ModuleList([getattr(parent, name)[i] for i in KEPT]))
    model.config.num_hidden_layers = len(KEPT)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[i] for i in KEPT]
    expected = outputs(model, ids)
    pruned = load_plain(made.folder, case.kind)
    torch.testing.assert_close(outputs(pruned, ids), expected, rtol=0, atol=1e-5)
    assert (expected - whole).abs().max() > 0.05
    assert made.n_parameters == sum(p.numel() for p in pruned.parameters())
    with slmkit.load(str(made.folder), dtype="float32") as loaded:
        assert loaded.n_parameters() == made.n_parameters and loaded.source.kind == case.kind


def test_a_pruned_folder_is_read_by_mlx_and_tuned(four: ModelSource, tmp_path: Path) -> None:
    made = prune(str(four.folder), out=tmp_path / "pruned", keep_layers=2)
    name = str(made.folder)
    tuned = LoRAClassifier(name, epochs=1).fit([TEXT, "See you at lunch tomorrow."] * 4, ["spam", "ham"] * 4)
    assert tuned.predict_proba([TEXT]).shape == (1, 2)
    available("mlx")
    with slmkit.load(name, backend="mlx", dtype="float32") as mlx, slmkit.load(name, dtype="float32") as bnb:
        scores = [model.loglikelihood([TEXT], [" yes", " no"]) for model in (mlx, bnb)]
    np.testing.assert_allclose(*scores, atol=1e-3)


@pytest.mark.parametrize("measure", pruning.MEASURES)
def test_the_block_that_does_least_goes(four: ModelSource, tmp_path: Path, measure: str) -> None:
    made = prune(str(four.folder), out=tmp_path / "pruned", keep_layers=3, measure=measure, texts=[TEXT, "See you"])
    assert (made.kept, made.dropped, made.measure, made.n_texts) == ((0, 1, 3), (2,), measure, 2)
    assert np.argmin(made.distances) == 2 and made.distances[2] < 0.01 < min(np.delete(made.distances, 2))
    card = json.loads((made.folder / pruning.CARD).read_text())
    assert (card["kept"], card["base_revision"], card["measure"]) == ([0, 1, 3], four.revision, measure)
    words = (made.folder / "README.md").read_text()
    assert "with 3 of 4 blocks" in words and "| blocks dropped | `2` |" in words and "2 texts to choose" in words


def test_distances_are_those_of_the_hidden_states(four: ModelSource) -> None:
    """Against transformers' own list of hidden states, for one text; the last of these has been normed and is left."""
    model = load_plain(four.folder, "decoder")
    ids = torch.tensor([transformers.AutoTokenizer.from_pretrained(four.folder)(TEXT)["input_ids"]])
    with torch.inference_mode():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[:-1]
    found = backends.block_distances(four, [TEXT], last=True, angles=True)
    cosines = [[nn.functional.cosine_similarity(a[0, -1], b[0, -1], dim=0) for a in states] for b in states]
    np.testing.assert_allclose(found[:4, :4], np.arccos(np.clip(cosines, -1, 1)) / np.pi, atol=0.02)
    assert found.shape == (5, 5)


def test_angular_takes_one_run_and_influence_the_least_of_all() -> None:
    steps = np.array([0.3, 0.1, 0.5, 0.1, 0.2])  # a state that moves along a line: what a run does adds up
    places = np.concatenate([[0], steps.cumsum()])
    distances = np.abs(places[:, None] - places)
    assert choose(distances, 3, "angular")[0] == (0, 1, 2)  # blocks 3 and 4 together move it by 0.3
    assert choose(distances, 3, "influence")[0] == (0, 2, 4)
    low = np.array([[0.0, 0.1, 0.5], [0.1, 0.0, 0.4], [0.5, 0.4, 0.0]])
    assert choose(low, 1, "influence", first_stays=True)[0] == choose(low, 1, "angular", first_stays=True)[0] == (0,)


@pytest.mark.parametrize(
    ("given", "kept", "expected"),
    [
        ({"model_type": "gemma2"}, (1, 2, 5), [TYPES[1], TYPES[0], TYPES[1]]),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 3}, (2, 5), ["full_attention"] * 2),
        ({"model_type": "modernbert", "global_attn_every_n_layers": 3}, (0, 1, 3), [TYPES[1], TYPES[0], TYPES[1]]),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 4}, (3, 4),
         [TYPES[1], TYPES[0]]),
    ],
)  # fmt: skip
def test_what_a_rule_says_of_blocks_becomes_a_list(given: dict, kept: tuple, expected: list) -> None:
    """Blocks keep what they attend to, where the configuration says it for all by a rule over their numbers."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"head_dim": 32, "intermediate_size": 64, "vocab_size": 100, "max_position_embeddings": 64}
    config = transformers.AutoConfig.for_model(**given, **sizes)
    cut = cut_config({**given, **sizes}, kept)
    assert cut["layer_types"] == expected == [config.layer_types[i] for i in kept]
    assert cut["num_hidden_layers"] == len(kept)
    assert cut.get("sliding_window_pattern", 1) == 1  # every block attends to everything


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "one of keep_layers and blocks must be given, and not both"),
        ({"keep_layers": 2, "blocks": [0]}, "one of keep_layers and blocks must be given, and not both"),
        ({"keep_layers": 4}, "keep_layers must be between 1 and 3 for this model of 4 blocks; got 4"),
        ({"blocks": [0, 4]}, r"blocks must be different ones of 0 .. 3, at least one and not all; got \[0, 4\]"),
        ({"blocks": [1, 1]}, "blocks must be different ones"),
        ({"blocks": []}, "blocks must be different ones"),
        ({"keep_layers": 2, "measure": "angle"}, "unknown measure 'angle'. Did you mean 'angular'"),
        ({"keep_layers": 2, "texts": []}, "texts must hold at least one text to measure blocks on; got none"),
    ],
)
def test_a_choice_that_cannot_be_is_named(four: ModelSource, tmp_path: Path, how: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prune(str(four.folder), out=tmp_path / "pruned", **how)
    assert not (tmp_path / "pruned").exists()


def test_models_that_cannot_be_pruned_are_named(four: ModelSource, tmp_path: Path, make_case: Callable) -> None:
    with pytest.raises(InputError, match="block 0 of a modernbert model has no norm of its own and must stay"):
        prune(str(make_case("ModernBERT").folder), out=tmp_path / "a", blocks=[1])
    with pytest.raises(InputError, match="'dummy' is built in and has no blocks to drop"):
        prune("dummy", out=tmp_path / "a", keep_layers=1)
    quantised = slmkit.quantize(str(four.folder), out=tmp_path / "quantised", backend="bnb").folder
    with pytest.raises(InputError, match="is quantised .4 bits.: prune the model it was made from"):
        prune(str(quantised), out=tmp_path / "a", keep_layers=1)
    with pytest.raises(InputError, match="out must be a new or an empty folder"):
        prune(str(four.folder), out=four.folder, keep_layers=2)


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[[str], ModelSource]:
    def made(name: str) -> ModelSource:
        (tmp_path / name).mkdir()
        return make(next(case for case in CASES if case.name == name), tmp_path / name)

    return made


def test_weights_without_the_blocks_are_refused(four: ModelSource, tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    for path in four.folder.iterdir():
        (strange / path.name).write_bytes(path.read_bytes())
    tensors.copy(four.folder, lambda name: name.replace("layers", "stages"), strange / "model.safetensors")
    with pytest.raises(AssetError, match=r"has no tensors of blocks \[0, 1\] under model.layers"):
        prune(str(strange), out=tmp_path / "pruned", blocks=[0, 1])
    assert not (tmp_path / "pruned").exists()


def test_mlx_refuses_windows_it_would_place_wrongly(tmp_path: Path, make_case: Callable) -> None:
    available("mlx")
    made = prune(str(make_case("Gemma 3").folder), out=tmp_path / "pruned", blocks=[0, 1])
    with pytest.raises(InputError, match="mlx-lm places the windows of Gemma 3 by a rule"):
        slmkit.load(str(made.folder), backend="mlx")
