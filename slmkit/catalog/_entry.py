"""What is known of one model before a byte of it is read, and the config.json that follows from it.

What belongs to an architecture stands in `slmkit.architectures`, what belongs to a family of models (terms, template,
tokens) in a `Family`; an entry names both and adds what is its own. The entries stand in the files beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from slmkit import architectures
from slmkit.architectures import Architecture

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network: hidden units, blocks, attention heads, heads of keys and values, units a head, units inside
    the MLP, rows of the embedding table."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int


@dataclass(frozen=True)
class Family:
    """Terms, template and tokens of a family of models.

    Attributes
    ----------
    name : str
    licence : str
        SPDX name, or the name of the vendor's terms.
    gated : bool
        Whether the hub asks for an account that accepted the terms.
    template : str
        The format of a conversation that the chat models were tuned with: chatml, gemma, llama-2, llama-3, mistral,
        phi-3, zephyr; "none" if there is none.
    turn_end : str or None
        The token with which a chat model ends its turn; generation stops there.
    bos, eos, pad : str or None
        Special tokens of the tokenizer; None where it has none or no source shows it.
    chat_eos : str or None
        The end token of the chat models' tokenizer where it is another one.
    settings : mapping
        Values of the config.json that the family shares: the ids of those tokens.
    source : str
        Where the tokens were read.
    """

    name: str
    licence: str
    template: str
    source: str
    gated: bool = False
    turn_end: str | None = None
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    chat_eos: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A piece of a weights file in a package of its own: the package (with version), and the file inside it."""

    package: str
    file: str


def token_ids(bos: int | None, eos: int | None, pad: int | None) -> dict[str, int | None]:
    """The ids of special tokens under the keys of a config.json."""
    return {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}


@dataclass(frozen=True)
class ModelEntry:
    """What is known of a model before a byte of it is read.

    Attributes
    ----------
    name, title : str
        The short name typed by people, and the one shown to them.
    hub_id, revision : str
        Repository on the Hugging Face hub, and a commit of it or "main".
    family : Family
        Whose terms, template and tokens it has.
    model_type : str
        Key of `architectures.ARCHITECTURES`.
    chat : bool
        Tuned to follow a chat template.
    n_parameters : int
        All parameters, tied ones once.
    sizes : Sizes
        Of the network; each is an attribute of the entry too.
    context : int
        Tokens the network was made for (`max_position_embeddings`).
    tied : bool
        The language head is the embedding table.
    dtype : str
        Type of the published weights.
    settings : mapping
        Other values of the model's config.json: rotary embeddings, sliding window, ...
    source : str
        Where these facts were read.
    safetensors_bytes : int or None
        Size of the published safetensors files where a source gives it; `disk_bytes` else counts.
    package, package_file, sha256 : str or None
        Python package (with version) that carries the weights, so that no hub is needed; the folder or GGUF file inside
        it, relative to the site-packages folder (of a file in parts, its name); SHA-256 of the weights.
    parts : tuple of Part
        The packages that carry the file piece by piece, in order; empty where it is in one.
    terms : str
        What has to be accepted, once on a machine, before the model is used; "" where the licence asks for nothing, or
        where the weights come from the hub only, which asks itself.
    """

    name: str
    title: str
    hub_id: str
    family: Family
    model_type: str
    n_parameters: int
    sizes: Sizes
    context: int
    source: str
    revision: str = "main"
    chat: bool = False
    tied: bool = False
    dtype: str = "bfloat16"
    settings: Mapping[str, Any] = field(default_factory=dict)
    safetensors_bytes: int | None = None
    package: str | None = None
    package_file: str | None = None
    sha256: str | None = None
    parts: tuple[Part, ...] = ()
    terms: str = ""

    @property
    def packages(self) -> tuple[str, ...]:
        """All Python packages that carry the weights, with versions."""
        return (*([self.package] if self.package else []), *(part.package for part in self.parts))

    @property
    def architecture(self) -> Architecture:
        """What belongs to the kind of network."""
        return architectures.get(self.model_type)

    @property
    def hidden(self) -> int:
        """Hidden units."""
        return self.sizes.hidden

    @property
    def layers(self) -> int:
        """Blocks."""
        return self.sizes.layers

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.sizes.heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.sizes.kv_heads

    @property
    def head_dim(self) -> int:
        """Units a head."""
        return self.sizes.head_dim

    @property
    def inner(self) -> int:
        """Units inside the MLP."""
        return self.sizes.inner

    @property
    def vocab(self) -> int:
        """Rows of the embedding table."""
        return self.sizes.vocab

    @property
    def kind(self) -> str:
        """What it does: "decoder" (writes text, scores continuations) or "encoder" (turns text into vectors)."""
        return self.architecture.kind

    @property
    def licence(self) -> str:
        """SPDX name, or the name of the vendor's terms."""
        return self.family.licence

    @property
    def gated(self) -> bool:
        """Whether the hub asks for an account that accepted the terms."""
        return self.family.gated

    @property
    def template(self) -> str:
        """Name of the chat template; "none" for a base model."""
        return self.family.template if self.chat else "none"

    @property
    def special_tokens(self) -> dict[str, str | None]:
        """The tokenizer's bos, eos and pad, and what ends a chat model's turn; None where there is none."""
        family = self.family
        eos, turn_end = (family.chat_eos or family.eos, family.turn_end) if self.chat else (family.eos, None)
        return {"bos": family.bos, "eos": eos, "pad": family.pad, "turn_end": turn_end}

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Linear layers of a block, by the last part of their names."""
        return self.architecture.lora_targets

    @property
    def disk_bytes(self) -> int:
        """Bytes of the published weights: from a source, else parameters x bytes of their type."""
        return self.safetensors_bytes or self.n_parameters * DTYPE_BYTES[self.dtype]

    @property
    def disk_bytes_origin(self) -> str:
        """Where `disk_bytes` is from: "source", or the multiplication in words."""
        return "source" if self.safetensors_bytes else f"parameters x {DTYPE_BYTES[self.dtype]} bytes ({self.dtype})"

    def varied(self, name: str, title: str, hub_id: str, revision: str = "main", **changes: Any) -> ModelEntry:
        """A model with the same network, and these changes; settings are added to those it has.

        Its weights are other ones, so it has no package and no terms but those given.
        """
        weights = {"package": None, "package_file": None, "sha256": None, "parts": (), "terms": ""}
        changes = {**weights, **changes, "settings": {**self.settings, **changes.get("settings", {})}}
        return replace(self, name=name, title=title, hub_id=hub_id, revision=revision, **changes)

    def tuned(self, name: str, title: str, hub_id: str, revision: str = "main", **changes: Any) -> ModelEntry:
        """The chat model of this base model, as `varied`."""
        return self.varied(name, title, hub_id, revision, chat=True, **changes)


def config_values(entry: ModelEntry) -> dict[str, Any]:
    """The complete config.json of a model, from its entry alone.

    Later parts win: what the architecture shares, what the family shares, the sizes, the model's own settings. Rotary
    settings are in the form that the published files have (`rope_theta`, `rope_scaling`), which transformers and
    mlx-lm both read.
    """
    this = entry.architecture
    layer_types = this.layer_types(entry.layers)
    return {
        "model_type": entry.model_type,
        "architectures": [this.class_name],
        "dtype": entry.dtype,
        **this.settings,
        **entry.family.settings,
        **{key: getattr(entry, name) for name, key in this.keys.items()},
        **({"tie_word_embeddings": entry.tied} if this.kind == "decoder" else {}),
        **({"layer_types": layer_types} if layer_types else {}),
        **entry.settings,
    }


def facts(entry: ModelEntry) -> dict[str, Any]:
    """Everything known of a model as plain values: its own fields, and those of its family and architecture."""
    own = {item.name: getattr(entry, item.name) for item in fields(entry) if item.name != "sizes"}
    return {
        **own,
        **asdict(entry.sizes),
        "family": entry.family.name,
        "settings": dict(entry.settings),
        "parts": [asdict(part) for part in entry.parts],
        "kind": entry.kind,
        "class_name": entry.architecture.class_name,
        "lora_targets": list(entry.lora_targets),
        "licence": entry.licence,
        "gated": entry.gated,
        "template": entry.template,
        "special_tokens": entry.special_tokens,
        "tokens_source": entry.family.source,
        "disk_bytes": entry.disk_bytes,
        "disk_bytes_origin": entry.disk_bytes_origin,
    }
