"""Cases of notebook 20's exercises."""

from __future__ import annotations

import numpy as np
import pandas as pd
from exercise_cases import Case
from sample_runs import a_run


def moved() -> dict[str, object]:
    """Of seven answers that changed four became right, one stopped being right, two were and are wrong."""
    truth = ["up", "up", "down", "down", "flat", "up", "down"]
    before = ["down", "flat", "up", "flat", "flat", "down", "up"]
    after = ["up", "up", "down", "down", "up", "flat", "flat"]
    return {"moved": pd.DataFrame({"label": truth, "zero-shot": before, "few-shot": after})}


def sure() -> dict[str, object]:
    """Four answers, on average sure to 80 %, half of them right."""
    top = np.array([0.9, 0.8, 0.8, 0.7])
    frame = pd.DataFrame({"label": list("abab"), "predicted": list("aaaa"), "p_a": top, "p_b": 1 - top})
    return {"sure": frame, "best": a_run(accuracy=0.5)}


CASES = {
    "20.1": Case(
        moved,
        right=[3, np.int64(3), 3.0],
        wrong=[(-3, "the other way round"), (4, "take off"), (1, "subtract"), (7, "so many"), (0.5, "whole number")],
    ),
    "20.2": Case(
        sure,
        right=[30, 30.04, np.float64(29.97)],
        wrong=[(-30, "above zero"), (0.3, "is a share"), (80, "on average"), (50, "highest probability")],
    ),
}
