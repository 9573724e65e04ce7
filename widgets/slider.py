"""A slider with an accessible name, which ipywidgets' own lacks; that one is taken where anywidget is missing."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import traitlets

from slmkit_widgets.scripted import scripted

Slider: Any = scripted(  # a value comes when the handle is let go of, or a key was pressed
    "slider.js",
    description=traitlets.Unicode(),
    value=traitlets.Float(0.0),
    min=traitlets.Float(0.0),
    max=traitlets.Float(1.0),
    step=traitlets.Float(0.01),
)


def slider(description: str, step: float, width: str) -> w.Widget:
    """A slider from 0 to 1 of that name."""
    if Slider is not None:
        return Slider(description=description, step=step, layout=w.Layout(width=width))
    own = {"min": 0.0, "max": 1.0, "step": step, "readout": False, "continuous_update": False}
    return w.FloatSlider(
        description=description, style={"description_width": "initial"}, layout=w.Layout(width=width), **own
    )
