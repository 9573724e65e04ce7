"""Corpora written for this project, their cards and recorded runs: importable as `slmkit_data`, found by file name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["path"]


def path(name: str) -> Path:
    """Path of a shipped file or folder.

    Parameters
    ----------
    name : str
        A name inside this package: "fraud_messages.csv", "runs".

    Returns
    -------
    Path
        It exists.

    Raises
    ------
    FileNotFoundError
        No such file is shipped; the message lists those that are.
    """
    root = Path(str(files(__name__)))
    found = root / name
    if not found.exists():
        shipped = ", ".join(sorted(p.name for p in root.iterdir() if not p.name.startswith(("_", "."))))
        raise FileNotFoundError(f"slmkit_data ships no {name!r}; it ships: {shipped or 'nothing'}")
    return found
