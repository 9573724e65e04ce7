"""What a configuration says about length: how far a block looks back, and where LongRoPE changes its frequencies.

Both make a row's numbers depend on more than its own tokens: a window counts places in the cache, padding included, and
transformers picks the frequencies of a whole batch by its longest row.
"""

from __future__ import annotations

from typing import Any


def window(config: Any) -> int | None:
    """Tokens that the blocks with a sliding window see; None where every block sees everything."""
    size = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    slides = types is None or any("sliding" in kind for kind in types)
    return int(size) if size and slides else None


def rope_border(config: Any) -> int | None:
    """Tokens up to which a LongRoPE model uses its short factors; None for other models."""
    rope = getattr(config, "rope_parameters", None) or {}
    return int(rope["original_max_position_embeddings"]) if rope.get("rope_type") == "longrope" else None
