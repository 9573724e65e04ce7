"""A slider with an accessible name; where anywidget is missing there is none, and the number box beside it serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import traitlets

try:
    import anywidget
except ImportError:  # the notebooks extra is there in part
    anywidget = None

Slider: Any = None

if anywidget is not None:

    class _Slider(anywidget.AnyWidget):
        """What `slider.js` shows: a named range input."""

        _esm = Path(__file__).with_name("slider.js").read_text(encoding="utf-8")
        description = traitlets.Unicode().tag(sync=True)
        value = traitlets.Float(0.0).tag(sync=True)
        min = traitlets.Float(0.0).tag(sync=True)
        max = traitlets.Float(1.0).tag(sync=True)
        step = traitlets.Float(0.001).tag(sync=True)

    Slider = _Slider
