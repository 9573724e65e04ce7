"""Learning-rate range test: one short training whose rate rises until the loss diverges, and what to take from it.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slmkit import assets, backends
from slmkit.backends.base import LoRAConfig, Progress
from slmkit.errors import InputError
from slmkit.training import ways
from slmkit.tuning import rows as material

SMOOTHING = 0.8  # of the mean before, in the mean that follows the losses
BELOW = 10.0  # the suggestion lies that factor below the rate of the lowest loss
LEAST_STEPS = 10


@dataclass(frozen=True)
class Rates:
    """What a range test found.

    Attributes
    ----------
    frame : DataFrame
        Columns learning_rate, loss, smoothed (exponential mean of the losses, its beginning corrected), a row a step.
    suggestion : float
    reason : str
        How it was chosen, in words.
    """

    frame: pd.DataFrame
    suggestion: float
    reason: str


def find_lr(
    model: str,
    data_set: Any,
    *,
    method: str = "lora",
    bits: int | None = None,
    last_blocks: int | None = None,
    rank: int = 16,
    alpha: int = 32,
    low: float = 1e-6,
    high: float = 0.1,
    steps: int = 60,
    batch_size: int = 16,
    max_batch_tokens: int = 1024,
    train: int | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    backend: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Rates:
    """Train for some steps at rising learning rates, on training rows alone, and suggest one; nothing is kept.

    Parameters
    ----------
    model, data_set, method, bits, last_blocks, rank, alpha, train, text_column, label_column, backend, seed
        As `slmkit tune` takes them: the suggestion holds for these settings.
    low, high : float
        First and last rate. From too high a beginning on the loss never falls, and there is nothing to see.
    steps : int
        More steps see more rows at each rate, and take longer.
    batch_size, max_batch_tokens : int
        See `LoRAConfig`. A larger batch bears a higher rate.
    progress : callable or None
        Gets the events of `Backend.train_lora`.

    Returns
    -------
    Rates

    Raises
    ------
    InputError
        Unusable settings, or a loss that never falls between `low` and `high`.
    """
    if not 0 < low < high <= 1 or steps < LEAST_STEPS:
        raise InputError(
            f"rates must be 0 < low < high <= 1, and steps at least {LEAST_STEPS}; got {low!r}, {high!r} and {steps!r}"
        )
    source = assets.resolve(model)
    bits, last_blocks = ways.choose(method, bits, last_blocks, source, writes=False)
    engine, source = backends.engine_for(source, backend), backends.prepare(source)
    columns = {"text_column": text_column, "label_column": label_column}
    rows = material.of(data_set, engine, source, train=train, seed=seed, **columns)
    config = LoRAConfig(
        rank=rank, alpha=alpha, learning_rate=high, lowest_rate=low, batch_size=batch_size, last_blocks=last_blocks,
        epochs=steps / -(-len(rows.texts) // batch_size), max_length=rows.max_length(engine, source),
        max_batch_tokens=max_batch_tokens, seed=seed, trains=ways.get(method).trains,
    )  # fmt: skip
    lean = rows.check_fits(source, bits, config, backend)
    with tempfile.TemporaryDirectory(prefix="slmkit-rates-") as folder:
        history = rows.train(engine, source, bits, config, Path(folder), callback=progress, recompute=lean)
    return of_losses([entry["learning_rate"] for entry in history], [entry["loss"] for entry in history])


def of_losses(rates: list[float], losses: list[float]) -> Rates:
    """The suggestion that rates and the losses at them give; `InputError` when no loss is below the first ones."""
    smooth = smoothed(losses)
    lowest = int(np.argmin(smooth))
    first = max(1, len(smooth) // 10)
    if lowest < first or smooth[lowest] > 0.99 * smooth[:first].mean():
        raise InputError(
            f"the loss never fell between rates of {rates[0]:.1g} and {rates[-1]:.1g}: take more steps, or other bounds"
        )
    frame = pd.DataFrame({"learning_rate": rates, "loss": losses, "smoothed": smooth})
    suggestion = float(f"{rates[lowest] / BELOW:.1e}")
    return Rates(frame, suggestion, f"a tenth of {rates[lowest]:.1e}, where the smoothed loss is lowest")


def smoothed(losses: list[float]) -> np.ndarray:
    """Exponential mean of losses, float64 (n,), corrected for its beginning at zero as Adam's moments are."""
    mean, out = 0.0, []
    for step, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        out.append(mean / (1 - SMOOTHING**step))
    return np.array(out)
