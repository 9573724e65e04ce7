"""A slider with an accessible name, which ipywidgets' own lacks; that one is taken where anywidget is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as w
import traitlets

try:
    import anywidget
except ImportError:  # VS Code and Colab without it, for example
    anywidget = None  # type: ignore[assignment]

Slider: Any = None

if anywidget is not None:

    class _Slider(anywidget.AnyWidget):
        """What `slider.js` shows; a value comes when the handle is let go of, or a key was pressed."""

        _esm = Path(__file__).with_name("slider.js").read_text(encoding="utf-8")
        description = traitlets.Unicode().tag(sync=True)
        value = traitlets.Float(0.0).tag(sync=True)
        min = traitlets.Float(0.0).tag(sync=True)
        max = traitlets.Float(1.0).tag(sync=True)
        step = traitlets.Float(0.01).tag(sync=True)

    Slider = _Slider


def slider(description: str, step: float, width: str) -> w.Widget:
    """A slider from 0 to 1 of that name."""
    if Slider is not None:
        return Slider(description=description, step=step, layout=w.Layout(width=width))
    own = {"min": 0.0, "max": 1.0, "step": step, "readout": False, "continuous_update": False}
    return w.FloatSlider(
        description=description, style={"description_width": "initial"}, layout=w.Layout(width=width), **own
    )
