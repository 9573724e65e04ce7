"""TinyLlama 1.1B, a small network in the form of Llama 2."""

from __future__ import annotations

from slmkit.catalog._entry import Family, ModelEntry, Sizes, token_ids
from slmkit.catalog._sources import BOTH, INVENTORY, TOKENIZERS

TINYLLAMA = Family(
    name="tinyllama",
    licence="Apache-2.0",
    template="zephyr",
    turn_end="</s>",
    bos="<s>",
    eos="</s>",
    settings=token_ids(1, 2, None),
    source=f"LlamaTokenizer, in the {TOKENIZERS}",
)
_CHAT = ModelEntry(
    name="tinyllama-1.1b-chat",
    title="TinyLlama 1.1B",
    hub_id="TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    revision="fe8a4ea1ffedaf415f4da2f062534de366a451e6",
    family=TINYLLAMA,
    model_type="llama",
    chat=True,
    n_parameters=1_100_048_384,
    sizes=Sizes(hidden=2048, layers=22, heads=32, kv_heads=4, head_dim=64, inner=5632, vocab=32_000),
    context=2048,
    settings={"rope_theta": 10_000.0},
    safetensors_bytes=2_200_119_864,
    source=f"{BOTH}; {INVENTORY}",
)
ENTRIES = (_CHAT,)
