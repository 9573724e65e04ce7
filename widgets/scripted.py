"""Widgets with a script of their own, where anywidget is there to run it; VS Code and Colab can be without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import traitlets

try:
    import anywidget
except ImportError:
    anywidget = None  # type: ignore[assignment]


def scripted(name: str, **traits: traitlets.TraitType[Any, Any]) -> Any:
    """The class of a widget that `name` beside this file draws, with traits that it shares; None without anywidget."""
    if anywidget is None:
        return None
    script = Path(__file__).with_name(name).read_text(encoding="utf-8")
    shared = {trait: kind.tag(sync=True) for trait, kind in traits.items()}
    return type(name.removesuffix(".js").capitalize(), (anywidget.AnyWidget,), {"_esm": script, **shared})
