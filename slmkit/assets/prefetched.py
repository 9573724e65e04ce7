"""Models in a folder that `slmkit prefetch` filled and `SLMKIT_ASSETS` names, and what its manifest says of each file.

A folder carried on a stick loses bytes now and then: a file is compared with the manifest before a model is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slmkit import files
from slmkit.errors import AssetError
from slmkit.files import places

MANIFEST = "slmkit-prefetch.json"
MODELS = "models"
Written = dict[str, dict[str, Any]]


def find(package_file: str | None) -> Path | None:
    """A model's file or folder by its name inside its package; None where the folder has none. Nothing is checked."""
    root = places.mirror()
    path = root / MODELS / package_file if root and package_file else None
    return path if path and path.exists() else None


def manifest(folder: Path) -> Written:
    """What was written down of each file, by its path below the folder; empty where nothing was.

    Raises `AssetError` for a manifest that cannot be read.
    """
    try:
        written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        if not all({"bytes", "mtime_ns", "sha256"} <= set(known) for known in written.values()):
            raise ValueError("an entry lacks bytes, mtime_ns or sha256")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise AssetError(
            f"{folder / MANIFEST} is damaged ({error!r}): run slmkit prefetch on the folder again"
        ) from error
    return dict(written)


def damaged(folder: Path, below: str = "") -> list[str]:
    """Every file of the manifest (of those whose path begins so) that is missing or altered, with what is wrong."""
    known = {name: entry for name, entry in manifest(folder).items() if name.startswith(below)}
    found = {name: files.change(folder / name, entry) for name, entry in known.items()}
    return [f"{name}: {problem}" for name, problem in found.items() if problem]


def check(path: Path) -> None:
    """Raise `AssetError` naming what is damaged of a model that `find` gave; nothing to say of any other path."""
    root = places.mirror()
    if root is None or not path.is_relative_to(root):
        return
    if problems := damaged(root, path.relative_to(root).as_posix()):
        raise AssetError(
            f"{root} holds a damaged copy: {'; '.join(problems[:3])}. Run slmkit prefetch on the folder again, or copy "
            "it anew"
        )
