"""The entries of the catalog, one file a family of models.

Each file beside this one ends in `ENTRIES = (...)` and is found by its file name. To add a model: one entry in the file
of its family, or a new file. A chat model of a base model is one `tuned(...)` of it.
"""

from __future__ import annotations

import importlib
import pkgutil

from slmkit.model_entry import ModelEntry


def read_all() -> tuple[ModelEntry, ...]:
    """Every entry of every file: encoders before decoders, small ones before large ones."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    found = [entry for name in names for entry in importlib.import_module(f"{__name__}.{name}").ENTRIES]
    return tuple(sorted(found, key=lambda entry: (entry.kind == "decoder", entry.n_parameters)))
