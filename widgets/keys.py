"""A box that can be focused, shows a row and hears keys; None where anywidget is missing, and buttons do the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import traitlets

try:
    import anywidget
except ImportError:  # VS Code and Colab without it, for example
    anywidget = None  # type: ignore[assignment]

KeyBox: Any = None

if anywidget is not None:

    class _KeyBox(anywidget.AnyWidget):
        """What `keys.js` shows: a row, its number, the progress, the keys that mean something, and help in words.

        A key press comes as a message {"key": ..., "row": the row that was shown}.
        """

        _esm = Path(__file__).with_name("keys.js").read_text(encoding="utf-8")
        row = traitlets.Int(None, allow_none=True).tag(sync=True)
        shown = traitlets.Unicode().tag(sync=True)
        progress = traitlets.Unicode().tag(sync=True)
        help = traitlets.Unicode().tag(sync=True)
        named = traitlets.Unicode().tag(sync=True)
        heard = traitlets.List(traitlets.Unicode()).tag(sync=True)

    KeyBox = _KeyBox
