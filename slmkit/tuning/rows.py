"""The rows of a training, with labels or with answers, so that what stands around trainings need not tell them apart.

Test rows are split off first and are not in here: no search and no range test sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from slmkit import data, dialogues, estimate, splits, tasks
from slmkit.assets import ModelSource
from slmkit.backends.base import Backend, LoRAConfig, Progress, Watch
from slmkit.errors import InputError
from slmkit.training import recipe

MAX_LENGTH = 512  # tokens of a dialogue, as `slmkit.finetune` has it


@dataclass(frozen=True)
class Rows:
    """Rows to learn from.

    Attributes
    ----------
    name : str
    texts : sequence of str
        To label, or prompts.
    targets : sequence
        Class indices, or answers.
    classes : sequence of str
        Names of the labels; empty where answers are learned.
    known : DataFrame
        What splits these rows: a text, and a label or a group; its index says which rows belong to it.
    owners : sequence of int
        For each row, the position in `known` that it comes from (a dialogue has several answers).
    """

    name: str
    texts: Sequence[str]
    targets: Sequence[Any]
    classes: Sequence[str]
    known: Any
    owners: Sequence[int]

    def parted(self, share: float, seed: int) -> tuple[Rows, Rows]:
        """Rows to learn and rows to validate on; near-copies and groups stay on one side."""
        if self.classes:
            codes, groups = np.array(self.targets), self.known.get("group")
            learned, checked = recipe.validation(self.texts, codes, self.classes, share, seed, groups)
        else:
            split = splits.hold_out(self.known, seed=seed, test_share=share)
            sides = (set(part.index) for part in (split.train, split.test))
            learned, checked = (np.flatnonzero([owner in side for owner in self.owners]) for side in sides)
        return self._only(learned), self._only(checked)

    def _only(self, positions: np.ndarray) -> Rows:
        texts, targets, owners = ([part[i] for i in positions] for part in (self.texts, self.targets, self.owners))
        return replace(self, texts=texts, targets=targets, owners=owners)

    def max_length(self, engine: Backend, source: ModelSource) -> int:
        """Tokens to read of a row."""
        return recipe.max_length(None, engine, source, self.texts) if self.classes else MAX_LENGTH

    def train(
        self,
        engine: Backend,
        source: ModelSource,
        bits: int,
        config: LoRAConfig,
        out: Path,
        *,
        held_out: Rows | None = None,
        callback: Progress | None = None,
        recompute: bool = False,
    ) -> list[dict[str, float]]:
        """Train on these rows; see `Backend.train_lora` and `Backend.train_completion`."""
        watch = Watch(held_out=(held_out.texts, held_out.targets) if held_out else None, recompute=recompute)
        how: dict[str, Any] = {"bits": bits, "config": config, "out": out, "callback": callback, "watch": watch}
        if self.classes:
            codes = np.array(self.targets, dtype=np.int64)
            return engine.train_lora(source, self.texts, codes, n_classes=len(self.classes), **how)
        return engine.train_completion(source, self.texts, self.targets, **how)

    def check_fits(self, source: ModelSource, bits: int, config: LoRAConfig, backend: str | None) -> bool:
        """As `estimate.check_training`."""
        width = max(config.max_batch_tokens, config.max_length)
        how: dict[str, Any] = {"last_blocks": config.last_blocks, "rank": config.rank, "backend": backend}
        return estimate.check_training(source, bits, full=config.trains == "weights", batch_tokens=width, **how)


def of(
    data_set: Any,
    engine: Backend,
    source: ModelSource,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    train: int | None = None,
    seed: int = 0,
) -> Rows:
    """The training rows of a task, a table or dialogues: those that `slmkit tune` learns with the same arguments."""
    if isinstance(data_set, str) and dialogues.are_in(data_set):
        known = dialogues.split(data_set, seed=seed, train=train).train.reset_index(drop=True)
        found = [(i, *answer) for i, row in enumerate(known["dialogue"]) for answer in row.answers()]
        prompts = engine.dialogue_prompts(source, [turns for _, turns, _ in found])
        return Rows(str(data_set), prompts, [a for *_, a in found], (), known, [i for i, *_ in found])
    task = tasks.get(data_set, text_column, label_column)
    if not task.labels:
        raise InputError(f"task {task.name!r} turns texts into texts; labels or dialogues are needed")
    known = data.split(task.load(), seed=seed, train=train).train.reset_index(drop=True)
    classes, codes = np.unique(known["label"].astype(str), return_inverse=True)
    texts = known["text"].tolist()
    return Rows(task.name, texts, codes.tolist(), classes.tolist(), known, range(len(texts)))
