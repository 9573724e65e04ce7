"""The child of `fit_error`: one case through slmkit's own code, in a process whose peak is this case's own.

`prepare` makes the copies that a first use would make, so that `measure` finds them; `slmkit.jobs` runs both.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from slmkit import assets, backends, footprint, jobs
from slmkit.backends.base import LoRAConfig
from slmkit.training import ways

STEPS = 3
LABELS = ((" x", " y"), (" no x", " yes x"))


def prepare(model: str, bits: int, **_: Any) -> dict[str, Any]:
    """Load once, so that the de-quantised and quantised copies are in the cache."""
    with backends.load(model, bits=bits) as loaded:
        return {"stored_bytes": loaded.weight_bytes()}


def measure(model: str, bits: int, method: str, seq: int, batch: int, last_blocks: int | None) -> dict[str, Any]:
    """Run the case; seconds of its main call and the process's peak, in bytes."""
    if method in ways.WAYS:
        seconds = _train(model, bits, method, seq, batch, last_blocks)
    else:
        seconds = _infer(model, bits, method, seq, batch)
    return {"seconds": seconds, "peak_bytes": footprint.peak_ram_bytes()}


def _rows(count: Any, seq: int, batch: int) -> list[str]:
    """Texts of `seq` tokens, every second one a token shorter so that there is padding, no beginning in common."""
    letters = "abcdefghijklmnopqrstuvwxyz"

    def text(i: int, words: int) -> str:
        head = f"{letters[i % 26]} {letters[i // 26 % 26]}"
        return head + " x" * words

    n_words = next(n for n in range(seq, 0, -1) if count([text(0, n)])[0] <= seq)
    return [text(i, n_words - i % 2) for i in range(batch)]


def _labels(count: Any) -> tuple[str, str]:
    """Two labels of two tokens each, as words that are not single tokens have them."""
    special = int(count([""])[0]) if int(count(["x"])[0]) > 1 else 0
    return next(pair for pair in LABELS if set(count(list(pair))) == {special + 2})


def _infer(model: str, bits: int, method: str, seq: int, batch: int) -> float:
    with backends.load(model, bits=bits) as loaded:
        rows = _rows(loaded.count_tokens, seq, batch)
        calls = {
            "score": lambda: loaded.loglikelihood(rows, _labels(loaded.count_tokens)),
            "generate": lambda: loaded.generate(rows, max_new_tokens=8),
            "embed": lambda: loaded.embed(rows),
        }
        began = time.perf_counter()
        calls[method]()
        return time.perf_counter() - began


def _train(model: str, bits: int, method: str, seq: int, batch: int, last_blocks: int | None) -> float:
    source = assets.resolve(model)
    texts = _rows(lambda t: backends.count_tokens(model, t), seq, batch)
    y = np.arange(batch) % 2
    config = LoRAConfig(
        epochs=STEPS, batch_size=batch, last_blocks=last_blocks, max_length=seq, max_batch_tokens=batch * seq,
        trains=ways.get(method).trains, learning_rate=ways.rate(method, None),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        history = backends.choose("bnb").train_lora(
            source, texts, y if batch > 1 else np.zeros(1, int), n_classes=2, bits=bits, config=config, out=Path(out)
        )
        assert len(history) == STEPS
        return time.perf_counter() - began


def _serve(job: dict[str, Any], _: jobs.Emit) -> dict[str, Any]:
    return {"prepare": prepare, "measure": measure}[job.pop("do")](**job)


if __name__ == "__main__":
    jobs.serve(_serve)
