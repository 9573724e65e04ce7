"""slmkit: what a small language model buys you on your own task and machine, measured.

Everything public is found here and imported when first used, so that `import slmkit` stays quick and free of torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
_WHERE = {
    "load": "backends",
    "memory": "ledger",
    "quantize": "prequantise",
    "merge": "tuning.merging",
    "prune": "tuning.pruning",
    "distill": "tuning.distil",
    "match_states": "tuning.matching",
    "study": "study",
    "learning_curve": "curves.learning",
    "tune": "tuning.either",
    "finetune": "finetune",
    "find_lr": "tuning.rates",
    "search": "tuning.search",
    "read": "data",
    "split": "splits",
    "check_leaks": "splits.leaks:check",
    "evaluate_answers": "tuning.facts",
    "datasheet": "datasheets",
    "accept_license": "tasks",
    "FloorClassifier": "classify",
    "EmbeddingClassifier": "classify",
    "PromptClassifier": "classify",
    "LoRAClassifier": "classify",
    "load_classifier": "classify",
    "Job": "jobs.background",
    "Run": "runs",
    "read_runs": "runs",
}
_MODULES = (
    "adapters",
    "backends",
    "bitcosts",
    "cascade",
    "catalog",
    "classify",
    "data",
    "doctor",
    "estimate",
    "metrics",
    "playground",
    "plots",
    "report",
    "runs",
    "tasks",
    "thresholds",
    "tradeoffs",
    "workshop",
    "writing",
)
__all__ = [*_WHERE, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        module, _, attribute = _WHERE[name].partition(":")
        return getattr(importlib.import_module(f"slmkit.{module}"), attribute or name)
    if name in _MODULES:
        return importlib.import_module(f"slmkit.{name}")
    raise AttributeError(f"module 'slmkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
