"""Learning curves from runs whose errors follow known laws: for the tests of what is read off them, and of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sample_runs import a_floor, a_run

from slmkit import metrics
from slmkit.curves import learning as curve
from slmkit.curves.learning import LearningCurve
from slmkit.runs import Run, probability_frame, write_run
from slmkit.study import StudyResult

SIZES = (16, 32, 64, 128, 256)
Rate = Callable[[int], float]


def a_curve(
    folder: Path, rates: Mapping[str, Rate], *, seeds: int = 3, n_test: int = 1000, without: Any = (), **changes: Any
) -> LearningCurve:
    """The curve of recorded runs whose errors follow `rates`; rows are hard or easy for every method alike."""
    runs: list[Run] = []
    for seed in range(seeds):
        ease = np.random.default_rng(seed).permutation(n_test) / n_test
        labels = np.where(np.arange(n_test) % 2, "fraud", "genuine")
        other = np.where(labels == "fraud", "genuine", "fraud")
        for method, rate in rates.items():
            for size in SIZES[:1] if method == "prompt" else SIZES:
                if (method, size, seed) in without:
                    continue
                right = ease >= rate(size)
                predicted = np.where(right, labels, other)
                proba = np.stack([predicted == "fraud", predicted == "genuine"], axis=1).astype(float)
                low, high = metrics.wilson(int(right.sum()), n_test)
                scores = {"accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high}
                facts = {**scores, "seed": seed, "n_train": size, "n_test": n_test, "run_id": f"{method}{size}{seed}"}
                facts |= {"params": {"shots": 4}} if method == "prompt" else {}
                run = a_floor(**facts) if method == "floor" else a_run(method=method, **{**facts, **changes})
                frame = probability_frame(np.arange(n_test), labels, proba, ["fraud", "genuine"])
                write_run(run, folder / "runs", frame)
                runs.append(run)
    return curve.finished("fraud_messages", SIZES, StudyResult(runs, [], 1.0, 1, folder / "runs"), folder)


def falling(b: float, c: float = 0.5, a: float = 0.0) -> Rate:
    return lambda n: a + b * n**-c
