"""A box that can be focused, shows a row and hears keys; None where anywidget is missing, and buttons do the same."""

from __future__ import annotations

from typing import Any

import traitlets

from slmkit_widgets.scripted import scripted

# A row, its number, the progress, the keys that mean something, and help in words. A key press comes as a message
# {"key": ..., "row": the row that was shown}.
KeyBox: Any = scripted(
    "keys.js",
    row=traitlets.Int(None, allow_none=True),
    shown=traitlets.Unicode(),
    progress=traitlets.Unicode(),
    help=traitlets.Unicode(),
    named=traitlets.Unicode(),
    heard=traitlets.List(traitlets.Unicode()),
)
