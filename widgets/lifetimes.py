"""A cell that runs again lets go of what it made before: widgets stay in the kernel's register until they are closed.

JupyterLab and Notebook name the cell with every request. Where nobody does (VS Code, a program), `close()` is for the
person to call.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

_LIVE: dict[str, tuple[str, list[Closable]]] = {}  # cell -> the request that ran it, what it made


class Closable(Protocol):
    """What can be let go of."""

    def close(self) -> None:
        """Free observers and the widgets of the page; a second call does nothing."""


def register(made: Closable) -> None:
    """Remember what the running cell made, and close what an earlier run of the same cell left."""
    cell, request = running()
    if not cell:
        return
    earlier, left = _LIVE.get(cell, ("", []))
    if earlier != request:
        for old in left:
            old.close()
        left = []
    _LIVE[cell] = (request, [*left, made])


def forget(made: Closable) -> None:
    """Drop what was closed, so that it can be freed."""
    for cell, (request, left) in list(_LIVE.items()):
        kept = [one for one in left if one is not made]
        if kept:
            _LIVE[cell] = (request, kept)
        else:
            del _LIVE[cell]


def running() -> tuple[str, str]:
    """Names of the running cell and of the request that runs it; ("", "") outside of a notebook that says so."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    parent: dict[str, Any] = getattr(getattr(shell, "kernel", None), "get_parent", dict)() or {}
    cell = parent.get("metadata", {}).get("cellId", "")
    return str(cell), str(parent.get("header", {}).get("msg_id", ""))
