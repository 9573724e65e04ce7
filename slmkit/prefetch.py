"""Fills a folder with all that a class needs in a room without internet; `SLMKIT_ASSETS` names it on each machine.

The packaged models, the shipped corpora, the data sets that were fetched and accepted here, the licences of all of
them, and a manifest with the SHA-256 of every file. A call goes on where the last one stopped, and mends damage.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmkit import assets, catalog, files, tasks
from slmkit.assets import licences, prefetched, sources
from slmkit.errors import AssetError, InputError, SlmkitError
from slmkit.files import fetch, pieces
from slmkit.tasks import Task

log = logging.getLogger(__name__)
SHIPPED, LICENCES = "shipped", "LICENCES.md"
LICENCE_FOLDER = "licences"  # is locked too: the other folders are, one by one, while a file is written there
SHIPPED_KINDS = (".csv", ".jsonl", ".md", ".txt")
LICENCE_FILE = re.compile(r"licen[cs]e|notice|copying|terms", flags=re.IGNORECASE)
PACKAGE_LEFTOVERS = ("__pycache__", ".gitattributes")
NOT_ACCEPTED = "terms that are not accepted here (slmkit models NAME and slmkit data show NAME print them)"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Item:
    """Files that belong together.

    Attributes
    ----------
    name : str
        "model minilm", "shipped corpora".
    licence, source : str
        As LICENCES.md lists them.
    copies : dict of str to Path
        Path below the folder to the file that is copied there.
    sha256 : dict of str to str
        What a copy must be, where it is known beforehand.
    parts : dict of str to sequence of Path
        Path below the folder to the parts it is put together from.
    """

    name: str
    licence: str
    source: str
    copies: dict[str, Path]
    sha256: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Sequence[Path]] = field(default_factory=dict)


def fill(folder: Path, data: Sequence[str] | None = None, say: Say = log.info, **fetching: Any) -> list[str]:
    """Bring a folder up to date.

    Parameters
    ----------
    folder : Path
        Made if missing. Files that are there as the manifest says are left alone.
    data : sequence of str or None
        Data sets to take, fetched if they are not here; None takes those that are on this disk or in the folder and
        whose terms, if they have any, were accepted.
    say : callable
        Gets a line for each item.
    **fetching
        progress, cancel, policy, as `assets.sources.obtain` takes them.

    Returns
    -------
    list of str
        What was left out, by the reason.

    Raises
    ------
    InputError
        The folder is a file, another process fills it, an unknown data set, or terms that were not accepted.
    AssetError
        An installed model is damaged, or a set cannot be fetched.
    SlmkitError
        The disk is full or refuses.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"the folder to fill must be a folder; {folder} is a file")
    _forget_damaged_manifest(folder, say)
    left_out: dict[str, list[str]] = {}
    items = _items(left_out)
    chosen = _data_sets(data, _held(folder), left_out)
    with files.on_disk(folder, "What was copied is kept; the same command goes on"):
        (folder / LICENCE_FOLDER).mkdir(parents=True, exist_ok=True)
        with files.locked(folder / LICENCE_FOLDER, f"another slmkit prefetch fills {folder}: wait for it"):
            _refuse_full_disk(folder, items)
            for item in items:
                _bring(folder, item, say)
            for task in chosen:
                _bring_data(folder, task, say, fetching)
            _write_licences(folder, items)
    return [f"{', '.join(names)}: {reason}" for reason, names in left_out.items()]


def _items(left_out: dict[str, list[str]]) -> list[Item]:
    """Models that are here, and the shipped corpora; adds what is not here to what is left out."""
    found = [_shipped()]
    for entry in catalog.MODELS.values():
        if entry.package is None:
            continue
        if not assets.weight_files(entry):
            left_out.setdefault("not installed (slmkit models --install NAME)", []).append(f"model {entry.name}")
        elif entry.terms and not licences.accepted(entry.name, entry.licence):
            left_out.setdefault(NOT_ACCEPTED, []).append(f"model {entry.name}")
        else:
            found.append(_model(entry))
    return found


def _model(entry: catalog.ModelEntry) -> Item:
    weights, base = assets.weight_files(entry), f"{prefetched.MODELS}/{entry.package_file}"
    item = Item(f"model {entry.name}", entry.licence, entry.package or "", _licence_files(entry))
    path = assets.packaged(entry)
    if path is not None and path.is_dir():
        below = [p for p in sorted(path.rglob("*")) if p.is_file() and not set(p.parts) & set(PACKAGE_LEFTOVERS)]
        item.copies.update({f"{base}/{p.relative_to(path).as_posix()}": p for p in below})
        item.sha256[f"{base}/model.safetensors"] = entry.sha256 or ""
    else:
        item.parts[base] = weights
        item.sha256[base] = entry.sha256 or ""
    return item


def _licence_files(entry: catalog.ModelEntry) -> dict[str, Path]:
    """Licences and terms that the model's package carries."""
    with suppress(importlib.metadata.PackageNotFoundError):
        distribution = importlib.metadata.distribution((entry.package or "").split("==")[0])
        named = [file for file in distribution.files or [] if LICENCE_FILE.search(file.name)]
        paths = [Path(str(distribution.locate_file(file))) for file in named if file.suffix not in (".py", ".pyc")]
        return {f"{LICENCE_FOLDER}/{entry.name}/{path.name}": path for path in paths if path.is_file()}
    return {}


def _shipped() -> Item:
    root = importlib.import_module("slmkit_data").path(".")
    copies = {f"{SHIPPED}/{p.name}": p for p in sorted(root.iterdir()) if p.suffix in SHIPPED_KINDS}
    return Item("shipped corpora", "CC BY 4.0", "written for slmkit; a card beside each", copies)


def _data_sets(asked: Sequence[str] | None, held: set[str], left_out: dict[str, list[str]]) -> list[Task]:
    """The sets to take; adds those that are not here or not accepted to what is left out.

    Raises `LicenceNotAccepted` for one that was asked for by name.
    """
    if asked is not None:
        named = [tasks.named(name) for name in asked]
        for task in named:
            if task.terms:
                licences.require(task.gate or task.name, task.licence, task.terms)
        return [task for task in named if task.data is not None]
    chosen = []
    for task in map(tasks.named, tasks.names()):
        if task.data is None:
            continue
        if not (task.on_disk or f"data {task.name}" in held):
            left_out.setdefault("not on this disk (slmkit data fetch NAME)", []).append(f"data {task.name}")
        elif task.terms and not licences.accepted(task.gate or task.name, task.licence):
            left_out.setdefault(NOT_ACCEPTED, []).append(f"data {task.name}")
        else:
            chosen.append(task)
    return chosen


def _forget_damaged_manifest(folder: Path, say: Say) -> None:
    try:
        prefetched.manifest(folder)
    except AssetError:
        (folder / prefetched.MANIFEST).unlink()
        say(f"{prefetched.MANIFEST} is damaged: every file is compared anew")


def _held(folder: Path) -> set[str]:
    """What the manifest says the folder holds: "model minilm", "data sms_spam"."""
    return {str(entry.get("of")) for entry in prefetched.manifest(folder).values()}


def _refuse_full_disk(folder: Path, items: Sequence[Item]) -> None:
    known = prefetched.manifest(folder)
    sizes = {name: path.stat().st_size for item in items for name, path in item.copies.items()}
    sizes |= {name: sum(p.stat().st_size for p in parts) for item in items for name, parts in item.parts.items()}
    needed = sum(size for name, size in sizes.items() if name not in known)
    free = shutil.disk_usage(folder).free
    if needed > max(free - fetch.SPARE_BYTES, 0):
        raise SlmkitError(f"{folder} needs {needed / 1e6:.0f} MB more, and {free / 1e6:.0f} MB of the disk are free")


def _bring(folder: Path, item: Item, say: Say) -> None:
    known, brought = prefetched.manifest(folder), 0
    for name in (*item.copies, *item.parts):
        problem = files.change(folder / name, known[name]) if name in known else "new"
        if problem is None:
            continue
        if problem != "new":
            say(f"{item.name}: {problem}; brought again")
        brought += _copy(folder / name, item, name)
        known[name] = files.facts(folder / name) | {"of": item.name}
        _write_manifest(folder, {name: known[name]})
    size = sum(known[name]["bytes"] for name in (*item.copies, *item.parts)) / 1e6
    say(f"{item.name}: {size:.1f} MB, {f'{brought / 1e6:.1f} MB brought' if brought else 'there already'}")


def _copy(target: Path, item: Item, name: str) -> int:
    """Copy or put together one file, checked; its bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    parts = item.parts.get(name) or [item.copies[name]]
    pieces.join(parts, target, item.sha256.get(name) or pieces.digest(parts))
    return target.stat().st_size


def _bring_data(folder: Path, task: Task, say: Say, fetching: dict[str, Any]) -> None:
    assert task.data is not None
    known = prefetched.manifest(folder)
    paths = sources.obtain(task.data, task.name, folder, **fetching)
    names = [path.relative_to(folder).as_posix() for path in paths]
    new = [name for name in names if name not in known or files.change(folder / name, known[name])]
    _write_manifest(folder, {name: files.facts(folder / name) | {"of": f"data {task.name}"} for name in new})
    size = sum(path.stat().st_size for path in paths) / 1e6
    say(f"data {task.name}: {size:.1f} MB, {'brought' if new else 'there already'}")


def _write_manifest(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    if entries:
        document = {"files": prefetched.manifest(folder) | entries}
        files.replace(folder / prefetched.MANIFEST, json.dumps(document, indent=1) + "\n")


def _write_licences(folder: Path, items: Sequence[Item]) -> None:
    held = [task for task in map(tasks.named, tasks.names()) if f"data {task.name}" in _held(folder)]
    rows = [(item.name, item.licence, item.source) for item in items]
    rows += [(f"data {task.name}", task.licence, f"{task.source} {task.terms}".strip()) for task in held]
    lines = ["# What this folder holds, and under which licence", "", "| what | licence | source and terms |"]
    lines += ["|---|---|---|", *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)]
    lines += [
        "",
        "Terms that have to be accepted are accepted on each machine anew: `slmkit data fetch NAME` shows them.",
    ]
    document = "\n".join(lines) + "\n"
    path = folder / LICENCES
    if not path.is_file() or path.read_text(encoding="utf-8") != document:
        files.replace(path, document)


def check(folder: Path) -> int:
    """The number of files that are there as the manifest says; `AssetError` names those that are not."""
    known = prefetched.manifest(folder)
    if not known:
        raise AssetError(f"{folder} has no {prefetched.MANIFEST}: fill it with slmkit prefetch {folder}")
    if problems := prefetched.damaged(folder):
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise AssetError(
            f"{folder}: {'; '.join(problems[:5])}{more}. Mend it with slmkit prefetch {folder}, or copy it anew"
        )
    return len(known)
