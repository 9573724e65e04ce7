"""The Qwen2.5 models of Alibaba."""

from __future__ import annotations

from slmkit.catalog._entry import Family, ModelEntry, Sizes, token_ids
from slmkit.catalog._sources import BOTH, INVENTORY, TOKENIZERS

QWEN2_5 = Family(
    name="qwen2.5",
    licence="Apache-2.0",
    template="chatml",
    turn_end="<|im_end|>",
    eos="<|endoftext|>",
    chat_eos="<|im_end|>",
    pad="<|endoftext|>",
    settings=token_ids(151_643, 151_643, None),
    source=f"Qwen2Tokenizer, in the {TOKENIZERS}; the end token of chat models in their config",
)
_0_5B = ModelEntry(
    name="qwen2.5-0.5b-instruct",
    title="Qwen2.5 0.5B",
    hub_id="Qwen/Qwen2.5-0.5B-Instruct",
    revision="7ae557604adf67be50417f59c2c2f167def9a775",
    family=QWEN2_5,
    model_type="qwen2",
    chat=True,
    n_parameters=494_032_768,
    sizes=Sizes(hidden=896, layers=24, heads=14, kv_heads=2, head_dim=64, inner=4864, vocab=151_936),
    context=32_768,
    tied=True,
    settings={"rope_theta": 1_000_000.0, "eos_token_id": 151_645},
    source=f"config.json in infinityarpan/qwen-25-api; {BOTH}; {INVENTORY}",
)
_1_5B = ModelEntry(
    name="qwen2.5-1.5b-instruct",
    title="Qwen2.5 1.5B",
    hub_id="Qwen/Qwen2.5-1.5B-Instruct",
    revision="989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
    family=QWEN2_5,
    model_type="qwen2",
    chat=True,
    n_parameters=1_543_714_304,
    sizes=Sizes(hidden=1536, layers=28, heads=12, kv_heads=2, head_dim=128, inner=8960, vocab=151_936),
    context=32_768,
    tied=True,
    settings={"rope_theta": 1_000_000.0, "eos_token_id": 151_645},
    source=f"the model's configuration in a public training log; {BOTH}",
)
ENTRIES = (_0_5B, _1_5B)
