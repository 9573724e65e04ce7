"""The models slmkit knows by name, from the entries in `slmkit.entries`.

Parameter counts are those of the class that transformers builds (a tied head once); the tests count them both with
transformers and by `architectures.count_parameters`. A revision is pinned where at least two public repositories show
the same commit for it; otherwise it is "main", resolved at the first fetch and kept from then on. Anything else can be
loaded by its hub id or by a path.
"""

from __future__ import annotations

from slmkit import entries
from slmkit.errors import unknown
from slmkit.model_entry import ModelEntry, config_values, facts

__all__ = ["MODELS", "ModelEntry", "config_values", "facts", "get", "revision_of"]

_ENTRIES = entries.read_all()
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
