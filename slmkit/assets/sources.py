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
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from slmkit import assets, files
from slmkit.assets import hub
from slmkit.errors import AssetError
from slmkit.files import fetch, places

log = logging.getLogger(__name__)
RECORD = "slmkit-fetched.json"


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


def path(file: DataFile, name: str) -> Path:
    """A file on this disk, its hash checked.

    Raises
    ------
    AssetError
        Nowhere here (with how to get it), or another file under its name.
    """
    for _, root in _roots():
        if (found := root / file.path).is_file():
            entry = _record(root).get(file.path, {})
            _check(found, file.sha256 or entry.get("sha256"), entry)
            return found
    raise _nowhere(name, [file.path])


def hub_paths(data: HubData) -> dict[str, list[Path]]:
    """Files of each part, sorted, checked against what the first fetch wrote down, if it was fetched.

    All parts come from one folder: from the mirror, or where it lacks some from the cache.
    """
    lacking = []
    for _, root in _roots():
        lacking.append(_lacking(data, root))
        if not lacking[-1]:
            return _hub_in(data, root)
    raise _nowhere(data.name, min(lacking, key=len))


def where(data: DataFile | HubData) -> str | None:
    """What holds the files: "mirror", "cache" or None; looks at names only."""
    for kind, root in _roots():
        with suppress(AssetError):
            if (root / data.path).is_file() if isinstance(data, DataFile) else not _lacking(data, root):
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
    SlmkitError
        The disk is full or cannot be written, a stop, or another process at work on the same file.
    """
    root = to or data_dir()
    more: dict[str, Any] = {"progress": progress, "cancel": cancel, "policy": policy}
    with files.on_disk(root):
        if isinstance(data, DataFile):
            return [_obtain_file(data, name, root, more)]
        return _obtain_hub(data, name, root, more)


def _obtain_file(file: DataFile, name: str, root: Path, more: dict[str, Any]) -> Path:
    target, entry = root / file.path, _record(root).get(file.path, {})
    sha256 = file.sha256 or entry.get("sha256")
    if target.is_file() and (here := assets.sha256_of(target)) == (sha256 or here):
        if "sha256" not in entry:  # put there by hand
            _write_down(root, {file.path: {"sha256": here, "url": None}})
        return target
    for _, other in _roots():
        if other != root and (other / file.path).is_file():
            known = sha256 or _record(other).get(file.path, {}).get("sha256")
            _write_down(root, {file.path: {**_copy(other / file.path, target, known), "url": file.url}})
            return target
    if file.url is None:
        raise AssetError(f"{name} cannot be fetched: no address of {file.path} is known. Give a copy by SLMKIT_ASSETS")
    _refuse_offline(name)
    if file.member is None:
        got = fetch.download(file.url, target, sha256=sha256, **more)
    else:
        archive = target.with_name(f"{target.name}.zip")
        fetch.download(file.url, archive, **more)
        try:
            got = _extract(archive, file.member, target, sha256)
        finally:
            archive.unlink()
    _write_down(root, {file.path: {**got, "url": file.url}})
    return target


def _obtain_hub(data: HubData, name: str, root: Path, more: dict[str, Any]) -> list[Path]:
    entry = _record(root).get(data.name, {})
    if not _lacking(data, root) and data.revision in ("main", entry.get("revision")):
        with suppress(AssetError):  # an altered file is fetched again
            return sorted(one for paths in _hub_in(data, root).values() for one in paths)
    for _, other in _roots():
        if other != root and not _lacking(data, other):
            return _copy_hub(data, other, root)
    _refuse_offline(name)
    from huggingface_hub import get_token, hf_hub_url

    pinned = data.revision if data.revision != "main" else entry.get("revision", "main")
    revision, listed = _listing(data, pinned, more)
    known = _record(root) if revision == entry.get("revision") else {}
    paths = [f"{data.name}/{filename}" for filename, *_ in listed]
    outdated: dict[str, Any] = {one: {} for one in paths} if revision != entry.get("revision") else {}
    _write_down(root, outdated | {data.name: {"hub_id": data.hub_id, "revision": revision, "files": paths}})
    for relative, (filename, n_bytes, sha256) in zip(paths, listed, strict=True):
        target, wanted = root / relative, _pin(data, relative, known) or sha256
        url = hf_hub_url(data.hub_id, filename, repo_type="dataset", revision=revision)
        if wanted and target.is_file() and assets.sha256_of(target) == wanted:
            got: dict[str, Any] = {"sha256": wanted}
        else:
            got = fetch.download(url, target, sha256=wanted, n_bytes=n_bytes, token=get_token() or None, **more)
        _write_down(root, {relative: {**got, "url": url}})
    return [root / relative for relative in paths]


def _copy_hub(data: HubData, source: Path, root: Path) -> list[Path]:
    record = _record(source)
    found = [one for paths in _hub_in(data, source).values() for one in paths]
    paths = sorted(one.relative_to(source).as_posix() for one in found)
    revision = record.get(data.name, {}).get("revision", data.revision)
    _write_down(root, {data.name: {"hub_id": data.hub_id, "revision": revision, "files": paths}})
    for relative in paths:
        got = _copy(source / relative, root / relative, _pin(data, relative, record))
        _write_down(root, {relative: {**got, "url": record.get(relative, {}).get("url")}})
    return [root / relative for relative in paths]


def _listing(
    data: HubData, revision: str, more: dict[str, Any]
) -> tuple[str, list[tuple[str, int | None, str | None]]]:
    """The commit, and name, size and SHA-256 (where the hub gives one) of every file wanted."""
    from huggingface_hub import HfApi

    policy, cancel = more["policy"] or fetch.Policy(), more["cancel"] or threading.Event()
    for failures in range(1, policy.tries + 1):
        try:
            info = HfApi().dataset_info(data.hub_id, revision=revision, files_metadata=True, timeout=policy.stall_s)
            break
        except Exception as error:
            if failures == policy.tries or cancel.is_set() or not _passing(error):
                raise AssetError(
                    f"cannot ask the hub for {data.hub_id!r} ({type(error).__name__}): go online once, accept its "
                    "terms there if it has any and log in with `hf auth login`, or give a copy by SLMKIT_ASSETS"
                ) from error
            cancel.wait(min(policy.back_off_s * 2 ** (failures - 1), fetch.LONGEST_WAIT_S))
    listed = []
    for part, pattern in data.parts.items():
        found = [s for s in info.siblings or [] if _fits(s.rfilename, pattern)]
        if not found:
            raise AssetError(f"{data.hub_id} at {info.sha} has no file {pattern!r} for its part {part!r}")
        listed += [(s.rfilename, s.size, s.lfs.sha256 if s.lfs else None) for s in found]
    return str(info.sha), sorted(set(listed), key=lambda one: one[0])


def _passing(error: Exception) -> bool:
    """Whether asking the hub again may help: no connection, or a busy server."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return status in (408, 425, 429) or status >= 500 or type(error).__module__.startswith("httpx")


def _fits(filename: str, pattern: str) -> bool:
    """Whether a file of a repository is meant: `*` stops at a slash, as it does on the disk, and nothing leads out."""
    same_depth = filename.count("/") == pattern.count("/") and "\\" not in filename
    return same_depth and ".." not in filename.split("/") and fnmatchcase(filename, pattern)


def _roots() -> list[tuple[str, Path]]:
    mirror = places.mirror()
    return [*([("mirror", mirror)] if mirror else []), ("cache", data_dir())]


def _matching(root: Path, pattern: str) -> list[Path]:
    found = sorted(p for p in root.glob(pattern) if p.is_file())
    return [p for p in found if not p.name.endswith((".part", ".part.json"))]


def _lacking(data: HubData, root: Path) -> list[str]:
    """What a folder lacks of a data set: patterns without a file, files that a fetch began and did not bring."""
    patterns = [f"{data.name}/{pattern}" for pattern in data.parts.values()]
    record = _record(root)
    entry = record.get(data.name, {})
    if data.revision not in ("main", entry.get("revision", data.revision)):
        return patterns  # of another commit
    begun = entry.get("files", [])
    missing = [p for p in patterns if not _matching(root, p)]
    missing += [p for p in begun if not ("sha256" in record.get(p, {}) and (root / p).is_file())]
    return list(dict.fromkeys(missing))


def _hub_in(data: HubData, root: Path) -> dict[str, list[Path]]:
    record, found = _record(root), {}
    for part, pattern in data.parts.items():
        found[part] = _matching(root, f"{data.name}/{pattern}")
        for one in found[part]:
            relative = one.relative_to(root).as_posix()
            _check(one, _pin(data, relative, record), record.get(relative, {}))
    return found


def _pin(data: HubData, relative: str, record: dict[str, Any]) -> str | None:
    return data.sha256.get(relative.removeprefix(f"{data.name}/")) or record.get(relative, {}).get("sha256")


def _nowhere(name: str, lacking: list[str]) -> AssetError:
    looked = " and ".join(str(root) for _, root in _roots())
    return AssetError(
        f"{name} is not on this disk: no {', '.join(lacking)} under {looked}. Get it with: slmkit data fetch {name}, "
        "or set SLMKIT_ASSETS to a folder that holds it"
    )


def _check(found: Path, sha256: str | None, entry: dict[str, Any]) -> None:
    stamp = {"bytes": found.stat().st_size, "mtime_ns": found.stat().st_mtime_ns}
    if sha256 is None or (entry.get("sha256") == sha256 and {k: entry.get(k) for k in stamp} == stamp):
        return
    got = assets.sha256_of(found)
    if got != sha256:
        raise AssetError(f"{found} is another file than slmkit knows: SHA-256 must be {sha256}; got {got}")


def _copy(source: Path, target: Path, sha256: str | None) -> dict[str, Any]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.aside(target) as aside:
        shutil.copyfile(source, aside)
        got = assets.sha256_of(aside)
        if sha256 not in (None, got):
            raise AssetError(f"{source} is another file than slmkit knows: SHA-256 must be {sha256}; got {got}")
    return {"sha256": got}


def _extract(archive: Path, member: str, target: Path, sha256: str | None) -> dict[str, Any]:
    """One member of an archive to one file: its name is ours, so that no name inside the archive decides a path."""
    try:
        with zipfile.ZipFile(archive) as opened, files.aside(target) as aside:
            with opened.open(member) as source, open(aside, "wb") as out:
                shutil.copyfileobj(source, out)
            got = assets.sha256_of(aside)
            if sha256 is not None and got != sha256:
                raise AssetError(f"{member} in {archive} is another file: SHA-256 must be {sha256}; got {got}")
    except (zipfile.BadZipFile, KeyError, EOFError, RuntimeError, zlib.error) as error:  # RuntimeError: encrypted
        raise AssetError(f"{archive} is not the archive expected, with {member} in it: {error}") from error
    return {"sha256": got, "bytes": target.stat().st_size}


def _record(root: Path) -> dict[str, Any]:
    try:
        known = json.loads((root / RECORD).read_text(encoding="utf-8"))
        if not (isinstance(known, dict) and all(isinstance(entry, dict) for entry in known.values())):
            raise ValueError("it must hold a JSON object of objects")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise AssetError(
            f"{root / RECORD}, which says what was fetched, cannot be read: {error}. Delete it to trust the files as "
            "they are"
        ) from error
    return known


def _write_down(root: Path, entries: dict[str, dict[str, Any]]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for relative, entry in entries.items():
        place = root / relative
        stamp = {"bytes": place.stat().st_size, "mtime_ns": place.stat().st_mtime_ns} if place.is_file() else {}
        entries[relative] = {**entry, **stamp, "fetched_utc": now}
    root.mkdir(parents=True, exist_ok=True)
    with files.locked(root):
        files.replace(root / RECORD, json.dumps(_record(root) | entries, indent=1) + "\n")


def _refuse_offline(name: str) -> None:
    variable = hub.offline()
    if variable:
        raise AssetError(
            f"{name} is not on this disk and fetching is off ({variable}={os.environ[variable]}). Unset it, or set "
            "SLMKIT_ASSETS to a folder that holds the files"
        )
