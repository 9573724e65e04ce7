"""Weights that were trained as a whole (method "full"), under the other engine's names.

Both engines keep a weight in the same shape and number type, so only names differ, and of those only what the body of
the model is called. Where that is not known, `slmkit merge` writes a folder that needs no names of either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slmkit import assets, files
from slmkit.adapters.names import LAYOUTS, NAMES, TRAINED
from slmkit.assets import tensors
from slmkit.errors import InputError


def layout_of(folder: Path, facts: Mapping[str, Any]) -> str | None:
    """The layout of trained weights, by the engine that the facts beside them name; None where there are none."""
    return LAYOUTS.get(str(facts.get("backend"))) if (folder / TRAINED).is_file() else None


def renaming(folder: Path, layout: str, to: str) -> Callable[[str], str]:
    """What a weight of one layout is called in another.

    Raises
    ------
    AssetError
        A damaged file.
    InputError
        Weights of a model of which slmkit does not know the other engine's names.
    """
    assets.check_safetensors(folder / TRAINED)
    stored = tensors.names(folder / TRAINED)
    for names in NAMES:
        body, other = (names.prefix(one).partition(".")[0] for one in (layout, to))
        theirs = all(name.startswith((f"{body}.", "lm_head.")) for name in stored)
        if theirs and any(name.startswith(names.prefix(layout)) for name in stored):
            return lambda name: f"{other}{name.removeprefix(body)}" if name.startswith(f"{body}.") else name
    known = sorted(model for names in NAMES for model in names.models)
    raise InputError(
        f"{folder / TRAINED} holds weights that slmkit has no name for in the layout {to!r} ({min(stored, default='')})"
        f"; it converts those of {', '.join(known)}. Put them into their model with the backend that trained them "
        "(slmkit merge), or train them again with the other one"
    )


def write(folder: Path, rename: Callable[[str], str], out: Path) -> dict[str, str]:
    """Copy the weights under new names; what the facts say of the file."""
    tensors.copy(folder / TRAINED, rename, out / TRAINED)
    return {"weights_sha256": files.sha256_of(out / TRAINED)}
