"""Cases of notebook 70's exercises."""

from __future__ import annotations

import numpy as np
import pandas as pd
from exercise_cases import Case


def pairs() -> dict[str, object]:
    """Of 20 pairs 8 overlap, of these 1 differs; 11 differ in all."""
    overlap = np.arange(20) < 8
    return {"pairs": pd.DataFrame({"intervals_overlap": overlap, "differ": [i == 0 or 8 <= i < 18 for i in range(20)]})}


CASES = {
    "70.1": Case(
        pairs,
        right=[0.125, np.float64(0.1251)],
        wrong=[
            (0.05, "not by all pairs"),
            (1 / 11, "begins with those that overlap"),
            (0.55, "keep those with overlapping"),
            (0.4, "which part of"),
            (12.5, "divide by 100"),
            (0.9, "to begin with"),
        ],
    ),
    "70.2": Case(
        lambda: {"joules": [0.002, 1.475]},
        right=[0.592, 0.5921],
        wrong=[
            (0.5912, "has read the rows"),
            (0.59, "costs something as well"),
            (1.477, "not asked about every row"),
            (592.0, "multiplied by 1000"),
            (3, "four rows in ten"),
        ],
    ),
}
