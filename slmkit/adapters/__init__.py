"""LoRA adapters in the layouts of PEFT and of mlx-lm, converted into each other by name and shape; no engine is needed.

Both write the same two matrices a linear layer. PEFT keeps A as (rank, in) and B as (out, rank) under the names of
transformers' modules, with a scale of alpha / rank; mlx-lm keeps their transposes under the names of its own modules
and writes the scale down. Numbers keep their type, so what is computed from them stays the same. Layouts as read in
peft 0.21 (`LoraConfig`, `get_peft_model_state_dict`) and mlx-lm 0.32 (`tuner.utils.load_adapters`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, TensorSpec, deserialize, serialize_file

from slmkit import assets, files
from slmkit.adapters import whole
from slmkit.adapters.names import LAYOUTS as LAYOUTS
from slmkit.adapters.names import NAMES as NAMES
from slmkit.adapters.names import TRAINED, Names
from slmkit.assets import ModelSource
from slmkit.errors import AssetError, InputError, listed, unknown

log = logging.getLogger(__name__)
FACTS, HEAD, CARD = "slmkit_adapter.json", "head.safetensors", "README.md"
CONFIG = "adapter_config.json"
WEIGHTS = {"peft": "adapter_model.safetensors", "mlx": "adapters.safetensors"}
KEPT = (HEAD, "finetune.json", CARD)  # what is copied as it is
TYPES = {"F32": ("float32", "<u4"), "F16": ("float16", "<u2"), "BF16": ("bfloat16", "<u2")}
ELSEWHERE = {  # settings of PEFT that change what is computed and that mlx-lm has no word for
    "use_dora": (None, False),
    "lora_bias": (None, False),
    "fan_in_fan_out": (None, False),
    "bias": (None, "none"),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (None, False),
    **dict.fromkeys(("use_bdlora", "arrow_config", "kasa_config", "monteclora_config"), (None,)),
    "init_lora_weights": (None, True, False, "gaussian", "orthogonal", "eva"),  # others change the base as well
}


Matrix = tuple[str, np.ndarray]  # number type and raw bits


@dataclass(frozen=True)
class Adapter:
    """What is in an adapter, whatever its layout.

    Attributes
    ----------
    names : Names
    rank : int
    scale : float
        What the product of the two matrices is multiplied by.
    dropout : float
        In training; nothing in use.
    blocks : tuple of int
        Those adapted, one after the other.
    keys : tuple of str
        Linear layers adapted in each of them.
    matrices : dict
        (block, key) -> A as (in, rank), B as (rank, out).
    """

    names: Names
    rank: int
    scale: float
    dropout: float
    blocks: tuple[int, ...]
    keys: tuple[str, ...]
    matrices: dict[tuple[int, str], tuple[Matrix, Matrix]]


def layout_of(folder: Path) -> str | None:
    """The layout of an adapter's folder, "peft" or "mlx", by its files; None for one with neither or both."""
    found = [layout for layout, name in WEIGHTS.items() if (folder / name).is_file()]
    return found[0] if len(found) == 1 else None


def file_of(folder: Path) -> Path | None:
    """The file with what was trained: an adapter's matrices, or whole weights; None where there is none."""
    layout = layout_of(folder)
    found = folder / (WEIGHTS[layout] if layout else TRAINED)
    return found if found.is_file() else None


def read(folder: str | Path) -> Adapter:
    """Read an adapter of either layout.

    Raises
    ------
    AssetError
        No adapter, a damaged one, or matrices that do not fit each other or their settings.
    InputError
        One that only its own layout can say: DoRA, other ranks by layer, layers besides the linear ones of blocks.
    """
    folder = Path(folder)
    layout = layout_of(folder)
    if layout is None:
        raise AssetError(no_adapter(folder))
    settings = assets.read_json(folder / CONFIG)
    rank, scale, dropout = (_mlx_settings if layout == "mlx" else _peft_settings)(folder, settings)
    names, matrices = _matrices(folder, layout, rank)
    blocks = tuple(sorted({block for block, _ in matrices}))
    keys = tuple(sorted({key for _, key in matrices}))
    lacking = [f"{names.prefix(layout)}{b}.{k}" for b in blocks for k in keys if (b, k) not in matrices]
    if lacking:
        raise InputError(
            f"the adapter in {folder} adapts other layers in some blocks than in others ({lacking[0]} is left out), "
            "which mlx-lm cannot say: all adapted blocks must have the same layers adapted"
        )
    if blocks != tuple(range(blocks[0], blocks[-1] + 1)):
        raise InputError(
            f"the adapter in {folder} adapts blocks {', '.join(map(str, blocks))}; mlx-lm can only adapt the last ones"
        )
    return Adapter(names, rank, scale, dropout, blocks, keys, matrices)


def convert(folder: str | Path, out: str | Path, to: str) -> Path:
    """Write an adapter, or weights trained as a whole, in the other layout, with head, card and the facts of its base.

    Parameters
    ----------
    folder : path
        An adapter of PEFT's or mlx-lm's layout: what `slmkit tune` wrote, the folder `adapter` of a saved classifier,
        or one of another program.
    out : path
        A new or an empty folder. It is there when it is complete, and not before.
    to : {"peft", "mlx"}
        "peft" is read by backend `bnb` and by `peft.PeftModel`, "mlx" by backend `mlx` and by mlx-lm.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError, AssetError, SlmkitError
        See `read`; an adapter that is in that layout already; a folder that holds something; a full disk.
    """
    folder, out = Path(folder), Path(out)
    if to not in WEIGHTS:
        raise unknown("layout", to, WEIGHTS)
    check_new(out)
    if (layout_of(folder) or whole.layout_of(folder, facts_of(folder))) == to:
        raise InputError(f"the adapter in {folder} is in the layout {to!r} already; copy it as it is")
    write = _writer(folder, to)
    with files.on_disk(out, "nothing was written"), assets.atomic_folder(out) as aside:
        write(aside)
        aside.chmod(0o755)  # a temporary folder is closed to others
    return out


def check_new(out: Path) -> None:
    """Raise `InputError` for a target that is a file or holds something."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"out must be a new or an empty folder; {out} exists. Choose another one or remove it")


def for_backend(folder: Path, backend: str, source: ModelSource) -> Path:
    """The adapter as a backend reads it: the folder itself, or a copy in its layout in the cache.

    Raises `InputError` for a model that the two engines do not compute alike by these names, and for an adapter that
    the other layout cannot say; an adapter of no known layout is left to the backend, which says what is wrong.
    """
    facts = facts_of(folder)
    wanted, found = LAYOUTS.get(backend), layout_of(folder) or whole.layout_of(folder, facts)
    if wanted is None or found is None or wanted == found:
        return folder
    check_base(folder, facts, source)
    config = assets.read_json(source.folder / "config.json")
    kind = str(config.get("model_type"))
    if not any(kind in names.models for names in NAMES):
        known = sorted(model for names in NAMES for model in names.models)
        raise InputError(
            f"the adapter in {folder} is in the layout {found!r} and backend {backend!r} reads {wanted!r}: slmkit does "
            f"not know how the layers of {kind!r} are called there. It converts adapters of {', '.join(known)}"
        )
    final = assets.cache_dir() / "adapters" / f"{_digest(folder)}-{wanted}"
    write = _writer(folder, wanted, config)
    if not assets.is_whole(final):
        log.info("converting the adapter in %s to the layout %s once, into %s", folder, wanted, final)
        with files.on_disk(final), assets.atomic_folder(final) as aside:
            write(aside)
    if facts.get("bits") in (4, 8):
        log.warning(
            "the adapter in %s was trained on %s bits as another backend rounds them; those of %s differ a little: "
            "measure it here before you rely on it", folder, facts["bits"], backend
        )  # fmt: skip
    return final


def facts_of(folder: Path) -> dict[str, Any]:
    """What slmkit wrote down beside an adapter of what it was trained on; empty for one of another program."""
    return assets.read_json(folder / FACTS) if (folder / FACTS).is_file() else {}


def check_base(folder: Path, facts: Mapping[str, Any], source: ModelSource) -> None:
    """Raise `AssetError` for an adapter that says it was trained on another model than this."""
    if facts and facts.get("revision") != source.revision:
        raise AssetError(
            f"the adapter in {folder} was trained on {facts.get('model')} ({facts.get('revision')}), not on "
            f"{source.name} ({source.revision}): load the model it belongs to, or train it again on this one"
        )


def _writer(folder: Path, to: str, config: Mapping[str, Any] | None = None) -> Callable[[Path], None]:
    """What writes a folder's adapter or weights in a layout, checked first; `config` is the model's, if known."""
    if whole.layout_of(folder, facts := facts_of(folder)):
        rename = whole.renaming(folder, LAYOUTS[facts["backend"]], to)
        return lambda out: _beside(folder, out, to, whole.write(folder, rename, out))
    adapter = read(folder)
    if config is not None:
        _check_last(adapter, folder, config)
    return lambda out: _write(adapter, folder, out, to)


def _check_last(adapter: Adapter, folder: Path, config: Mapping[str, Any]) -> None:
    n_blocks = config.get("num_hidden_layers")
    if isinstance(n_blocks, int) and adapter.blocks[-1] != n_blocks - 1:
        raise InputError(
            f"the adapter in {folder} adapts blocks {adapter.blocks[0]} to {adapter.blocks[-1]} and the model has "
            f"{n_blocks}: it belongs to another model, or leaves out the last blocks, which mlx-lm cannot say"
        )


def no_adapter(folder: Path) -> str:
    """Why a folder is no adapter, in words."""
    if (folder / "adapter").is_dir():
        return f"{folder} is a saved classifier: its adapter is in {folder / 'adapter'}"
    pickled = sorted(path.name for path in folder.glob("adapter*.bin"))
    there = [name for name in WEIGHTS.values() if (folder / name).is_file()]
    why = f"it holds only pickled weights ({pickled[0]}), which can run code when read" if pickled else "it holds none"
    why = f"it holds {' and '.join(there)}, of two layouts" if there else why
    why = why if folder.is_dir() else "there is no such folder"
    return f"{folder} is not an adapter ({CONFIG} with {' or '.join(WEIGHTS.values())}): {why}"


def _mlx_settings(folder: Path, settings: Mapping[str, Any]) -> tuple[int, float, float]:
    kind, lora = settings.get("fine_tune_type", "lora"), settings.get("lora_parameters")
    if kind != "lora":
        raise InputError(f"{folder / CONFIG}: only fine_tune_type 'lora' can be converted; got {kind!r}")
    try:
        lora = dict(lora or {})
        return int(lora["rank"]), float(lora["scale"]), float(lora.get("dropout") or 0.0)
    except (KeyError, TypeError, ValueError) as error:
        raise AssetError(f"{folder / CONFIG} is damaged: lora_parameters must name rank and scale ({error})") from error


def _peft_settings(folder: Path, settings: Mapping[str, Any]) -> tuple[int, float, float]:
    kind = settings.get("peft_type")
    wrong = [f"{key} = {settings[key]!r}" for key, good in ELSEWHERE.items() if settings.get(key) not in good]
    if kind != "LORA":
        wrong.insert(0, f"peft_type = {kind!r}")
    if wrong:
        raise InputError(
            f"{folder / CONFIG}: mlx-lm has no counterpart for {', '.join(wrong)}; only plain LoRA converts"
        )
    try:
        rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
        scale = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise AssetError(f"{folder / CONFIG} is damaged: it must name r and lora_alpha ({error!r})") from error
    return rank, scale, float(settings.get("lora_dropout") or 0.0)


def _matrices(folder: Path, layout: str, rank: int) -> tuple[Names, dict[tuple[int, str], tuple[Matrix, Matrix]]]:
    path = folder / WEIGHTS[layout]
    assets.check_safetensors(path)
    found: dict[tuple[int, str], dict[str, Matrix]] = {}
    forms: set[Names] = set()
    try:
        stored = sorted(deserialize(path.read_bytes()), key=lambda one: str(one[0]))
    except SafetensorError as error:
        raise AssetError(f"{path} is not a readable safetensors file: {error}") from error
    for name, facts in stored:
        form, block, key, side = _parsed(name, layout, path)
        forms.add(form)
        if facts["dtype"] not in TYPES or len(facts["shape"]) != 2:
            raise AssetError(f"{path}: {name} is {facts['dtype']} of shape {facts['shape']}, not a matrix of numbers")
        bits = np.frombuffer(facts["data"], dtype=TYPES[facts["dtype"]][1]).reshape(facts["shape"])
        found.setdefault((block, key), {})[side] = (facts["dtype"], bits.T if layout == "peft" else bits)
    if len(forms) != 1:
        raise AssetError(f"{path} holds {'no matrices' if not forms else 'matrices of several kinds of models'}")
    for (block, key), pair in found.items():
        shapes = {side: matrix.shape for side, (_, matrix) in sorted(pair.items())}
        if set(pair) != {"a", "b"} or shapes["a"][1] != rank or shapes["b"][0] != rank:
            raise AssetError(f"{path} is damaged: block {block}, {key} must have A and B of rank {rank}; got {shapes}")
    return forms.pop(), {place: (pair["a"], pair["b"]) for place, pair in found.items()}


def _parsed(name: str, layout: str, path: Path) -> tuple[Names, int, str, str]:
    """The kind of block, its number, the layer and the matrix ("a" or "b") of a stored name."""
    head, tail = (r"base_model\.model\.", r"\.lora_(A|B)\.weight") if layout == "peft" else ("", r"\.lora_(a|b)")
    for names in NAMES:
        keys = "|".join(map(re.escape, names.keys))
        match = re.fullmatch(rf"{head}{re.escape(names.prefix(layout))}(\d+)\.({keys}){tail}", name)
        if match:
            return names, int(match[1]), match[2], match[3].lower()
    known = [f"{names.prefix(layout)}N.{key}" for names in NAMES for key in names.keys]
    raise InputError(f"{path}: {name!r} is not a LoRA matrix of a linear layer that converts: {listed(known)}")


def _write(adapter: Adapter, folder: Path, out: Path, to: str) -> None:
    prefix, named = adapter.names.prefix(to), {}
    for (block, key), pair in sorted(adapter.matrices.items()):
        for side, (kind, matrix) in zip("ab", pair, strict=True):
            if to == "peft":
                named[f"base_model.model.{prefix}{block}.{key}.lora_{side.upper()}.weight"] = (kind, matrix.T)
            else:
                named[f"{prefix}{block}.{key}.lora_{side}"] = (kind, matrix)
    whole = {name: (kind, np.ascontiguousarray(matrix)) for name, (kind, matrix) in named.items()}
    specs = {
        name: TensorSpec(dtype=TYPES[kind][0], shape=matrix.shape, data_ptr=matrix.ctypes.data, data_len=matrix.nbytes)
        for name, (kind, matrix) in whole.items()
    }
    serialize_file(specs, out / WEIGHTS[to], {"format": "pt" if to == "peft" else "mlx"})
    settings = _peft_config(adapter, facts_of(folder)) if to == "peft" else _mlx_config(adapter)
    (out / CONFIG).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    _beside(folder, out, to, {})


def _beside(folder: Path, out: Path, to: str, more: Mapping[str, Any]) -> None:
    """What goes with the weights: the facts with `more` among them, head, record and card."""
    facts = facts_of(folder)
    if facts:
        backend = next(name for name, layout in LAYOUTS.items() if layout == to)
        facts = {**facts, "backend": backend, "trained_with": facts.get("trained_with") or facts.get("backend"), **more}
        (out / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for name in KEPT:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    if (out / CARD).is_file():
        card = (out / CARD).read_bytes()
        other = next(layout for layout in WEIGHTS if layout != to)
        (out / CARD).write_bytes(
            card.replace(f"\nlibrary_name: {other}\n".encode(), f"\nlibrary_name: {to}\n".encode(), 1)
        )


def _mlx_config(adapter: Adapter) -> dict[str, Any]:
    lora = {"rank": adapter.rank, "scale": adapter.scale, "dropout": adapter.dropout, "keys": list(adapter.keys)}
    return {"fine_tune_type": "lora", "num_layers": len(adapter.blocks), "lora_parameters": lora}


def _peft_config(adapter: Adapter, facts: Mapping[str, Any]) -> dict[str, Any]:
    alpha = adapter.scale * adapter.rank
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": facts.get("model"),
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": round(alpha) if math.isclose(alpha, round(alpha)) else alpha,
        "lora_dropout": adapter.dropout,
        "bias": "none",
        "target_modules": list(adapter.keys),
        "layers_to_transform": list(adapter.blocks),
        "layers_pattern": adapter.names.peft.rstrip(".").rpartition(".")[2],
    }


def _digest(folder: Path) -> str:
    """What identifies an adapter's content."""
    names = [CONFIG, FACTS, *WEIGHTS.values(), TRAINED, *KEPT]
    hashes = [f"{name} {files.sha256_of(folder / name)}" for name in names if (folder / name).is_file()]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]
