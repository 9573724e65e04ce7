"""Models of the hub: only the files a model needs, at one commit, checked against what the hub lists.

huggingface_hub fetches and keeps them in its own cache, which other programs share. Pickled weights and code are never
fetched. What came is written down with its SHA-256, so that a file altered later is noticed; a damaged one is fetched
again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmkit import files
from slmkit.errors import AssetError, InputError, listed

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read by huggingface_hub when it is imported
log = logging.getLogger(__name__)
OFFLINE = ("SLMKIT_OFFLINE", "HF_HUB_OFFLINE")
ON = ("1", "true", "yes", "on")
SETTINGS = (".json", ".model", ".txt", ".jinja", ".tiktoken")  # endings of config, tokenizer and index
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack")
INDEX = "model.safetensors.index.json"
ELSEWHERE = "or give the path of a local copy"


@dataclass(frozen=True)
class Listed:
    """One file of a repository: its size, its SHA-256 where it is a large one, and the id git gives its content."""

    n_bytes: int | None
    sha256: str | None
    blob: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit, and its files by name."""

    hub_id: str
    commit: str
    files: Mapping[str, Listed]


def offline() -> str | None:
    """The variable that forbids fetching, or None."""
    return next((name for name in OFFLINE if os.environ.get(name, "").lower() in ON), None)


def find(hub_id: str, revision: str) -> Path | None:
    """The folder of a commit, or of what "main" was when it was fetched, on this disk; it may lack files.

    Raises `InputError` for a name that is no hub id.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    except HFValidationError as error:
        raise InputError(f"{hub_id!r} is not a hub id (owner/name)") from error
    return Path(found).parent if isinstance(found, str) else None


def problem_with(hub_id: str, folder: Path, records: Path) -> str | None:
    """What is wrong with a snapshot's files compared with what was written down when they came, or None."""
    try:
        written = json.loads(_record(hub_id, folder.name, records).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return None  # fetched by another program
    problem = next(filter(None, (files.change(folder / name, known) for name, known in written.items())), None)
    return problem and f"{folder}: {problem}"


def obtain(
    hub_id: str, revision: str, records: Path, accept: Callable[[Path], object], problem: str | None = None
) -> Path:
    """Fetch what a model needs, or what is missing or damaged of it.

    Parameters
    ----------
    hub_id, revision : str
        A commit, or "main", which is resolved now.
    records : Path
        Folder in which sizes and hashes are written down.
    accept : callable
        Gets the folder with config and tokenizer before the weights come; raises for a model that is not wanted.
    problem : str or None
        What is wrong with the copy on this disk, for the message when nothing may be fetched.

    Returns
    -------
    Path
        The snapshot's folder, named as the commit.

    Raises
    ------
    AssetError
        Fetching is off, no permission, no such repository or revision, no connection, weights that are only pickled,
        a shard that is not there, or other bytes than the hub lists; each with what to do.
    """
    _refuse_offline(hub_id, problem)
    if problem:
        log.warning("%s. It is fetched again.", problem)
    repository = _describe(hub_id, revision)
    settings = _settings_files(repository)
    folder = _fetch(repository, settings)
    accept(folder)
    names = [*settings, *_weight_files(repository, folder)]
    _fetch(repository, names)
    written = {name: _checked(repository, folder, name) for name in names}
    path = _record(hub_id, repository.commit, records)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, json.dumps({"files": written}, indent=1) + "\n")
    return folder


def _record(hub_id: str, commit: str, records: Path) -> Path:
    return records / f"{hub_id.replace('/', '--')}@{commit}.json"


def _refuse_offline(hub_id: str, problem: str | None) -> None:
    variable = offline()
    if variable:
        what = f"{problem}; {hub_id!r} cannot be fetched again" if problem else f"cannot fetch {hub_id!r}"
        raise AssetError(
            f"{what} (fetching is off: {variable}={os.environ[variable]}): unset it and go online once, {ELSEWHERE}"
        )


def _describe(hub_id: str, revision: str) -> Repository:
    from huggingface_hub import HfApi

    info = _asking(hub_id, revision, lambda: HfApi().model_info(hub_id, revision=revision, files_metadata=True))
    found = {s.rfilename: Listed(s.size, s.lfs.sha256 if s.lfs else None, s.blob_id) for s in info.siblings or []}
    return Repository(hub_id, str(info.sha), {name: one for name, one in found.items() if _is_top_level(name)})


def _is_top_level(name: str) -> bool:
    """Whether a file lies in the repository's own folder: others are for other programs (onnx, original, ...)."""
    return not ({"/", "\\", ":"} & set(name)) and name not in ("", ".", "..")


def _settings_files(repository: Repository) -> list[str]:
    if "config.json" not in repository.files:
        raise AssetError(f"{repository.hub_id} at {repository.commit} is no model to load: {_instead(repository)}")
    return sorted(name for name in repository.files if name.endswith(SETTINGS))


def _instead(repository: Repository) -> str:
    names = repository.files
    if "adapter_config.json" in names:
        return "it is an adapter; fetch it to a folder, load its base model and give that folder as adapter="
    gguf = sorted(name for name in names if name.endswith(".gguf"))
    if gguf:
        return f"it holds GGUF files; fetch one ({gguf[0]}) and give its path"
    return f"it has no config.json; it has {listed(sorted(names))}"


def _weight_files(repository: Repository, folder: Path) -> list[str]:
    """The safetensors that make up the model: one file, or the shards that the index names."""
    names, where = repository.files, f"{repository.hub_id} at {repository.commit}"
    if "model.safetensors" in names:
        return ["model.safetensors"]
    if INDEX in names:
        shards = sorted(set(_weight_map(folder / INDEX).values()))
        if missing := [shard for shard in shards if shard not in names]:
            raise AssetError(
                f"{where} lacks {', '.join(missing[:3])} ({len(missing)} of {len(shards)} shards missing), which "
                f"{INDEX} names: tell its owner, {ELSEWHERE}"
            )
        return shards
    if found := sorted(name for name in names if name.endswith(".safetensors")):
        return found
    if pickled := sorted(name for name in names if name.endswith(PICKLED)):
        raise AssetError(
            f"{where} holds only pickled weights ({pickled[0]}), which can run code when read, and nothing of it was "
            "fetched: take a repository or revision with *.safetensors, or convert it on a machine you can lose"
        )
    raise AssetError(f"{where} holds no *.safetensors: {_instead(repository)}")


def _weight_map(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(key): str(value) for key, value in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AssetError(f"{path} is no index of shards: {error!r}") from error


def _fetch(repository: Repository, names: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    hub_id, commit = repository.hub_id, repository.commit
    return Path(_asking(hub_id, commit, lambda: snapshot_download(hub_id, revision=commit, allow_patterns=list(names))))


def _checked(repository: Repository, folder: Path, name: str) -> dict[str, Any]:
    """What to write down of a file; one that is not as the hub lists it is fetched once more."""
    from huggingface_hub import hf_hub_download

    hub_id, commit = repository.hub_id, repository.commit
    path, wanted = folder / name, repository.files[name]
    if misfit := _misfit(path, wanted):
        log.warning("%s is damaged (%s); it is fetched again", path, misfit)
        _asking(hub_id, commit, lambda: hf_hub_download(hub_id, name, revision=commit, force_download=True))
        if misfit := _misfit(path, wanted):
            raise AssetError(f"{path} came as another file than {hub_id} lists: {misfit}. Try again later, {ELSEWHERE}")
    return files.facts(path)


def _misfit(path: Path, wanted: Listed) -> str | None:
    """How a file differs from what the hub lists, or None."""
    n_bytes = path.stat().st_size
    if wanted.n_bytes not in (None, n_bytes):
        return f"it must have {wanted.n_bytes:,} bytes; got {n_bytes:,}"
    if wanted.sha256:
        found, must = files.sha256_of(path), wanted.sha256
    elif wanted.blob:
        found, must = _git_blob(path), wanted.blob
    else:
        return None
    return None if found == must else f"its hash must be {must}; got {found}"


def _git_blob(path: Path) -> str:
    """The id that git gives a file's content (the SHA-1 of a header and the bytes), as the hub lists small files."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _asking(hub_id: str, revision: str, ask: Callable[[], Any]) -> Any:
    """Ask the hub; what it or the network refuses becomes one sentence with the way out."""
    try:
        return ask()
    except Exception as error:  # of huggingface_hub, of its HTTP client, of the disk
        raise AssetError(f"cannot fetch {hub_id!r}: {_advice(hub_id, revision, error)}") from error


def _advice(hub_id: str, revision: str, error: Exception) -> str:
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    page = f"{constants.ENDPOINT}/{hub_id}"
    if isinstance(error, GatedRepoError) or status == 403:
        then = "the token in use has no permission yet" if get_token() else "then log in with `hf auth login`"
        return f"it is gated ({status}). Accept the terms on the model's page, {page}; {then}"
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return (
            f"the hub shows no such model ({status}). Check the name; for a private or gated one accept the terms on "
            f"{page} and log in with `hf auth login`"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision} ({status}). Remove it from revisions.json in slmkit's cache, {ELSEWHERE}"
    if files.disk_full(error):
        return f"the disk is full; free some space or set HF_HOME to a folder on another disk. {error}"
    if status is not None:
        return f"the hub answers {status}. Try again later, {ELSEWHERE}"
    return f"{type(error).__name__}: {str(error).strip()[:200]}. Go online and try again, {ELSEWHERE}"
