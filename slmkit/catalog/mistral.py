"""The 7B models of Mistral AI."""

from __future__ import annotations

from dataclasses import replace

from slmkit.catalog._entry import Family, ModelEntry, Sizes, token_ids
from slmkit.catalog._sources import BOTH, TOKENIZERS

MISTRAL = Family(
    name="mistral",
    licence="Apache-2.0",
    template="mistral",
    turn_end="</s>",
    bos="<s>",
    eos="</s>",
    settings=token_ids(1, 2, None),
    source=f"LlamaTokenizer, in the {TOKENIZERS}",
)
_MISTRAL_7B = ModelEntry(
    name="mistral-7b-v0.1",
    title="Mistral 7B",
    hub_id="mistralai/Mistral-7B-v0.1",
    revision="27d67f1b5f57dc0953326b2601d68371d40ea8da",
    family=MISTRAL,
    model_type="mistral",
    n_parameters=7_241_732_096,
    sizes=Sizes(hidden=4096, layers=32, heads=32, kv_heads=8, head_dim=128, inner=14_336, vocab=32_000),
    context=32_768,
    settings={"rope_theta": 10_000.0, "sliding_window": 4096},
    source=BOTH,
)
ENTRIES = (
    _MISTRAL_7B,
    _MISTRAL_7B.tuned(
        "mistral-7b-instruct-v0.3",
        "Mistral 7B Instruct v0.3",
        "mistralai/Mistral-7B-Instruct-v0.3",
        "c170c708c41dac9275d15a8fff4eca08d52bab71",
        n_parameters=7_248_023_552,
        sizes=replace(_MISTRAL_7B.sizes, vocab=32_768),
        settings={"rope_theta": 1_000_000.0, "sliding_window": None},
        source=BOTH,
    ),
)
