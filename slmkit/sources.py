"""Where the files of a data set are: in a local mirror, fetched before, or at an address; always the same bytes.

A file is checked against its pinned SHA-256; where no source names one, the first fetch writes down what it got
(revision and hash) and everything later must match it. Files lie below `SLMKIT_ASSETS` or the cache as `path` says, so
that a folder filled by `slmkit data fetch --to` is a mirror.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from slmkit import assets, fetch, files
from slmkit.errors import AssetError

log = logging.getLogger(__name__)
RECORD = "slmkit-fetched.json"
OFFLINE = ("SLMKIT_OFFLINE", "HF_HUB_OFFLINE")
ON = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Attributes
    ----------
    path : str
        Where it lies below a mirror or the cache: "sms_spam/SMSSpamCollection".
    url : str or None
        What it is fetched from; None: only a mirror can have it.
    sha256 : str or None
        What it must be. None: the first fetch writes it down.
    member : str or None
        Its name inside the zip archive at `url`; None: the address gives the file itself.
    """

    path: str
    url: str | None = None
    sha256: str | None = None
    member: str | None = None


@dataclass(frozen=True)
class HubData:
    """A data set of the hub.

    Attributes
    ----------
    name : str
        Folder below a mirror or the cache.
    hub_id : str
        "owner/name".
    parts : dict of str to str
        Part ("train", "validation", "test") to the pattern of its files in the repository: "data/train-*".
    revision : str
        A commit that a source shows, or "main": resolved at the first fetch, written down, reused from then on.
    sha256 : dict of str to str
        Hash by file name, where a source shows it for that revision.
    """

    name: str
    hub_id: str
    parts: dict[str, str]
    revision: str = "main"
    sha256: dict[str, str] = field(default_factory=dict)


def data_dir() -> Path:
    """Where fetched data sets lie: `data` in the cache folder."""
    return assets.cache_dir() / "data"


def offline() -> str | None:
    """The variable that forbids fetching, or None."""
    return next((name for name in OFFLINE if os.environ.get(name, "").lower() in ON), None)


def path(file: DataFile, name: str) -> Path:
    """A file on this disk, its hash checked.

    Raises
    ------
    AssetError
        Nowhere here (with how to get it), or another file under its name.
    """
    root, found = _located([file.path], name)
    record = _record(root)
    known = file.sha256 or record.get(file.path, {}).get("sha256")
    _check(found[0], known, record.get(file.path, {}))
    return found[0]


def hub_paths(data: HubData) -> dict[str, list[Path]]:
    """Files of each part on this disk, sorted, checked against what the first fetch wrote down, if it was fetched."""
    found: dict[str, list[Path]] = {}
    for part, pattern in data.parts.items():
        root, paths = _located([f"{data.name}/{pattern}"], data.name)
        record = _record(root)
        for one in paths:
            relative = one.relative_to(root).as_posix()
            entry = record.get(relative, {})
            _check(one, data.sha256.get(relative.removeprefix(f"{data.name}/")) or entry.get("sha256"), entry)
        found[part] = paths
    return found


def where(data: DataFile | HubData) -> str | None:
    """What holds the files: "mirror", "cache" or None; looks at names only."""
    wanted = [data.path] if isinstance(data, DataFile) else [f"{data.name}/{p}" for p in data.parts.values()]
    for kind, root in _roots():
        if all(_matching(root, one) for one in wanted):
            return kind
    return None


def obtain(
    data: DataFile | HubData,
    name: str,
    to: Path | None = None,
    *,
    progress: fetch.Progress | None = None,
    cancel: threading.Event | None = None,
    policy: fetch.Policy | None = None,
) -> list[Path]:
    """Fetch what is missing of a data set.

    Parameters
    ----------
    data : DataFile or HubData
    name : str
        What the person calls it.
    to : Path or None
        A folder to fill as a mirror; None takes the cache.
    progress, cancel, policy
        As `fetch.download` takes them.

    Returns
    -------
    list of Path
        The files, whole and checked; those that were there already among them.

    Raises
    ------
    AssetError
        Fetching is forbidden here, impossible, or brings other bytes than before.
    """
    root = to or data_dir()
    more: dict[str, Any] = {"progress": progress, "cancel": cancel, "policy": policy}
    if isinstance(data, DataFile):
        return [_obtain_file(data, name, root, more)]
    return _obtain_hub(data, name, root, more)


def _obtain_file(file: DataFile, name: str, root: Path, more: dict[str, Any]) -> Path:
    target, entry = root / file.path, _record(root).get(file.path, {})
    sha256 = file.sha256 or entry.get("sha256")
    if target.is_file() and (sha256 is None or assets.sha256_of(target) == sha256):
        return target
    here = _roots()[0][1] / file.path
    if here != target and here.is_file():
        return _copy(here, target, sha256)
    if file.url is None:
        raise AssetError(f"{name} cannot be fetched: no address of {file.path} is known. Give a copy by SLMKIT_ASSETS")
    _refuse_offline(name)
    if file.member is None:
        got = fetch.download(file.url, target, sha256=sha256, **more)
    else:
        archive = target.with_name(f"{target.name}.zip")
        fetch.download(file.url, archive, **more)
        got = _extract(archive, file.member, target, sha256)
        archive.unlink()
    _write_down(root, {file.path: {**got, "url": file.url}})
    return target


def _obtain_hub(data: HubData, name: str, root: Path, more: dict[str, Any]) -> list[Path]:
    entry = _record(root).get(data.name, {})
    if entry and all((root / p).is_file() for p in entry["files"]):
        return [root / p for p in entry["files"]]
    _refuse_offline(name)
    revision, listed = _listing(data, entry.get("revision") or data.revision)
    done = []
    for filename, n_bytes, sha256 in listed:
        relative = f"{data.name}/{filename}"
        known = data.sha256.get(filename) or _record(root).get(relative, {}).get("sha256") or sha256
        target = root / relative
        if not (target.is_file() and known and assets.sha256_of(target) == known):
            from huggingface_hub import get_token, hf_hub_url

            url = hf_hub_url(data.hub_id, filename, repo_type="dataset", revision=revision)
            got = fetch.download(url, target, sha256=known, n_bytes=n_bytes, token=get_token() or None, **more)
            _write_down(root, {relative: {**got, "url": url}})
        done.append(relative)
    _write_down(root, {data.name: {"hub_id": data.hub_id, "revision": revision, "files": done}})
    return [root / p for p in done]


def _listing(data: HubData, revision: str) -> tuple[str, list[tuple[str, int | None, str | None]]]:
    """The commit, and name, size and SHA-256 (where the hub gives one) of every file wanted."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(data.hub_id, revision=revision, files_metadata=True, timeout=30)
    except Exception as error:
        raise AssetError(
            f"cannot ask the hub for {data.hub_id!r} ({type(error).__name__}): go online once, accept its terms there "
            "if it has any, or give a copy by SLMKIT_ASSETS"
        ) from error
    listed = []
    for part, pattern in data.parts.items():
        found = [s for s in info.siblings or [] if fnmatchcase(s.rfilename, pattern)]
        if not found:
            raise AssetError(f"{data.hub_id} at {info.sha} has no file {pattern!r} for its part {part!r}")
        listed += [(s.rfilename, s.size, s.lfs.sha256 if s.lfs else None) for s in found]
    return str(info.sha), sorted(listed)


def _roots() -> list[tuple[str, Path]]:
    mirror = assets.mirror()
    return [*([("mirror", mirror)] if mirror else []), ("cache", data_dir())]


def _matching(root: Path, pattern: str) -> list[Path]:
    found = sorted(p for p in root.glob(pattern) if p.is_file())
    return [p for p in found if not p.name.endswith((".part", ".part.json"))]


def _located(patterns: list[str], name: str) -> tuple[Path, list[Path]]:
    for _, root in _roots():
        found = [p for pattern in patterns for p in _matching(root, pattern)]
        if found:
            return root, found
    looked = " and ".join(str(root) for _, root in _roots())
    raise AssetError(
        f"{name} is not on this disk: no {', '.join(patterns)} under {looked}. Get it with: slmkit data fetch {name}, "
        "or set SLMKIT_ASSETS to a folder that holds it"
    )


def _check(found: Path, sha256: str | None, entry: dict[str, Any]) -> None:
    stamp = {"bytes": found.stat().st_size, "mtime_ns": found.stat().st_mtime_ns}
    if sha256 is None or (entry.get("sha256") == sha256 and {k: entry.get(k) for k in stamp} == stamp):
        return
    got = assets.sha256_of(found)
    if got != sha256:
        raise AssetError(f"{found} is another file than slmkit knows: SHA-256 must be {sha256}; got {got}")


def _copy(source: Path, target: Path, sha256: str | None) -> Path:
    _check(source, sha256, {})
    target.parent.mkdir(parents=True, exist_ok=True)
    with _aside(target) as aside:
        shutil.copyfile(source, aside)
    return target


def _extract(archive: Path, member: str, target: Path, sha256: str | None) -> dict[str, Any]:
    """One member of an archive to one file: its name is ours, so that no name inside the archive decides a path."""
    try:
        with zipfile.ZipFile(archive) as opened, _aside(target) as aside:
            with opened.open(member) as source, open(aside, "wb") as out:
                shutil.copyfileobj(source, out)
            got = assets.sha256_of(aside)
            if sha256 is not None and got != sha256:
                raise AssetError(f"{member} in {archive} is another file: SHA-256 must be {sha256}; got {got}")
    except (zipfile.BadZipFile, KeyError) as error:
        archive.unlink()
        raise AssetError(f"{archive} is not the archive expected, with {member} in it: {error}") from error
    return {"sha256": got, "bytes": target.stat().st_size}


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A name to write to, which becomes `target` when all went well."""
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield aside
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def _record(root: Path) -> dict[str, Any]:
    try:
        known = json.loads((root / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise AssetError(f"{root / RECORD}, which says what was fetched, cannot be read: {error}") from error
    return dict(known)


def _write_down(root: Path, entries: dict[str, dict[str, Any]]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for relative, entry in entries.items():
        place = root / relative
        stamp = {"bytes": place.stat().st_size, "mtime_ns": place.stat().st_mtime_ns} if place.is_file() else {}
        entries[relative] = {**entry, **stamp, "fetched_utc": now}
    files.replace(root / RECORD, json.dumps(_record(root) | entries, indent=1) + "\n")


def _refuse_offline(name: str) -> None:
    variable = offline()
    if variable:
        raise AssetError(
            f"{name} is not on this disk and fetching is off ({variable}={os.environ[variable]}). Unset it, or set "
            "SLMKIT_ASSETS to a folder that holds the files"
        )
