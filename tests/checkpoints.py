"""Small random checkpoints of every architecture slmkit knows, with the traits that make each of them what it is.

A checkpoint is a model of the catalog with its sizes shrunk: the config.json is `catalog.config_values` of the entry,
in the form that published files have, the weights come from transformers' own class, and a small real tokenizer brings
the special tokens and the chat template of the family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conftest import TEXT, wordpiece

from slmkit import assets, catalog
from slmkit.assets import ModelSource
from slmkit.catalog import ModelEntry

SMALL = {"hidden": 128, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 32, "inner": 192, "vocab": 1280}
CONTEXT = 512
BORDER = 20  # tokens up to which a LongRoPE model uses its short factors; texts of the tests are longer and shorter
WINDOW = 12  # tokens a sliding window sees; the texts of the tests are longer
ROLES = "{{ m['role'] }}"
TEMPLATES = {  # as each family's format is documented; written for these tests
    "chatml": "{% for m in messages %}<|im_start|>" + ROLES + "\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "gemma": "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else "
    "m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "llama-2": "{% for m in messages %}{% if m['role'] == 'system' %}{{ bos_token }}[INST] <<SYS>>\n"
    "{{ m['content'] }}\n<</SYS>>\n\n{% elif m['role'] == 'user' %}"
    "{{ '' if loop.index0 == 1 and messages[0]['role'] == 'system' else bos_token + '[INST] ' }}"
    "{{ m['content'] }} [/INST]{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}",
    "llama-3": "{{ bos_token }}{% for m in messages %}<|start_header_id|>" + ROLES + "<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "mistral": "{% if messages[0]['role'] == 'system' %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}[/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}",
    "phi-3": "{% for m in messages %}<|" + ROLES + "|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "zephyr": "{% for m in messages %}<|" + ROLES + "|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "none": None,
}
MARKS = {  # tokens with which a template marks the turns
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "llama-3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "phi-3": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
}


@dataclass(frozen=True)
class Case:
    """One row of the conformance table.

    Attributes
    ----------
    name, traits : str
        The architecture as the table calls it, and what its checkpoint keeps.
    entry : str
        The catalog's model whose configuration is shrunk.
    sizes : mapping
        Sizes that differ from `SMALL`.
    settings : mapping
        Values of the config.json that shrink with the sizes.
    """

    name: str
    traits: str
    entry: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return catalog.get(self.entry).kind

    def shrunk(self) -> ModelEntry:
        """The catalog's entry with small sizes."""
        entry = catalog.get(self.entry)
        sizes = replace(entry.sizes, **{**SMALL, **self.sizes})
        return replace(entry, sizes=sizes, context=CONTEXT, settings={**entry.settings, **self.settings})


def _longrope(entry: str) -> dict[str, Any]:
    """Settings of a LongRoPE model: its own factors, a border and a context as far apart as the published ones."""
    return {"rope_scaling": catalog.get(entry).settings["rope_scaling"], "original_max_position_embeddings": BORDER}


_LLAMA_3 = {**catalog.get("llama-3.2-1b").settings["rope_scaling"], "original_max_position_embeddings": 32}
_GROUPED = {"kv_heads": 2}
_ENCODER = {"vocab": 1280}
CASES = (
    Case("Llama 2", "untied head", "llama-2-7b-chat"),
    Case("SmolLM2", "grouped queries, tied head", "smollm2-360m-instruct", {"hidden": 192, "heads": 3, "kv_heads": 1,
         "head_dim": 64}),
    Case("TinyLlama", "grouped queries, untied head", "tinyllama-1.1b-chat", _GROUPED),
    Case("Llama 3.2", "scaled rotary frequencies, tied head", "llama-3.2-1b-instruct", _GROUPED,
         {"rope_scaling": _LLAMA_3}),
    Case("Mistral", "grouped queries, sliding window", "mistral-7b-v0.1", _GROUPED, {"sliding_window": WINDOW}),
    Case("Phi-3", "fused qkv and gate-up, sliding window", "phi-3-mini-4k-instruct",
         {"hidden": 192, "heads": 2, "kv_heads": 2, "head_dim": 96}, {"sliding_window": WINDOW}),
    Case("Phi-3 128k", "LongRoPE: short and long factors", "phi-3-mini-128k-instruct",
         {"hidden": 192, "heads": 2, "kv_heads": 2, "head_dim": 96}, _longrope("phi-3-mini-128k-instruct")),
    Case("Gemma", "one key head, scaled embeddings, large vocabulary", "gemma-2b-it",
         {"hidden": 64, "heads": 2, "kv_heads": 1, "head_dim": 64, "vocab": 16_384}),
    Case("Gemma 2", "capped logits, every other block slides", "gemma-2-2b-it", {"kv_heads": 2, "head_dim": 64},
         {"query_pre_attn_scalar": 64, "sliding_window": WINDOW}),
    Case("Gemma 3", "two rotary bases, norms on queries and keys, blocks that slide", "gemma-3-1b-it",
         {"hidden": 64, "layers": 3, "heads": 2, "kv_heads": 1, "head_dim": 64, "vocab": 2048},
         {"query_pre_attn_scalar": 64, "sliding_window": WINDOW, "sliding_window_pattern": 3,
          "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}),
    Case("Falcon", "multi-query, parallel blocks, fused qkv", "falcon-7b-instruct",
         {"hidden": 192, "heads": 3, "kv_heads": 1, "head_dim": 64, "inner": 768}, {"num_kv_heads": 3}),
    Case("Qwen2.5", "biases on queries, keys and values", "qwen2.5-0.5b-instruct", _GROUPED),
    Case("BERT", "encoder", "minilm", _ENCODER),
    Case("Multilingual BERT", "encoder, tokens of XLM-R", "multilingual-minilm", _ENCODER),
    Case("DistilBERT", "encoder", "distilbert-base-uncased", _ENCODER),
    Case("ModernBERT", "encoder, local and global attention", "modernbert-base", {"layers": 3},
         {"local_attention": WINDOW, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}),
)  # fmt: skip


def make(case: Case, folder: Path) -> ModelSource:
    """Write config.json, safetensors and tokenizer of a case into an empty folder."""
    import torch
    import transformers

    entry = case.shrunk()
    tokenizer = _tokenizer(entry)
    tokenizer.save_pretrained(folder)
    values = catalog.config_values(entry) | _ids(entry, tokenizer)
    config = transformers.AutoConfig.for_model(**values)
    torch.manual_seed(len(case.name))
    model = getattr(transformers, entry.architecture.class_name)(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # as wide as keeps attention sharp and four bits near sixteen
            parameter.data = torch.randn_like(parameter) * 1.5 * parameter.shape[1] ** -0.5
        else:
            parameter.data += torch.randn_like(parameter) * 0.1
    if entry.kind == "decoder":  # no token is written that the tokenizer does not know
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            table.weight.data[len(tokenizer) :] = 0
    model.to(torch.bfloat16).eval().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
    (folder / "generation_config.json").unlink(missing_ok=True)
    return assets.resolve(str(folder))


def _ids(entry: ModelEntry, tokenizer: Any) -> dict[str, Any]:
    """The special tokens' ids in this tokenizer, where the entry's config names any; an end token may be several."""
    named = catalog.config_values(entry)
    found = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    if isinstance(named.get("eos_token_id"), list):
        turn_end = tokenizer.convert_tokens_to_ids(entry.family.turn_end)
        found["eos_token_id"] = sorted({found["eos_token_id"], turn_end})
    return found


def _tokenizer(entry: ModelEntry) -> Any:
    return wordpiece() if entry.kind == "encoder" and entry.family.bos is None else _byte_level(entry)


def _byte_level(entry: ModelEntry) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    family, names = entry.family, {k: v for k, v in entry.special_tokens.items() if v}
    names.pop("turn_end", None)
    marks = MARKS.get(family.template, [])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=sorted({*names.values(), *marks, *filter(None, [family.eos])}),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    if family.bos and family.template != "chatml":  # whose first token opens a turn and is not added to a text
        around = f"{family.bos} $A {family.eos}" if entry.kind == "encoder" else f"{family.bos} $A"
        special = [(token, tokenizer.token_to_id(token)) for token in (family.bos, family.eos)]
        tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=special)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{f"{kind}_token": t for kind, t in names.items()})
    fast.chat_template = TEMPLATES[family.template]
    return fast
