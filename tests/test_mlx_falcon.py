"""Falcon on MLX: what transformers computes, in steps and at once, in fewer bits, tuned, refused where it must be."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import _byte_level_bpe, _source
from engines import available
from safetensors.numpy import load_file

from slmkit import architectures, catalog
from slmkit.assets import ModelSource
from slmkit.backends.base import Backend, LoRAConfig
from slmkit.errors import InputError

SEQUENTIAL = {"parallel_attn": False}
GROUPED = {"new_decoder_architecture": True, "num_attention_heads": 8, "num_kv_heads": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "7b": {},  # one head of keys and values, parallel, one norm, tied
    "40b": GROUPED,  # two norms
    "11b": {**GROUPED, "num_ln_in_parallel_attn": 1, "tie_word_embeddings": False, "ffn_hidden_size": 192}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 500_042.0}},
    "sequential": SEQUENTIAL,
    "full heads": {"multi_query": False, "bias": True, "activation": "relu"},
    "rw": {**SEQUENTIAL, "multi_query": False, "bias": True, "alibi": True, "hidden_size": 192}
    | {"num_attention_heads": 6},  # no power of two
    "alibi over one head": {"alibi": True},
    **{
        kind: {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, **more}}
        for kind, more in {
            "linear": {},
            "dynamic": {},
            "yarn": {"original_max_position_embeddings": 128},
            "llama3": {"original_max_position_embeddings": 128, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        }.items()
    },
}
VARIANTS["dynamic"]["max_position_embeddings"] = 128
LINEAR = {"self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"}
PROMPTS = ["Text: you have won a free prize. Label:", "Text: the train is late again. Label:", "", "The bank " * 30]
LABELS = [" spam", " ham", " neutral or not"]
TEXTS = ["You have won a free prize, call now!", "See you at lunch tomorrow."] * 8
Y = np.array([1, 0] * 8)
LORA = LoRAConfig(rank=4, alpha=8, epochs=6, batch_size=8, learning_rate=5e-3, max_length=32, max_batch_tokens=64)
N_TOKENS = 300  # beyond 256 bfloat16 cannot hold every position, which ALiBi shows


@pytest.fixture(scope="module")
def falcon(mlx: Backend, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelSource]:
    """A maker of random two-layer Falcons (float32, every weight and bias random), each made once."""
    made: dict[str, ModelSource] = {}

    def make(variant: str) -> ModelSource:
        if variant not in made:
            made[variant] = _falcon(tmp_path_factory.mktemp("falcon"), **VARIANTS[variant])
        return made[variant]

    return make


def _falcon(folder: Path, **settings: Any) -> ModelSource:
    import torch
    from transformers import FalconConfig, FalconForCausalLM

    tokenizer = _byte_level_bpe(chat=False)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    model = FalconForCausalLM(FalconConfig(vocab_size=len(tokenizer), initializer_range=0.2, **ids, **sizes | settings))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms and biases begin at one and zero, where a mistake would not show
                weight.add_(0.3 * torch.randn_like(weight))
    model.eval().save_pretrained(folder)
    return _source(folder, "decoder", chat=False)


def _net(source: ModelSource) -> Any:
    from slmkit.backends._mlx.weights import read

    return read(source.folder)[0]


def _tokens(n_rows: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(6, 300, (n_rows, N_TOKENS)).astype(np.int32)


def _logits_of_transformers(source: ModelSource, tokens: np.ndarray) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor(tokens, dtype=torch.int64)).logits.numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_transformers(falcon: Callable[[str], ModelSource], variant: str) -> None:
    import mlx.core as mx

    source, tokens = falcon(variant), _tokens()
    logits = np.array(_net(source)(mx.array(tokens)))
    expected = _logits_of_transformers(source, tokens)
    assert logits.shape == expected.shape and expected.std() > 0.5
    np.testing.assert_allclose(logits, expected, atol=1e-3)


@pytest.mark.parametrize(("variant", "n_heads"), [("7b", 1), ("40b", 2), ("rw", 6), ("alibi over one head", 1)])
def test_steps_with_a_cache_equal_one_pass(falcon: Callable[[str], ModelSource], variant: str, n_heads: int) -> None:
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    net, tokens = _net(falcon(variant)), mx.array(_tokens())
    cache, edges = make_prompt_cache(net), [0, 270, 280, *range(281, N_TOKENS + 1)]
    steps = [net(tokens[:, a:b], cache=cache) for a, b in pairwise(edges)]
    np.testing.assert_allclose(np.array(mx.concatenate(steps, axis=1)), np.array(net(tokens)), atol=1e-3)
    assert cache[0].keys_and_values()[0].shape[:3] == (2, n_heads, N_TOKENS)


@pytest.mark.parametrize("variant", ["7b", "rw"])
def test_a_batch_padded_on_the_left_equals_single_rows(falcon: Callable[[str], ModelSource], variant: str) -> None:
    """As mlx-lm's own server decodes many texts at once."""
    import mlx.core as mx
    from mlx_lm.models.cache import BatchKVCache

    net, tokens = _net(falcon(variant)), mx.array(_tokens()[:, :20])
    short = tokens[1:, :13]
    padded = mx.concatenate([tokens[:1], mx.concatenate([mx.zeros((1, 7), mx.int32), short], axis=1)])
    cache = [BatchKVCache([0, 7]) for _ in net.layers]
    first, then = net(padded[:, :19], cache=cache), net(padded[:, 19:], cache=cache)
    both = np.array(mx.concatenate([first, then], axis=1))
    np.testing.assert_allclose(both[0], np.array(net(tokens[:1]))[0], atol=1e-3)
    np.testing.assert_allclose(both[1, 7:], np.array(net(short))[0], atol=1e-3)


@pytest.mark.parametrize("variant", ["7b", "40b", "rw"])
def test_bnb_and_mlx_agree_on_falcon(mlx: Backend, falcon: Callable[[str], ModelSource], variant: str) -> None:
    source, bnb = falcon(variant), available("bnb")
    with bnb.load(source, dtype="float32") as ours, mlx.load(source, dtype="float32") as theirs:
        np.testing.assert_allclose(
            ours.loglikelihood(PROMPTS, LABELS), theirs.loglikelihood(PROMPTS, LABELS), atol=1e-3
        )
        for pooling in ("mean", "last"):
            a, b = (model.embed(TEXTS[:2], pooling=pooling) for model in (ours, theirs))
            np.testing.assert_allclose(a, b, atol=1e-3)
        (a,), (b,) = (model.generate(["The bank"], 12) for model in (ours, theirs))
        assert a.text == b.text == "".join(theirs.stream("The bank", 12)) and a.text
        assert ours.n_parameters() == theirs.n_parameters()


@pytest.mark.parametrize("variant", ["7b", "40b"])
def test_fewer_bits_are_near_and_smaller(mlx: Backend, falcon: Callable[[str], ModelSource], variant: str) -> None:
    """Groups of 64 cost half a bit more; the norms stay in 16 bits."""
    source, found = falcon(variant), {}
    for bits in (16, 8, 4):
        with mlx.load(source, bits=bits) as model:
            scores = model.loglikelihood(PROMPTS, LABELS)
            found[bits] = model.scheme, model.weight_bytes() / model.n_parameters(), scores, model.n_parameters()
    assert [found[bits][0] for bits in (16, 8, 4)] == ["bf16", "affine-g64", "affine-g64"]
    assert found[16][3] == found[8][3] == found[4][3]
    assert found[16][1] == 2
    assert found[8][1] == pytest.approx(8.5 / 8, rel=0.02) and found[4][1] == pytest.approx(4.5 / 8, rel=0.03)
    off = {bits: np.abs(found[bits][2] - found[16][2]).mean() for bits in (8, 4)}
    assert off[8] < 0.5 * off[4] and off[8] < 0.3 and off[4] < 3, off


@pytest.mark.parametrize("bits", [16, 4])
def test_lora_reaches_the_four_linear_layers_and_learns(
    mlx: Backend, falcon: Callable[[str], ModelSource], bits: int, tmp_path: Path
) -> None:
    source = falcon("7b")
    history = mlx.train_lora(source, TEXTS, Y, n_classes=2, bits=bits, config=LORA, out=tmp_path)
    losses = [entry["loss"] for entry in history]
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:2])
    facts = json.loads((tmp_path / "adapter_config.json").read_text())
    assert set(facts["lora_parameters"]["keys"]) == LINEAR
    moved = load_file(tmp_path / "adapters.safetensors")
    pairs = {f"model.h.{block}.{name}.lora_{side}" for block in (0, 1) for name in LINEAR for side in "ab"}
    assert set(moved) == pairs and all(np.abs(array).max() > 0 for array in moved.values())
    head = load_file(tmp_path / "head.safetensors")
    with mlx.load(source, bits=bits, adapter=tmp_path) as tuned, mlx.load(source, bits=bits) as plain:
        vectors, before = (model.embed(TEXTS, pooling="last", max_length=32) for model in (tuned, plain))
    assert np.abs(vectors - before).max() > 0.05
    assert ((vectors @ head["weight"].T + head["bias"]).argmax(axis=1) == Y).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "swish2"}, "activation must be one of gelu, .*; got 'swish2'"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a whole number above 0; got 0"),
        ({"hidden_size": None}, "hidden_size must be a whole number above 0; got None"),
        ({"num_attention_heads": 5}, "hidden_size must be a multiple of num_attention_heads; got 128 and 5"),
        ({"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn can be 2 only with new_decoder_architecture"),
        ({"new_decoder_architecture": True, "num_kv_heads": 3}, "a multiple of num_kv_heads; got 4 and 3"),
        ({"num_ln_in_parallel_attn": 3, "activation": "x"}, "got 'x'; num_ln_in_parallel_attn must be 1 or 2; got 3"),
        (
            {"rope_parameters": {"rope_type": "twisted", "rope_theta": 1e4}},
            "rope_type must be one of default, .*; got 'twisted'",
        ),
    ],
)
def test_a_falcon_that_cannot_run_is_refused_by_its_key(
    mlx: Backend, falcon: Callable[[str], ModelSource], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    source = falcon("7b")
    folder = Path(shutil.copytree(source.folder, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    with pytest.raises(InputError, match=f"model in .*copy cannot run: .*{message}"):
        mlx.load(replace(source, folder=folder))


def test_alibi_refuses_a_rotating_cache(falcon: Callable[[str], ModelSource]) -> None:
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    net = _net(falcon("rw"))
    with pytest.raises(ValueError, match="alibi needs keys in order"):
        net(mx.array(_tokens()), cache=make_prompt_cache(net, max_kv_size=64))


def test_names_of_published_checkpoints_are_understood(falcon: Callable[[str], ModelSource]) -> None:
    """Older files hold a copy of the tied head and the tables of the rotation; a base model's have no prefix."""
    tied, untied = _net(falcon("7b")), _net(falcon("11b"))
    weights = {
        "transformer.word_embeddings.weight": 1,
        "h.0.input_layernorm.bias": 2,
        "model.ln_f.weight": 3,
        "transformer.h.0.self_attention.rotary_emb.inv_freq": 4,
        "lm_head.weight": 5,
    }
    expected = {"model.word_embeddings.weight": 1, "model.h.0.input_layernorm.bias": 2, "model.ln_f.weight": 3}
    assert tied.sanitize(weights) == expected
    assert untied.sanitize(weights) == expected | {"lm_head.weight": 5}


def test_the_defaults_are_those_of_transformers(mlx: Backend) -> None:
    from transformers import FalconConfig

    from slmkit.backends._mlx.falcon import ModelArgs

    args, config = ModelArgs(), FalconConfig()
    ours = {key: value for key, value in vars(args).items() if not key.startswith("rope")}
    ours["num_kv_heads"] = config.num_kv_heads  # which 7B ignores, and which is one here
    assert ours == {key: getattr(config, key) for key in ours}
    assert args.num_kv_heads == 1 and args.rope_theta == config.rope_parameters["rope_theta"]


def test_rotation_is_read_where_transformers_5_writes_it(mlx: Backend) -> None:
    """Also without slmkit, which hands mlx-lm the older names."""
    from slmkit.backends._mlx.falcon import ModelArgs

    linear = {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}
    args = ModelArgs(rope_parameters=linear)
    assert args.rope_theta == 5e5 and args.rope_scaling == linear
    older = ModelArgs(rope_theta=1e6, rope_scaling={"type": "linear", "factor": 4.0}, rope_parameters=linear)
    assert older.rope_theta == 1e6 and older.rope_scaling["factor"] == 4.0


@pytest.mark.parametrize("settings", [{}, {"new_decoder_architecture": True, "num_kv_heads": 8, "bias": True}])
def test_the_catalogs_falcon_is_built_at_its_true_size(mlx: Backend, settings: dict[str, Any]) -> None:
    """71 heads of 64 and 65,024 tokens; mlx makes the arrays when they are read, and these never are."""
    from mlx.utils import tree_flatten

    from slmkit.backends._mlx.weights import model_classes

    values = catalog.config_values(catalog.get("falcon-7b")) | settings
    values |= {"num_attention_heads": 64, "hidden_size": 4096} if settings else {}
    model, args = model_classes(values)
    net = model(args.from_dict(values))
    count = sum(array.size for _, array in tree_flatten(net.parameters()))
    assert count == sum(architectures.count_parameters(values).values())
    assert settings or count == catalog.get("falcon-7b").n_parameters


def test_the_file_can_stand_in_mlx_lm(mlx: Backend) -> None:
    """It imports the standard library, mlx and mlx-lm, and nothing of slmkit."""
    from slmkit.backends._mlx import falcon as module

    nodes = list(ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {"." * node.level + str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in names}
    assert roots - sys.stdlib_module_names == {"mlx", "mlx_lm"}
