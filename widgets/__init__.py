"""Widgets for notebooks, importable as `slmkit_widgets`: each usable alone in a cell, none needed by the library.

A widget has two halves. Its view-model (`slmkit_widgets.models`) holds state and commands, and knows no browser; its
view shows that state in controls and says nothing of its own. Both are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "DataExplorer": "explorer",
    "Labeller": "labeller",
    "ModelPicker": "picker",
    "ParetoExplorer": "pareto",
    "Playground": "playground",
    "ThresholdExplorer": "threshold",
    "Tuner": "tuner",
    "Workbench": "workbench",
    "labelled": "models.labelfile",
}
__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'slmkit_widgets' has no attribute {name!r}")
    return getattr(importlib.import_module(f"slmkit_widgets.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
