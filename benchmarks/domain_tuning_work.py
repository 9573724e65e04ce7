"""The child of `domain_tuning`: one tuning, or one way of answering, in a process whose peak is its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from slmkit import backends, dialogues, footprint, jobs
from slmkit.finetune import finetune
from slmkit.tasks import domain_dialogues
from slmkit.tuning import facts

ENCODER = "minilm"


def held_out(seed: int, unseen: Sequence[str] = ()) -> tuple[list[dialogues.Dialogue], list[dialogues.Dialogue]]:
    """Dialogues to learn from and held-out ones; those that use a value of `unseen` are all held out.

    Without `unseen` this is the split of `slmkit.finetune`: groups and near-copies on one side.
    """
    split = dialogues.split(dialogues.SHIPPED, seed=seed)
    learned, asked = (list(part["dialogue"]) for part in (split.train, split.test))
    return [row for row in learned if not _uses(row, unseen)], asked + [row for row in learned if _uses(row, unseen)]


def _uses(row: dialogues.Dialogue, some: Sequence[str]) -> bool:
    said = " ".join(turn["content"] for turn in row.messages)
    return any(facts.values.states(said, value) for value in some)


def tune(model: str, seed: int, out: str, unseen: Sequence[str], emit: jobs.Emit, **how: Any) -> dict[str, Any]:
    """Tune on the training dialogues; seconds and peak with all that `slmkit.finetune` does."""
    data: Any = dialogues.SHIPPED
    if unseen:
        rows = held_out(seed, unseen)[0]
        data = pd.DataFrame({"messages": [list(row.messages) for row in rows], "group": [row.group for row in rows]})
        how["test_share"] = 0.01
    began = time.perf_counter()
    tuned = finetune(model, data, out=out, seed=seed, progress=lambda e: emit({"event": "tune", **e}), **how)
    return {
        "train_s": time.perf_counter() - began,
        "train_peak_bytes": footprint.peak_ram_bytes(),
        "loss_before": tuned.loss_before,
        "loss_after": tuned.loss_after,
        "n_train": tuned.n_train,
    }


def answer(
    model: str,
    bits: int,
    adapter: str | None,
    notes: str,
    seed: int,
    unseen: Sequence[str],
    most_tokens: int,
    rows: int | None,
    emit: jobs.Emit,
) -> dict[str, Any]:
    """Answers of one way to the held-out questions, what each took, and what had to be held for it."""
    sheet = domain_dialogues.facts()
    asked = facts.questions(held_out(seed, unseen)[1], sheet)[:rows]
    with contextlib.ExitStack() as stack:
        loaded = stack.enter_context(backends.load(model, bits=bits, adapter=Path(adapter) if adapter else None))
        stored = loaded.weight_bytes() + _adapter_bytes(adapter)
        find: facts.Notes | None = None
        if notes == "all":
            find = lambda question: list(sheet["fact"])  # noqa: E731
        elif notes:
            encoder = stack.enter_context(backends.load(ENCODER))
            stored, find = stored + encoder.weight_bytes(), facts.nearest(encoder, list(sheet["fact"]), int(notes))
        facts.ask(loaded, asked[:1], notes=find, max_new_tokens=4)  # warm
        found = facts.ask(
            loaded,
            asked,
            notes=find,
            max_new_tokens=most_tokens,
            progress=lambda done, n: emit({"event": "answer", "step": done, "steps": n}),
        )
    return {
        "texts": [one.text for one in found],
        "seconds": [one.seconds for one in found],
        "prompt_tokens": [one.n_prompt_tokens for one in found],
        "new_tokens": [one.n_new_tokens for one in found],
        "ended": [one.finish_reason == "stop" for one in found],
        "stored_bytes": stored,
        "peak_bytes": footprint.peak_ram_bytes(),
    }


def _adapter_bytes(adapter: str | None) -> int:
    return sum(path.stat().st_size for path in Path(adapter).glob("*.safetensors")) if adapter else 0


def _serve(job: dict[str, Any], emit: jobs.Emit) -> dict[str, Any]:
    if job.pop("do") == "tune":
        return tune(**job, emit=emit)
    return answer(**job, emit=emit)


if __name__ == "__main__":
    jobs.serve(_serve)
