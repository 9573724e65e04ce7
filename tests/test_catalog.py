"""Every entry of the catalog is whole, and its numbers are those of the network that transformers builds from it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from slmkit import architectures, assets, catalog
from slmkit.catalog import ModelEntry
from slmkit.errors import InputError

TEMPLATES = {"chatml", "gemma", "llama-2", "llama-3", "phi-3", "mistral", "zephyr", "none"}
every_entry = pytest.mark.parametrize("entry", catalog.MODELS.values(), ids=lambda e: e.name)


@cache
def built(name: str) -> Any:
    """The model of an entry, built by transformers without memory for its weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    entry = catalog.get(name)
    values = catalog.config_values(entry)
    config = transformers.AutoConfig.for_model(**values)
    make = transformers.AutoModelForCausalLM if entry.kind == "decoder" else transformers.AutoModel
    with torch.device("meta"):
        return make.from_config(config)


def linear_layers(model: Any) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


@every_entry
def test_entry_is_whole(entry: ModelEntry) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]+", entry.name) and entry.title and entry.hub_id.count("/") == 1
    assert entry.revision == "main" or re.fullmatch(r"[0-9a-f]{40}", entry.revision)
    assert entry.source and entry.family.source and entry.licence and entry.template in TEMPLATES
    assert all(size > 0 for size in vars(entry.sizes).values()) and entry.context > 0
    assert entry.heads % entry.kv_heads == 0
    assert set(entry.special_tokens) == {"bos", "eos", "pad", "turn_end"}
    assert entry.kind == "encoder" or entry.special_tokens["eos"]
    assert entry.chat or (entry.template == "none" and entry.special_tokens["turn_end"] is None)
    assert entry.disk_bytes >= 2 * entry.n_parameters and entry.disk_bytes_origin
    assert (entry.package is None) == (entry.sha256 is None) == (entry.package_file is None)


def test_names_titles_and_repositories_are_unique() -> None:
    assert len(catalog.MODELS) == len(catalog._ENTRIES) >= 26
    for field in ("name", "title", "hub_id"):
        assert len({getattr(entry, field) for entry in catalog._ENTRIES}) == len(catalog._ENTRIES)
    pins = [entry.revision for entry in catalog._ENTRIES if entry.revision != "main"]
    assert len(set(pins)) == len(pins), "two models cannot be the same commit"


@every_entry
def test_parameters_are_those_of_the_model_that_transformers_builds(entry: ModelEntry) -> None:
    model = built(entry.name)
    assert type(model).__name__ == entry.architecture.class_name
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.n_parameters


@every_entry
def test_the_configuration_alone_counts_the_parameters_term_by_term(entry: ModelEntry) -> None:
    counted = architectures.count_parameters(catalog.config_values(entry))
    assert sum(counted.values()) == entry.n_parameters
    model = built(entry.name)
    blocks = model.get_submodule(entry.architecture.blocks)
    assert counted["linear"] == sum(layer.weight.numel() for layer in linear_layers(blocks).values())
    flat = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 1)
    assert counted["norms_and_biases"] == flat


@every_entry
def test_transformers_reads_what_the_entry_says(entry: ModelEntry) -> None:
    model, values = built(entry.name), catalog.config_values(entry)
    config = model.config
    assert len(model.get_submodule(entry.architecture.blocks)) == entry.layers
    assert (config.max_position_embeddings, config.vocab_size) == (entry.context, entry.vocab)
    rope = getattr(config, "rope_parameters", None) or {}
    if "full_attention" in rope:  # a rotation for each kind of block
        local = values.get("rope_local_base_freq", values.get("local_rope_theta", values.get("rope_theta")))
        assert rope["sliding_attention"]["rope_theta"] == local
        rope = rope["full_attention"]
    if rope:
        assert rope["rope_theta"] == values.get("rope_theta", values.get("global_rope_theta"))
        scaling = values.get("rope_scaling") or {}
        assert rope["rope_type"] == scaling.get("rope_type", scaling.get("type", "default"))
        assert all(rope[key] == value for key, value in scaling.items() if key != "type")
    if "sliding_window" in values:
        assert config.sliding_window == values["sliding_window"]
    if "layer_types" in values:
        assert config.layer_types == values["layer_types"] and len(values["layer_types"]) == entry.layers


@every_entry
def test_lora_targets_are_the_linear_layers_of_a_block(entry: ModelEntry) -> None:
    block = built(entry.name).get_submodule(f"{entry.architecture.blocks}.0")
    assert {name.rpartition(".")[2] for name in linear_layers(block)} == set(entry.lora_targets)


@pytest.mark.parametrize("model_type", architectures.ARCHITECTURES)
@pytest.mark.parametrize("changes", [{}, {"tie": True}, {"biased": True}], ids=["plain", "other tie", "biases"])
def test_counts_hold_for_other_sizes_ties_and_biases(model_type: str, changes: dict[str, bool]) -> None:
    """Small networks that are in no catalog: the rule is of the architecture, not fitted to the entries."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    this = architectures.get(model_type)
    sizes = {"hidden": 48, "layers": 7, "heads": 4, "kv_heads": 2, "head_dim": 16, "inner": 80, "vocab": 99}
    values = {"model_type": model_type, **this.settings, "pad_token_id": 0}
    values |= {key: {**sizes, "context": 64}[name] for name, key in this.keys.items()}
    if this.kind == "decoder":
        values["tie_word_embeddings"] = this.tied != changes.get("tie", False)
    if changes.get("biased"):
        values |= {key: True for key in ("attention_bias", "mlp_bias", "norm_bias", "bias") if key in values}
    make = transformers.AutoModelForCausalLM if this.kind == "decoder" else transformers.AutoModel
    with torch.device("meta"):
        model = make.from_config(transformers.AutoConfig.for_model(**values))
    counted = architectures.count_parameters(values)
    assert sum(counted.values()) == sum(parameter.numel() for parameter in model.parameters())


def test_falcons_newer_block_is_counted() -> None:
    """Falcon 40B: heads of keys and values for groups, two norms a block."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    values = {**catalog.config_values(catalog.get("falcon-7b")), "new_decoder_architecture": True, "num_kv_heads": 8}
    values |= {"hidden_size": 128, "num_attention_heads": 16, "ffn_hidden_size": None, "num_hidden_layers": 2}
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**values))
    counted = architectures.count_parameters(values)
    assert sum(counted.values()) == sum(parameter.numel() for parameter in model.parameters())


def test_unknown_architecture_and_missing_size_are_named() -> None:
    with pytest.raises(InputError, match=r"unknown architecture 'gemma4'\. Did you mean 'gemma"):
        architectures.count_parameters({"model_type": "gemma4"})
    config = {**catalog.config_values(catalog.get("gemma-2b")), "intermediate_size": None}
    with pytest.raises(
        InputError, match="the config of a gemma model must hold intermediate_size as a whole number; got None"
    ):
        architectures.count_parameters(config)


def test_unknown_model_names_the_near_ones() -> None:
    with pytest.raises(InputError, match=r"unknown model 'gemma-2bit'\. Did you mean 'gemma-2b-it'"):
        catalog.get("gemma-2bit")


def test_pinned_revision_is_what_the_hub_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path))
    pinned = catalog.get("llama-3.2-1b")
    assert assets._pinned(pinned.hub_id) == pinned.revision != "main"
    assert assets._pinned("someone/some-model") == "main"
    assets._pin(pinned.hub_id, "0" * 40)
    assert assets._pinned(pinned.hub_id) == "0" * 40, "what was fetched once is kept"


def test_longrope_factors_are_one_a_pair_of_dimensions_and_grow() -> None:
    for name in ("phi-3-mini-128k-instruct", "phi-3.5-mini-instruct"):
        entry = catalog.get(name)
        scaling = entry.settings["rope_scaling"]
        for factors in (scaling["short_factor"], scaling["long_factor"]):
            assert len(factors) == entry.head_dim // 2 and factors == sorted(factors) and factors[0] >= 1
        assert max(scaling["long_factor"]) > max(scaling["short_factor"])
