"""Refuses what would load and then be wrong: foreign architectures and code, a foreign tokenizer, a foreign adapter.

Works on files and tokenizers alone, for every backend.
"""

from __future__ import annotations

import hashlib
import json
import logging
import weakref
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from slmkit import adapters, assets, files
from slmkit.assets import ModelSource
from slmkit.backends.base import TRAINED, LoRAConfig
from slmkit.errors import AssetError, InputError, listed

log = logging.getLogger(__name__)
FACTS = adapters.FACTS
SHOWN = 300  # characters of an engine's own message
_TOLD: weakref.WeakSet[Any] = weakref.WeakSet()  # tokenizers of models whose cut texts were spoken of
_ROWS: weakref.WeakKeyDictionary[Any, int] = (
    weakref.WeakKeyDictionary()
)  # tokenizers with ids beyond their model's rows


def check_architecture(folder: Path, known: Container[str] | None, engine: str) -> None:
    """Refuse a model type the engine has no class of its own for; say it where a repository's code is passed over.

    Parameters
    ----------
    folder : Path
    known : container of str or None
        Model types the engine has classes for; None where the engine itself refuses others.
    engine : str
        Its name and version, for the message.
    """
    path = folder / "config.json"
    config = assets.read_json(path)
    kind, code = config.get("model_type"), _own_code(config)
    if (kind not in known) if known is not None else ("model_file" in config):
        why = f", and code that comes with a model ({code}) is never run" if code else ""
        raise AssetError(
            f"{path}: {engine} has no architecture {kind!r}{why}. Take a model of a built-in architecture, or a newer "
            f"{engine.split()[0]} that knows this one"
        )
    if code:
        log.warning("%s names code of its own (%s); it is not run, %s's own class is used", path, code, engine)


def _own_code(config: Mapping[str, Any]) -> str:
    """The modules of its own that a configuration names, under transformers' key or mlx-lm's."""
    named = config.get("auto_map") or {}
    values = named.values() if isinstance(named, dict) else [named]
    modules = {str(value).rpartition(".")[0] + ".py" for value in values} | {config.get("model_file")}
    return ", ".join(sorted(str(module) for module in modules if module))


def check_vocabulary(tokenizer: Any, folder: Path) -> None:
    """Refuse a tokenizer with ids that the model's embedding has no row for.

    Added tokens that neither the special tokens nor the chat template use are let pass (Gemma 3's image token has no
    row in the models for text alone); a text that holds one is refused when it is read.
    """
    path = folder / "config.json"
    config = assets.read_json(path) if path.is_file() else {}  # a GGUF file not opened yet
    rows = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    beyond = {token: index for token, index in tokenizer.get_vocab().items() if rows is not None and index >= rows}
    if not beyond:
        return
    template = str(tokenizer.chat_template or "")
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    added = tokenizer.get_added_vocab()
    needed = {t: i for t, i in beyond.items() if t not in added or i in used or t in template}
    if needed:
        token = min(needed, key=lambda t: needed[t])
        raise AssetError(
            f"the tokenizer in {folder} does not belong to the model: {len(beyond)} of its tokens, {token!r} (id "
            f"{needed[token]}) among them, have no row in the embedding of {rows} rows (vocab_size in config.json). "
            "Take the tokenizer files that came with the weights, or weights whose embedding was extended"
        )
    _ROWS[tokenizer] = int(rows or 0)


def check_ids(tokenizer: Any, rows: Sequence[Sequence[int]]) -> None:
    """Raise `InputError` for a text with a token that the embedding has no row for."""
    limit = _ROWS.get(tokenizer)
    if limit is None:
        return
    for number, row in enumerate(rows):
        if foreign := [index for index in row if index >= limit]:
            token = tokenizer.convert_ids_to_tokens(foreign[0])
            raise InputError(
                f"text {number} holds {token!r} (id {foreign[0]}), for which the model's embedding of {limit} rows has "
                "none: this model cannot read it; take it out of the text"
            )


def say_cut(tokenizer: Any, longest: int, context: int, part: str) -> None:
    """Warn, once a loaded model, that texts are longer than its context and lose a part."""
    if longest > context and tokenizer not in _TOLD:
        _TOLD.add(tokenizer)
        log.warning(
            "a text of %d tokens is longer than the model's context of %d: such texts lose their %s (said once)",
            longest,
            context,
            part,
        )


def no_room(n_prompt: int, context: int) -> InputError:
    """The error for a prompt that leaves no room to write."""
    return InputError(
        f"the prompt has {n_prompt} tokens and fills the model's context of {context} tokens; shorten it by at least "
        f"{n_prompt - context + 1}, or take a model with a longer context"
    )


def write_adapter_facts(
    out: Path, source: ModelSource, backend: str, bits: int, tokenizer: Any, computed_in: str
) -> None:
    """Write down beside an adapter what it was trained on, and in which number type and why."""
    facts = {"backend": backend, "model": source.name, "revision": source.revision, "bits": bits}
    facts |= {"template_sha256": template_sha256(tokenizer), "computed_in": computed_in}
    if (out / TRAINED).is_file():
        facts |= {"weights_sha256": files.sha256_of(out / TRAINED)}
    (out / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def check_adapter(folder: Path, source: ModelSource, backend: str, tokenizer: Any) -> None:
    """Refuse an adapter of another backend, base model or chat template; warn when it says nothing of its base."""
    path = folder / FACTS
    if not path.is_file() and (folder / "adapter_config.json").is_file():
        log.warning("%s does not say which model it was trained on (no %s); it may be another one", folder, FACTS)
    if not path.is_file():
        return
    facts = assets.read_json(path)
    if facts.get("backend") != backend:
        raise InputError(
            f"the adapter in {folder} was trained with backend {facts.get('backend')!r} and {backend!r} cannot read "
            f"it; load it with backend={facts.get('backend')!r}"
        )
    adapters.check_base(folder, facts, source)
    trained, here = facts.get("template_sha256"), template_sha256(tokenizer)
    if trained != here:
        raise AssetError(
            f"the adapter in {folder} was trained with another chat template ({_short(trained)}) than {source.folder} "
            f"has ({_short(here)}): put back the tokenizer files it was trained with, or train it again"
        )


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds trained weights instead of an adapter."""
    return (folder / TRAINED).is_file()


def check_weights(folder: Path, source: ModelSource, bits: int) -> None:
    """Refuse trained weights that were altered, or that a model in few bits has no place for."""
    if bits != 16:
        raise InputError(
            f"the weights in {folder} were trained as a whole and take the place of {source.name}'s own: bits must be "
            f"16; got {bits}. Merge them into a model first, then quantise that"
        )
    assets.check_safetensors(folder / TRAINED)
    known = assets.read_json(folder / FACTS).get("weights_sha256")
    if known != files.sha256_of(folder / TRAINED):
        raise AssetError(f"{folder / TRAINED} was altered (its SHA-256 is not the one written): {assets.AGAIN}")


def check_whole_bits(bits: int, config: LoRAConfig) -> None:
    """Refuse to train weights stored in few bits: a step is smaller than the gap between two of their values."""
    if config.trains == "weights" and bits != 16:
        raise InputError(f"full training changes the weights themselves, which needs 16 bits; got {bits}")


def check_counterparts(found: Mapping[str, Sequence[int]], own: Mapping[str, Sequence[int]], misfit: str) -> None:
    """Refuse trained weights (names and shapes) that a model's own are no counterpart of."""
    strange = sorted(name for name, shape in found.items() if list(own.get(name, ())) != list(shape))
    if strange:
        raise AssetError(
            f"{misfit}: {len(strange)} of its {len(found)} weights have no counterpart, {strange[0]} first"
        )


def check_adapter_files(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder that lacks an adapter's files, holds them pickled only, or cut off."""
    if missing := [name for name in names if not (folder / name).is_file()]:
        pickled = sorted(p.name for p in folder.glob("*.bin"))
        why = f"only pickled weights ({pickled[0]}), which can run code when read" if pickled else "no " + missing[0]
        raise AssetError(f"{folder} holds no adapter that slmkit reads: {why}; give a folder with {listed(names)}")
    for name in names:
        if name.endswith(".safetensors"):
            assets.check_safetensors(folder / name)


def template_sha256(tokenizer: Any) -> str | None:
    """SHA-256 of a tokenizer's chat template; None where it has none."""
    template = tokenizer.chat_template
    if not template:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _short(sha256: str | None) -> str:
    return f"sha256 {sha256[:12]}" if sha256 else "none"
