"""Where facts about models were read, named once: configurations, tokenizers and inventories in public code.

Chat templates, and the tokens that end a turn: unslothai/unsloth unsloth/chat_templates.py and
chujiezheng/chat_templates.
"""

LITGPT = "litgpt/config.py of Lightning-AI/litgpt"
MLC = "python/mlc_llm/model/model_preset.py of mlc-ai/mlc-llm"
BOTH = f"{MLC}; {LITGPT}"
INVENTORY = "size, licence and revision in a public inventory of hub metadata (SpectraQuant)"
TOKENIZERS = "tokenizer classes of transformers 5.23"
