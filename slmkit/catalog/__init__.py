"""The models slmkit knows by name, one file a family of models.

Each file beside this one ends in `ENTRIES = (...)` and is found by its file name. To add a model: one entry in the file
of its family, or a new file. A chat model of a base model is one `tuned(...)` of it.

Parameter counts are those of the class that transformers builds (a tied head once); the tests count them both with
transformers and by `architectures.count_parameters`. A revision is pinned where at least two public repositories show
the same commit for it; otherwise it is "main", resolved at the first fetch and kept from then on. Anything else can be
loaded by its hub id or by a path.
"""

from __future__ import annotations

import importlib
import pkgutil

from slmkit.catalog._entry import ModelEntry, config_values, facts
from slmkit.errors import unknown

__all__ = ["MODELS", "ModelEntry", "config_values", "facts", "get", "revision_of"]


def _read_all() -> tuple[ModelEntry, ...]:
    """Every entry of every file: encoders before decoders, small ones before large ones."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    found = [entry for name in names for entry in importlib.import_module(f"{__name__}.{name}").ENTRIES]
    return tuple(sorted(found, key=lambda entry: (entry.kind == "decoder", entry.n_parameters)))


_ENTRIES = _read_all()
MODELS: dict[str, ModelEntry] = {entry.name: entry for entry in _ENTRIES}
_REVISIONS = {entry.hub_id: entry.revision for entry in _ENTRIES}


def get(name: str) -> ModelEntry:
    """The entry of that name; `InputError` with the near names otherwise."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]


def revision_of(hub_id: str) -> str:
    """The commit that the catalog pins for a repository of the hub; "main" where it pins none."""
    return _REVISIONS.get(hub_id, "main")
