"""A network as far as memory and time depend on it, from a catalog entry, a configuration or a file's header alone.

Where the architecture is one that slmkit knows, everything is counted exactly from its configuration. Of others only
the shape is known; the rest is taken to be as in a Llama, and `exact` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slmkit import architectures, assets, catalog
from slmkit.assets import ModelSource
from slmkit.catalog import ModelEntry
from slmkit.errors import AssetError, InputError, unknown
from slmkit.estimate import shapes
from slmkit.estimate.shapes import Shape

BLOCK = 64  # numbers that share a scale; a row that it does not divide stays in 16 bits
SMALL_TABLE = 1024  # rows up to which an embedding stays in 16 bits
WHOLE_SCORES = {"falcon": 4}
FILE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Matrix:
    """`count` equal matrices of (rows, columns); `table`: an embedding, whose scales are not quantised again."""

    rows: int
    columns: int
    count: int
    table: bool = False

    @property
    def n_parameters(self) -> int:
        """Of all of them."""
        return self.rows * self.columns * self.count

    @property
    def quantised(self) -> bool:
        """Whether 4 and 8 bits change it."""
        return self.columns % BLOCK == 0 and (not self.table or self.rows > SMALL_TABLE)


@dataclass(frozen=True)
class Network:
    """What memory and time depend on.

    Attributes
    ----------
    name, title : str
    kind : str
        "decoder" or "encoder".
    model_type : str
        Of transformers; "" where it is not known.
    n_parameters : int
        Tied weights once.
    hidden, layers, heads, kv_heads, head_dim, inner, vocab : int
    context : int or None
        Tokens it was made for.
    linear : tuple of Matrix
        All blocks' matrices; `count` holds the number of blocks.
    tables, heads_on_top : tuple of Matrix
        Embedding tables; an untied language head or a pooler.
    gated, fused_qkv, parallel : bool
    norms : int
        Norms a block; `norm_bytes` says what each keeps for the backward pass.
    qk_norms, layer_norm : bool
        Norms on queries and keys; LayerNorm instead of RMSNorm.
    tied : bool
    window : int or None
        Tokens a block with a sliding window sees, and `windowed` blocks have one.
    score_bytes : int
        What the backward pass needs of each attention score, where no fused kernel computes them: capped ones in
        three number types, Falcon's shared key for many queries in float32. 0 where they never exist as a whole.
    file_bytes : int
        Bytes of a number in the published file.
    exact : bool
    """

    name: str
    title: str
    kind: str
    model_type: str
    n_parameters: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    context: int | None
    linear: tuple[Matrix, ...]
    tables: tuple[Matrix, ...]
    heads_on_top: tuple[Matrix, ...]
    gated: bool = True
    fused_qkv: bool = False
    parallel: bool = False
    norms: int = 2
    qk_norms: bool = False
    layer_norm: bool = False
    tied: bool = True
    window: int | None = None
    windowed: int = 0
    score_bytes: int = 0
    file_bytes: int = 2
    exact: bool = True

    @property
    def queries(self) -> int:
        """Width of all queries."""
        return self.heads * self.head_dim

    @property
    def shared(self) -> int:
        """Width of all keys, and of all values."""
        return self.kv_heads * self.head_dim

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """All of them."""
        return (*self.linear, *self.tables, *self.heads_on_top)

    @property
    def plain(self) -> int:
        """Parameters in norms and biases."""
        return max(0, self.n_parameters - sum(m.n_parameters for m in self.matrices))


Model = str | ModelEntry | ModelSource | Path | Mapping[str, Any] | Shape | Network


def network_of(model: Model) -> Network:
    """The network behind a catalog name or entry, a path (folder, GGUF file, config.json), a hub id that is on this
    disk, the values of a config.json, or a shape. Nothing is loaded or fetched.

    Raises
    ------
    InputError
        An unknown name, or a configuration without the sizes needed.
    AssetError
        A file that cannot be read.
    """
    if isinstance(model, Network):
        return model
    if isinstance(model, str):
        model = _named(model)
    if isinstance(model, ModelEntry):
        return _from_config(catalog.config_values(model), model.name, model.title, model.n_parameters)
    if isinstance(model, ModelSource):
        if model.name in catalog.MODELS:
            return network_of(catalog.MODELS[model.name])
        there = (model.folder / "config.json").is_file()
        found = network_of(model.folder if there or model.gguf is None else model.gguf)
        return replace(found, name=model.name, title=Path(model.name).name)
    if isinstance(model, Shape):
        return _from_shape(model)
    if isinstance(model, Mapping):
        name = str(model.get("name") or model.get("_name_or_path") or "this model")
        return _from_config(model, name, name)
    return _from_path(model)


def _named(name: str) -> ModelEntry | Path:
    if name in catalog.MODELS:
        return catalog.MODELS[name]
    path = Path(name).expanduser()
    if path.exists() and (path.is_dir() or path.suffix in (".gguf", ".json")):
        return path
    if path.exists():
        raise InputError(f"{name} is neither a Hugging Face folder nor a .gguf file nor a config.json")
    if path.suffix == ".gguf":
        raise AssetError(f"no GGUF file at {path}")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        folder = assets.hub_folder(name)
        if folder is None:
            raise AssetError(
                f"{name} is not on this disk, and nothing is fetched for an estimate: give its config.json, or "
                "load it once"
            )
        return folder
    raise unknown("model", name, catalog.MODELS)


def _from_path(path: Path) -> Network:
    shape = None
    if path.suffix == ".gguf":
        config = shapes.gguf_config(path)
        name = path.stem
    elif path.suffix == ".json":
        config, name = assets.read_json(path), path.parent.name
    else:
        config, name = assets.read_json(path / "config.json"), path.name
        shape = shapes.shape_of(path)
    n_parameters = shape.n_parameters if shape else config.get("n_parameters")
    return _from_config(config, name, name, n_parameters)


def _from_config(config: Mapping[str, Any], name: str, title: str, n_parameters: int | None = None) -> Network:
    config = {**config, **config.get("text_config", {})}
    if config.get("model_type") not in architectures.ARCHITECTURES:
        known = {**config, "n_parameters": n_parameters} if n_parameters else config
        return _from_shape(replace(shapes.shape_of({**known, "name": name}), title=title))
    try:
        counts = architectures.count_parameters(config)
        sizes: dict[str, Any] = architectures.sizes(config)
    except InputError as error:
        if not n_parameters:
            raise InputError(f"{name}: {error}") from error
        return _from_shape(replace(shapes.shape_of({**config, "n_parameters": n_parameters}), name=name, title=title))
    this = architectures.get(str(config["model_type"]))
    hidden, layers, inner = sizes["hidden"], sizes["layers"], sizes["inner"]
    queries, shared = sizes["heads"] * sizes["head_dim"], sizes["kv_heads"] * sizes["head_dim"]
    pooler = (Matrix(hidden, hidden, 1),) if this.pooler else ()
    untied = (Matrix(sizes["vocab"], hidden, 1),) if counts["head"] and not this.pooler else ()
    window, windowed = _window(config, layers)
    return Network(
        name=name,
        title=title,
        kind=this.kind,
        model_type=this.model_type,
        n_parameters=sum(counts.values()) if n_parameters is None else n_parameters,
        **sizes,
        linear=_linear(hidden, queries, shared, inner, layers, this.fused, this.gated),
        tables=_tables(config, sizes, this),
        heads_on_top=(*untied, *pooler),
        gated=this.gated,
        fused_qkv="qkv" in this.fused,
        parallel=this.parallel,
        norms=this.norms,
        qk_norms=this.qk_norms,
        layer_norm=this.norm_bias or this.model_type == "modernbert",
        tied=not untied,
        window=window,
        windowed=windowed,
        score_bytes=8 if config.get("attn_logit_softcapping") else WHOLE_SCORES.get(this.model_type, 0),
        file_bytes=FILE_BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 2),
    )


def _linear(
    hidden: int, queries: int, shared: int, inner: int, layers: int, fused: tuple[str, ...], gated: bool
) -> tuple[Matrix, ...]:
    if "qkv" in fused:
        attention = [Matrix(queries + 2 * shared, hidden, layers)]
    else:
        attention = [Matrix(queries, hidden, layers), Matrix(shared, hidden, 2 * layers)]
    if "gate_up" in fused:
        up = Matrix(2 * inner, hidden, layers)
    else:
        up = Matrix(inner, hidden, (2 if gated else 1) * layers)
    return (*attention, Matrix(hidden, queries, layers), up, Matrix(hidden, inner, layers))


def _tables(
    config: Mapping[str, Any], sizes: Mapping[str, int], this: architectures.Architecture
) -> tuple[Matrix, ...]:
    rows = [sizes["vocab"]]
    if this.positions:
        rows += [sizes["context"]] + ([config["type_vocab_size"]] if config.get("type_vocab_size") else [])
    return tuple(Matrix(n, sizes["hidden"], 1, table=True) for n in rows)


def _window(config: Mapping[str, Any], layers: int) -> tuple[int | None, int]:
    types = config.get("layer_types")
    size = config.get("sliding_window") or config.get("local_attention")
    if not size or config.get("use_sliding_window") is False:
        return None, 0
    return int(size), sum("sliding" in str(kind) for kind in types) if types else layers


def _from_shape(shape: Shape) -> Network:
    """A Llama of that shape: heads of 64, as many of keys and values, and an MLP that takes the rest."""
    hidden, layers = shape.hidden, shape.layers
    heads = max(1, hidden // 64)
    head_dim = hidden // heads
    queries = heads * head_dim
    left = max(0, shape.n_parameters - shape.vocab * hidden - (2 * layers + 1) * hidden)
    inner = max(1, (left // layers - 4 * hidden * queries) // (3 * hidden))
    return Network(
        name=shape.name,
        title=shape.title,
        kind="decoder",
        model_type="",
        n_parameters=shape.n_parameters,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        inner=inner,
        vocab=shape.vocab,
        context=None,
        linear=_linear(hidden, queries, queries, inner, layers, (), True),
        tables=(Matrix(min(shape.vocab, max(1, shape.n_parameters // hidden)), hidden, 1, table=True),),
        heads_on_top=(),
        exact=False,
    )
