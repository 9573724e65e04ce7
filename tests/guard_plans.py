"""Plans of small real trainings, for the tests of the guard."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from slmkit import backends
from slmkit.assets import ModelSource
from slmkit.backends.base import LoRAConfig
from slmkit.guard import aftermath, checks, reloaded
from slmkit.guard.findings import Finding
from slmkit.guard.plan import Plan

GOOD = ("see you at lunch", "the train is late", "thanks for the flowers", "lovely to see you", "lunch is at ten")
BAD = ("you have won a prize", "confirm your password", "claim it now", "your card is blocked", "call to claim money")
TEXTS = [f"{text} {n}" for n in range(12) for pair in zip(GOOD, BAD, strict=True) for text in pair]
CODES = np.arange(len(TEXTS)) % 2
LABELS = np.array(["ham", "spam"])[CODES].tolist()
ASKED = [[{"role": "user", "content": text}] for text in ("Is this fraud?", "Is the train late?", "Call now?")]
TOLD = ["Yes, call the bank.", "No.", "No, wait."]
CONFIG = LoRAConfig(rank=4, alpha=8, epochs=3, batch_size=16, learning_rate=5e-3, max_length=64)
TALK = LoRAConfig(rank=8, alpha=32, epochs=24, batch_size=3, learning_rate=2e-2, max_length=64)
NAMED = {**checks.BEFORE, **aftermath.FILES, **reloaded.LOADED}


def labelled(source: ModelSource, texts: Sequence[str] = TEXTS, codes: np.ndarray = CODES, **how: Any) -> Plan:
    config = replace(CONFIG, **{name: how.pop(name) for name in list(how) if hasattr(CONFIG, name)})
    return Plan(backends.get("bnb"), source, 16, config, texts, codes, ["ham", "spam"], **how)


def talking(source: ModelSource, **how: Any) -> Plan:
    engine = backends.get("bnb")
    prompts = engine.dialogue_prompts(source, ASKED)
    return Plan(engine, source, 16, TALK, **{"texts": prompts, "answers": TOLD, "questions": ASKED, **how})


def look(check: str, view: Any) -> Finding:
    found = NAMED[check](view)
    assert found is not None, f"{check} had nothing to look at"
    return found


def variant(source: ModelSource, folder: Path, **changes: Any) -> ModelSource:
    """The same model with other values in its tokenizer_config.json."""
    import json

    shutil.copytree(source.folder, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return replace(source, name=str(folder), folder=folder)
