"""The Phi-3 models of Microsoft."""

from __future__ import annotations

from typing import Any

from slmkit.catalog import _longrope
from slmkit.catalog._entry import Family, ModelEntry, Sizes, token_ids
from slmkit.catalog._sources import BOTH

PHI_3 = Family(
    name="phi-3",
    licence="MIT",
    template="phi-3",
    turn_end="<|end|>",
    bos="<s>",
    eos="<|endoftext|>",
    pad="<|endoftext|>",
    settings=token_ids(1, 32_000, 32_000),
    source="token ids in the config (mlc-ai/mlc-llm), names of ids 32000 to 32010 in public tokenizer code",
)
_MINI = ModelEntry(
    name="phi-3-mini-4k-instruct",
    title="Phi-3-mini",
    hub_id="microsoft/Phi-3-mini-4k-instruct",
    revision="f39ac1d28e925b323eae81227eaba4464caced4e",
    family=PHI_3,
    model_type="phi3",
    chat=True,
    n_parameters=3_821_079_552,
    sizes=Sizes(hidden=3072, layers=32, heads=32, kv_heads=32, head_dim=96, inner=8192, vocab=32_064),
    context=4096,
    settings={"rope_theta": 10_000.0, "sliding_window": 2047},
    source=f"default Phi3Config of transformers 5.23; {BOTH}",
)
_LONG: dict[str, Any] = {"context": 131_072, "source": f"{BOTH}; factors as slmkit/catalog/_longrope.py says"}
ENTRIES = (
    _MINI,
    _MINI.varied(
        "phi-3-mini-128k-instruct",
        "Phi-3-mini 128k",
        "microsoft/Phi-3-mini-128k-instruct",
        settings={"sliding_window": 262_144, "rope_scaling": _longrope.PHI_3_MINI_128K},
        **_LONG,
    ),
    _MINI.varied(
        "phi-3.5-mini-instruct",
        "Phi-3.5-mini",
        "microsoft/Phi-3.5-mini-instruct",
        "2fe192450127e6a83f7441aef6e3ca586c338b77",
        settings={"sliding_window": 262_144, "rope_scaling": _longrope.PHI_3_5_MINI},
        **_LONG,
    ),
)
