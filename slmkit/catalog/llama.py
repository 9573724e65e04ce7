"""The Llama 2 and Llama 3.2 models of Meta."""

from __future__ import annotations

from slmkit.catalog._entry import Family, ModelEntry, Sizes, token_ids
from slmkit.catalog._sources import BOTH, TOKENIZERS

LLAMA_2 = Family(
    name="llama-2",
    licence="Llama 2 community licence",
    gated=True,
    template="llama-2",
    turn_end="</s>",
    bos="<s>",
    eos="</s>",
    settings=token_ids(1, 2, None),
    source=f"LlamaTokenizer, in the {TOKENIZERS}",
)
LLAMA_3_2 = Family(
    name="llama-3.2",
    licence="Llama 3.2 community licence",
    gated=True,
    template="llama-3",
    turn_end="<|eot_id|>",
    bos="<|begin_of_text|>",
    eos="<|end_of_text|>",
    chat_eos="<|eot_id|>",
    settings=token_ids(128_000, 128_001, None),
    source="special tokens in public code for the Llama 3 tokenizer; no pad token by default",
)
_LLAMA_2_7B = ModelEntry(
    name="llama-2-7b",
    title="Llama 2 7B base",
    hub_id="meta-llama/Llama-2-7b-hf",
    revision="01c7f73d771dfac7d292323805ebc428287df4f9",
    family=LLAMA_2,
    model_type="llama",
    n_parameters=6_738_415_616,
    sizes=Sizes(hidden=4096, layers=32, heads=32, kv_heads=32, head_dim=128, inner=11_008, vocab=32_000),
    context=4096,
    dtype="float16",
    settings={"rope_theta": 10_000.0},
    source=f"{BOTH} (context from the latter)",
)
_ROPE_3_2 = {
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
_LLAMA_3_2_1B = ModelEntry(
    name="llama-3.2-1b",
    title="Llama 3.2 1B base",
    hub_id="meta-llama/Llama-3.2-1B",
    revision="4e20de362430cd3b72f300e6b0f18e50e7166e08",
    family=LLAMA_3_2,
    model_type="llama",
    n_parameters=1_235_814_400,
    sizes=Sizes(hidden=2048, layers=16, heads=32, kv_heads=8, head_dim=64, inner=8192, vocab=128_256),
    context=131_072,
    tied=True,
    settings=_ROPE_3_2,
    source=BOTH,
)
_LLAMA_3_2_3B = ModelEntry(
    name="llama-3.2-3b",
    title="Llama 3.2 3B base",
    hub_id="meta-llama/Llama-3.2-3B",
    revision="13afe5124825b4f3751f836b40dafda64c1ed062",
    family=LLAMA_3_2,
    model_type="llama",
    n_parameters=3_212_749_824,
    sizes=Sizes(hidden=3072, layers=28, heads=24, kv_heads=8, head_dim=128, inner=8192, vocab=128_256),
    context=131_072,
    tied=True,
    settings=_ROPE_3_2,
    source=BOTH,
)
_ENDS_3_2 = {"eos_token_id": [128_001, 128_008, 128_009]}
ENTRIES = (
    _LLAMA_2_7B,
    _LLAMA_2_7B.tuned(
        "llama-2-7b-chat",
        "Llama 2 7B",
        "meta-llama/Llama-2-7b-chat-hf",
        "f5db02db724555f92da89c216ac04704f23d4590",
    ),
    _LLAMA_3_2_1B,
    _LLAMA_3_2_1B.tuned(
        "llama-3.2-1b-instruct",
        "Llama 3.2 1B",
        "meta-llama/Llama-3.2-1B-Instruct",
        "9213176726f574b556790deb65791e0c5aa438b6",
        settings=_ENDS_3_2,
    ),
    _LLAMA_3_2_3B,
    _LLAMA_3_2_3B.tuned(
        "llama-3.2-3b-instruct",
        "Llama 3.2 3B",
        "meta-llama/Llama-3.2-3B-Instruct",
        "0cb88a4f764b7a12671c53f0838cd831a0843b95",
        settings=_ENDS_3_2,
    ),
)
