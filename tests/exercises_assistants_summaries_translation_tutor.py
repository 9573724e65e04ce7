"""Cases of notebook 80's exercises."""

from __future__ import annotations

import numpy as np
import pandas as pd
from exercise_cases import Case


def sentences() -> dict[str, object]:
    """In three of four sentences the model is nearer."""
    return {"chrf": np.array([0.3, 0.4, 0.5, 0.1]), "of_german": np.array([0.2, 0.1, 0.1, 0.2])}


def larger() -> dict[str, object]:
    models = ["Phi-3-mini", "Phi-3-mini", "Mistral 7B", "Mistral 7B"]
    table = {
        "model": models,
        "bits": [16, 4] * 2,
        "peak_GB": [8.0, 2.5, 15.0, 5.0],
        "stored_GB": [7.6, 2.0, 14.4, 3.75],
    }
    return {"larger": pd.DataFrame(table)}


CASES = {
    "80.1": Case(
        sentences,
        right=[0.75, np.float64(0.75)],
        wrong=[
            (0.25, "other side"),
            (0.325, "mean score"),
            (0.175, "difference of the means"),
            (75, "divide by 100"),
            (0.6, "a number for each sentence"),
        ],
    ),
    "80.2": Case(
        larger,
        right=[3, 3.0, np.float64(3.01)],
        wrong=[
            (1 / 3, "other way round"),
            (3.84, "size on the disk"),
            (4, "what the names promise"),
            (10.0, "divide instead"),
            (7, "at 16 bits by that at 4"),
        ],
    ),
}
