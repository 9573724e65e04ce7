"""View-models: the state and commands behind the widgets, in traitlets, without ipywidgets and without a browser."""

from __future__ import annotations
