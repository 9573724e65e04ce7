"""The architectures slmkit knows: what belongs to a kind of network and not to one model.

One entry a `model_type` of transformers, read in its configuration and modelling classes (5.23): the layout of a block,
the linear layers that LoRA touches, the names of the sizes in a config.json. From a configuration alone
`count_parameters` counts the parameters exactly, without an engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slmkit.errors import InputError, unknown

_SIZES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "inner": "intermediate_size",
    "vocab": "vocab_size",
    "context": "max_position_embeddings",
}
_WITH_HEAD_DIM = {**_SIZES, "head_dim": "head_dim"}
_SAME_HEADS = {name: key for name, key in _SIZES.items() if name != "kv_heads"}
_LLAMA_LORA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Architecture:
    """A kind of network as transformers builds it.

    Attributes
    ----------
    model_type, class_name : str
        Its name in a config.json, and the class of transformers.
    blocks : str
        Where the list of blocks is in a model of that class.
    lora_targets : tuple of str
        Last part of the names of all linear layers of a block.
    keys : mapping
        Size (a field of a catalog entry) -> key of the config.json.
    settings : mapping
        Values of the config.json that all models of the architecture share.
    gated : bool
        The MLP has a gate beside its up-projection.
    fused : tuple of str
        What is stored in one matrix: "qkv", "gate_up".
    norms : int
        Norms a block.
    qk_norms : bool
        A norm on the queries and the keys of each head.
    norm_bias : bool
        Norms have a bias (LayerNorm); a config may say otherwise.
    biases : str
        Linear layers with a bias whatever the config says: "all", "qkv" or "".
    parallel : bool
        Attention and MLP read the same input and are added together.
    scaled_embeddings : bool
        Embeddings are multiplied by the square root of the hidden size.
    embedding_norm, first_norm, final_norm : bool
        A norm after the embeddings, before the attention of the first block, and after the last block.
    positions : bool
        Positions are learned, as rows of a table beside the tokens.
    pooler : bool
        A linear layer on top of the first token; counted as the head.
    tied : bool
        The language head is the embedding table where the config does not say.
    full_attention : tuple of int or None
        (every, at): block i attends to everything where i % every == at, and to a window elsewhere. None: all alike.
    """

    model_type: str
    class_name: str
    blocks: str
    lora_targets: tuple[str, ...]
    keys: Mapping[str, str] = field(default_factory=lambda: _SIZES)
    settings: Mapping[str, Any] = field(default_factory=dict)
    gated: bool = True
    fused: tuple[str, ...] = ()
    norms: int = 2
    qk_norms: bool = False
    norm_bias: bool = False
    biases: str = ""
    parallel: bool = False
    scaled_embeddings: bool = False
    embedding_norm: bool = False
    first_norm: bool = True
    final_norm: bool = True
    positions: bool = False
    pooler: bool = False
    tied: bool = False
    full_attention: tuple[int, int] | None = None

    @property
    def kind(self) -> str:
        """What it does: "decoder" (writes text, scores continuations) or "encoder" (turns text into vectors)."""
        return "decoder" if self.class_name.endswith("ForCausalLM") else "encoder"

    def layer_types(self, layers: int) -> list[str] | None:
        """What each block attends to, in the words of transformers; None where all are alike."""
        if self.full_attention is None:
            return None
        every, at = self.full_attention
        return ["full_attention" if i % every == at else "sliding_attention" for i in range(layers)]


_ALL = (
    Architecture(
        "llama",
        "LlamaForCausalLM",
        "model.layers",
        _LLAMA_LORA,
        keys=_WITH_HEAD_DIM,
        settings={"hidden_act": "silu", "rms_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False},
    ),
    Architecture(
        "mistral",
        "MistralForCausalLM",
        "model.layers",
        _LLAMA_LORA,
        keys=_WITH_HEAD_DIM,
        settings={"hidden_act": "silu", "rms_norm_eps": 1e-5},
    ),
    Architecture(
        "qwen2",
        "Qwen2ForCausalLM",
        "model.layers",
        _LLAMA_LORA,
        settings={"hidden_act": "silu", "rms_norm_eps": 1e-6, "use_sliding_window": False},
        biases="qkv",
    ),
    Architecture(
        "phi3",
        "Phi3ForCausalLM",
        "model.layers",
        ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
        settings={"hidden_act": "silu", "rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096},
        fused=("qkv", "gate_up"),
    ),
    Architecture(
        "gemma",
        "GemmaForCausalLM",
        "model.layers",
        _LLAMA_LORA,
        keys=_WITH_HEAD_DIM,
        settings={"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "attention_bias": False},
        scaled_embeddings=True,
        tied=True,
    ),
    Architecture(
        "gemma2",
        "Gemma2ForCausalLM",
        "model.layers",
        _LLAMA_LORA,
        keys=_WITH_HEAD_DIM,
        settings={
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": 1e-6,
            "attention_bias": False,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        norms=4,
        scaled_embeddings=True,
        tied=True,
        full_attention=(2, 1),
    ),
    Architecture(
        "gemma3_text",
        "Gemma3ForCausalLM",
        "model.layers",
        _LLAMA_LORA,
        keys=_WITH_HEAD_DIM,
        settings={
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": 1e-6,
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "rope_local_base_freq": 10_000.0,
            "sliding_window_pattern": 6,  # layer_types says the same; mlx-lm reads this one
        },
        norms=4,
        qk_norms=True,
        scaled_embeddings=True,
        tied=True,
        full_attention=(6, 5),
    ),
    Architecture(
        "falcon",
        "FalconForCausalLM",
        "transformer.h",
        ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
        keys={**_SAME_HEADS, "inner": "ffn_hidden_size"},
        settings={
            "activation": "gelu",
            "alibi": False,
            "bias": False,
            "layer_norm_epsilon": 1e-5,
            "multi_query": True,
            "new_decoder_architecture": False,
            "parallel_attn": True,
        },
        gated=False,
        fused=("qkv",),
        norms=1,
        norm_bias=True,
        parallel=True,
        tied=True,
    ),
    Architecture(
        "bert",
        "BertModel",
        "encoder.layer",
        ("query", "key", "value", "dense"),
        keys=_SAME_HEADS,
        settings={"hidden_act": "gelu", "layer_norm_eps": 1e-12, "type_vocab_size": 2},
        gated=False,
        norm_bias=True,
        biases="all",
        embedding_norm=True,
        final_norm=False,
        positions=True,
        pooler=True,
    ),
    Architecture(
        "distilbert",
        "DistilBertModel",
        "transformer.layer",
        ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
        keys={
            "hidden": "dim",
            "layers": "n_layers",
            "heads": "n_heads",
            "inner": "hidden_dim",
            "vocab": "vocab_size",
            "context": "max_position_embeddings",
        },
        settings={"activation": "gelu", "sinusoidal_pos_embds": False},
        gated=False,
        norm_bias=True,
        biases="all",
        embedding_norm=True,
        final_norm=False,
        positions=True,
    ),
    Architecture(
        "modernbert",
        "ModernBertModel",
        "layers",
        ("Wqkv", "Wo", "Wi"),
        keys=_SAME_HEADS,
        settings={
            "hidden_activation": "gelu",
            "norm_eps": 1e-5,
            "norm_bias": False,
            "attention_bias": False,
            "mlp_bias": False,
            "local_attention": 128,
            "global_rope_theta": 160_000.0,
            "local_rope_theta": 10_000.0,
            "global_attn_every_n_layers": 3,
        },
        fused=("qkv", "gate_up"),
        embedding_norm=True,
        first_norm=False,
        full_attention=(3, 0),
    ),
)
ARCHITECTURES: dict[str, Architecture] = {architecture.model_type: architecture for architecture in _ALL}


def get(model_type: str) -> Architecture:
    """The architecture of that `model_type`; `InputError` with the near names otherwise."""
    if model_type not in ARCHITECTURES:
        raise unknown("architecture", model_type, ARCHITECTURES)
    return ARCHITECTURES[model_type]


def count_parameters(config: Mapping[str, Any]) -> dict[str, int]:
    """Count the parameters of a network from its configuration alone, a tied head once.

    Parameters
    ----------
    config : mapping
        The values of a config.json, of a `model_type` among `ARCHITECTURES`.

    Returns
    -------
    dict
        embedding (tokens, positions, segments), head (an untied language head, or a pooler), linear (matrices in the
        blocks: what is quantised and what LoRA touches) and norms_and_biases. Their sum is the number of parameters
        of the class that transformers builds.

    Raises
    ------
    InputError
        An unknown architecture, or a configuration without one of its sizes.
    """
    this = get(str(config.get("model_type")))
    hidden, layers, vocab, inner = (_size(config, this, name) for name in ("hidden", "layers", "vocab", "inner"))
    queries, shared = _widths(config, this)
    rows = vocab + (_size(config, this, "context") + int(config.get("type_vocab_size", 0)) if this.positions else 0)
    tied = this.kind == "encoder" or config.get("tie_word_embeddings", this.tied)
    return {
        "embedding": rows * hidden,
        "head": (0 if tied else vocab * hidden) + (hidden * hidden if this.pooler else 0),
        "linear": layers * hidden * (2 * queries + 2 * shared + (3 if this.gated else 2) * inner),
        "norms_and_biases": _norms(config, this) + _biases(config, this),
    }


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of a network under the names of a catalog entry: hidden, layers, heads, kv_heads, head_dim, inner, vocab,
    context. Raises as `count_parameters`."""
    this = get(str(config.get("model_type")))
    head_dim = _head_dim(config, this)
    named = {name: _size(config, this, name) for name in ("hidden", "layers", "heads", "inner", "vocab", "context")}
    return {**named, "head_dim": head_dim, "kv_heads": _widths(config, this)[1] // head_dim}


def _norms(config: Mapping[str, Any], this: Architecture) -> int:
    hidden, layers, n = _size(config, this, "hidden"), _size(config, this, "layers"), this.norms
    if config.get("new_decoder_architecture"):  # Falcon 40B and later
        n = config.get("num_ln_in_parallel_attn") or 2
    elif not config.get("parallel_attn", True):
        n = 2
    count = layers * n + this.embedding_norm + this.final_norm - (not this.first_norm)
    heads = 2 * layers * _head_dim(config, this) if this.qk_norms else 0
    return count * hidden * (2 if config.get("norm_bias", this.norm_bias) else 1) + heads


def _biases(config: Mapping[str, Any], this: Architecture) -> int:
    hidden, layers, inner = (_size(config, this, name) for name in ("hidden", "layers", "inner"))
    queries, shared = _widths(config, this)
    everywhere = this.biases == "all" or bool(config.get("bias"))
    attention = everywhere or bool(config.get("attention_bias"))
    block = queries + 2 * shared if attention or this.biases == "qkv" else 0
    block += hidden if attention else 0
    if everywhere or config.get("mlp_bias"):
        block += (2 if this.gated else 1) * inner + hidden
    return layers * block + (hidden if this.pooler else 0)


def _widths(config: Mapping[str, Any], this: Architecture) -> tuple[int, int]:
    """Width of all queries, and of the keys (or the values) that groups of them share."""
    heads, shared = _size(config, this, "heads"), None
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        shared = 1
    elif "kv_heads" in this.keys or "multi_query" in this.settings:
        shared = config.get(this.keys.get("kv_heads", "num_kv_heads"))
    return heads * _head_dim(config, this), (shared or heads) * _head_dim(config, this)


def _head_dim(config: Mapping[str, Any], this: Architecture) -> int:
    given = config.get(this.keys.get("head_dim", ""))
    return int(given) if given else _size(config, this, "hidden") // _size(config, this, "heads")


def _size(config: Mapping[str, Any], this: Architecture, name: str) -> int:
    key = this.keys[name]
    value = config.get(key)
    if value is None and key == "ffn_hidden_size":  # Falcon's default
        value = 4 * _size(config, this, "hidden")
    if not isinstance(value, int) or value <= 0:
        raise InputError(f"the config of a {this.model_type} model must hold {key} as a whole number; got {value!r}")
    return value
