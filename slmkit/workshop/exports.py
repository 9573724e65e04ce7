"""What a student hands in: the records of runs, the progress and the cards of stored models, in one zip file.

Only kinds of files that are known go in, read and written anew: so no text of a row, no absolute path and no access
token goes along, whatever lies in the folder. What is left out is named.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slmkit import __version__, files, modelcards, text
from slmkit.errors import InputError
from slmkit.runs import PROBABILITIES, Run, probability_document, read_probability_file, read_run
from slmkit.workshop import record
from slmkit.workshop.exercise import exercises

MANIFEST = "slmkit-export.json"
TOKEN = re.compile(r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{8,}|api_org_[A-Za-z0-9]{8,})")
ABSOLUTE = re.compile(r"""(?<![\w.:/\\])(?:~?/|[A-Za-z]:[\\/]|\\\\)[^\s"'<>|:,;]+[^\s"'<>|:,;.)\]]""")
WHOLE = re.compile(r"(?:~?/|[A-Za-z]:[\\/]|\\\\)[^\n]*[^\n\\/][\\/]*\Z")
SKIPPED_FOLDERS = {"models", "logs"}
MAX_FILE_BYTES, MAX_FILES = 20_000_000, 5_000
EPOCH = (1980, 1, 1, 0, 0, 0)
KEPT: dict[str, type] = {"tries": int, "passed": bool, "passed_utc": str, "solution_shown": bool}  # of the progress


@dataclass(frozen=True)
class Exported:
    """What an export holds.

    Attributes
    ----------
    path : Path
    n_runs, n_probabilities, n_cards : int
    has_progress : bool
    left_out : tuple of str
        Files that look like records or cards and are none, or are too large; names only.
    """

    path: Path
    n_runs: int
    n_probabilities: int
    n_cards: int
    has_progress: bool
    left_out: tuple[str, ...]


def export(folder: str | Path = ".", out: str | Path = "results.zip") -> Exported:
    """Write a student's results to one file.

    Parameters
    ----------
    folder : path
        Where the notebooks ran: `runs`, `quantised` and the progress lie in it.
    out : path
        The zip file; an export that lies there is replaced, anything else is not. It appears when it is complete.

    Returns
    -------
    Exported

    Raises
    ------
    InputError
        No such folder, nothing to export in it, or `out` is another file or does not end in .zip.
    SlmkitError
        The disk is full or refuses.
    """
    root, target = Path(folder), Path(out)
    _check_target(root, target)
    members, left_out = _members(root)
    if not any(name.startswith("runs/") for name in members) and "progress.json" not in members:
        more = f"; left out as no records: {', '.join(left_out[:3])}" if left_out else ""
        raise InputError(
            f"nothing to export in {text.clean(root.absolute())}: no record of a run and no {record.FILE}. Run a "
            f"notebook first, or name the folder it ran in{more}"
        )
    found = Exported(
        target,
        n_runs=sum(name.startswith("runs/") and name.endswith(".json") for name in members),
        n_probabilities=sum(name.endswith(PROBABILITIES) for name in members),
        n_cards=sum(name.startswith("cards/") for name in members),
        has_progress="progress.json" in members,
        left_out=tuple(left_out),
    )
    about = {"slmkit_version": __version__, "files": sorted(members)}
    with files.on_disk(target), files.aside(target) as part:
        _write(part, {MANIFEST: json.dumps(about, indent=1), **members})
    return found


def redacted(value: Any) -> Any:
    """A JSON value with access tokens taken out and absolute paths cut to their last part, in keys as well."""
    if isinstance(value, str):
        return _without_paths(TOKEN.sub("hf_[redacted]", value))
    if isinstance(value, dict):
        return {redacted(str(key)): redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


def _without_paths(value: str) -> str:
    """The text with `[...]` for all of an absolute path but its last part; a path with spaces counts if it is all there
    is, or begins in this person's home folder."""
    if WHOLE.match(value):
        return "[...]/" + re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    value = value.replace(str(Path.home()), "/[home]")
    return ABSOLUTE.sub(lambda found: "[...]/" + re.split(r"[\\/]", found[0].rstrip("\\/"))[-1], value)


def _check_target(root: Path, target: Path) -> None:
    if not root.is_dir():
        raise InputError(f"the folder to export must be a folder; got {root}")
    if target.suffix.lower() != ".zip":
        raise InputError(f"the file to write must end in .zip; got {target.name!r}")
    if target.is_dir() or (target.exists() and not _is_export(target)):
        raise InputError(f"{target} is there already and no export of slmkit's: name another file")
    if not target.absolute().parent.is_dir():
        raise InputError(f"no folder {target.absolute().parent} to write {target.name} to")


def _is_export(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as opened:
            return MANIFEST in opened.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _members(root: Path) -> tuple[dict[str, str], list[str]]:
    """What goes in, by its name in the zip file; and the files that should have and could not."""
    members, left_out = _progress(root), []
    for path in _candidates(root):
        try:
            members |= _read(root, path)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):  # InputError is a ValueError
            left_out.append(redacted(text.clean(path.relative_to(root).as_posix())))
    return members, left_out


def _candidates(root: Path) -> Iterator[Path]:
    """JSON files below a folder, without links and without what saved models and logs are kept in; at most so many."""
    stack, n_seen = [root], 0
    while stack and n_seen < MAX_FILES:
        for path in sorted(stack.pop().iterdir()):
            if path.name.startswith(".") or path.is_symlink():
                continue
            if path.is_dir() and path.name not in SKIPPED_FOLDERS:
                stack.append(path)
            elif path.suffix == ".json" and path.is_file():
                n_seen += 1
                yield path


def _read(root: Path, path: Path) -> dict[str, str]:
    """The members that a JSON file makes: a record with its probabilities, a card, or none for another program's."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError("too large")
    values = json.loads(path.read_text(encoding="utf-8"))
    folder = path.parent.relative_to(root).as_posix().removeprefix("runs").strip("./") or "here"
    if path.name in modelcards.MADE_FROM:
        return {redacted(f"cards/{folder}/{path.name}"): _document(values)}
    if not (isinstance(values, dict) and "run_id" in values):
        return {}
    run = read_run(path)
    kept = Run(**redacted(asdict(run)))  # the file's name is made from the model's, which may be a path
    stem = f"{redacted(f'runs/{folder}')}/{kept.stem}"
    return {f"{stem}.json": _document(asdict(kept)), **_probabilities(path.parent / run.stem, stem)}


def _probabilities(original: Path, stem: str) -> dict[str, str]:
    beside = original.with_name(f"{original.name}{PROBABILITIES}")
    if beside.is_symlink() or not beside.is_file() or beside.stat().st_size > MAX_FILE_BYTES:
        return {}
    frame = read_probability_file(beside)
    kept = frame[["row", "label", "predicted", *(column for column in frame if str(column).startswith("p_"))]]
    figures = kept.drop(columns=["label", "predicted"]).apply(pd.to_numeric)  # a text among them is an error
    named = kept[["label", "predicted"]].map(lambda label: redacted(text.clean(label)))
    whole = pd.concat([figures, named], axis=1)[kept.columns].rename(columns=redacted)
    return {f"{stem}{PROBABILITIES}": probability_document(whole)}


def _progress(root: Path) -> dict[str, str]:
    """The progress, of known exercises and known keys only; nothing where there is none."""
    path = record.path() if "SLMKIT_PROGRESS" in os.environ else root / record.FILE
    entries = record.read(path)
    kept = {
        name: {key: value for key, value in entry.items() if isinstance(value, KEPT.get(key, ()))}
        for name, entry in entries.items()
        if name in exercises()
    }
    return {"progress.json": _document({"exercises": kept})} if kept else {}


def _document(values: Any) -> str:
    return json.dumps(redacted(values), indent=1, ensure_ascii=False)


def _write(path: Path, members: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, document in members.items():
            opened.writestr(zipfile.ZipInfo(name, EPOCH), document, zipfile.ZIP_DEFLATED)
