"""Bytes predicted from a configuration are those of a loaded model, and those that autograd saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from streamed_models import DECODERS, checkpoint, small_config

from slmkit import estimate
from slmkit.assets import ModelSource
from slmkit.estimate import activations


def tiny(name: str) -> dict[str, Any]:
    """A small configuration with the model's traits, both kinds of attention among its two blocks."""
    config = small_config(name)
    return config | ({"layer_types": ["sliding_attention", "full_attention"]} if "layer_types" in config else {})


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("name", DECODERS)
def test_stored_bytes_are_those_of_a_loaded_model(name: str, bits: int, tmp_path: Path) -> None:
    """Within 1 %, of small models with all traits of their family."""
    from slmkit.backends import bnb
    from slmkit.backends._torch import loading

    folder = checkpoint(tmp_path / name, tiny(name))
    source = ModelSource(str(folder), folder, f"random-{name}", "decoder", False)
    model = loading.load_module(source, bits, torch.bfloat16, torch.device("cpu"))
    n_bytes, n_parameters = bnb._count(model, source)
    net = estimate.network_of(folder)
    assert net.exact and net.n_parameters == n_parameters
    assert estimate.stored_bytes(folder, bits) == pytest.approx(n_bytes, rel=0.01)


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_stored_bytes_of_an_encoder_are_those_loaded(bits: int, tiny_encoder: ModelSource, in_bfloat16: None) -> None:
    from slmkit import backends

    with backends.load(str(tiny_encoder.folder), bits=bits, backend="bnb") as model:
        assert estimate.stored_bytes(tiny_encoder.folder, bits) == pytest.approx(model.weight_bytes(), rel=0.01)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("name", [n for n in DECODERS if n != "gemma-2-2b-it"])
def test_what_the_backward_pass_keeps_is_what_autograd_saves(name: str, plain: bool, tmp_path: Path) -> None:
    """Bytes that torch saves in a forward pass with adapters, over what is predicted a token and block."""
    from slmkit.backends._torch import loading, quick, scoring, training
    from slmkit.backends.base import LoRAConfig

    config = tiny(name)
    folder = checkpoint(tmp_path / name, config)
    source = ModelSource(str(folder), folder, "random", "decoder", False)
    model = loading.load_module(source, 16, torch.bfloat16, torch.device("cpu"))
    wrapped = training._with_lora(model, LoRAConfig(rank=16), torch.bfloat16)
    quick.fuse(wrapped)
    body = scoring.body_of(wrapped.base_model.model)
    quick.Attention(body, torch.device("cpu")).fit(quick.SHORT_TOKENS + (0 if plain else 1))
    weights = {p.untyped_storage().data_ptr() for p in wrapped.parameters()}
    rows, tokens, kept = 4, 64, {}
    ids = torch.randint(3, config["vocab_size"], (rows, tokens))
    mask = torch.ones_like(ids)
    mask[1::2, -1] = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = body(input_ids=ids, attention_mask=mask, use_cache=False)
    assert out.last_hidden_state.requires_grad
    net = estimate.network_of(folder)
    way = activations.Way(norms=True, mlps=True, plain=plain)
    scores = activations.scores_bytes(net, rows, tokens, 2, way=way)
    predicted = (activations.kept_bytes(net, 2, rank=16, way=way) * rows * tokens + scores) * net.layers
    assert sum(kept.values()) == pytest.approx(predicted, rel=0.16), sum(kept.values()) / predicted
