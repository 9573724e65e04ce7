"""Cases of notebook 30's exercises."""

from __future__ import annotations

import numpy as np
from exercise_cases import Case

from slmkit import thresholds


def half() -> dict[str, object]:
    """Two of eight are fraud; one is caught, with one false alarm."""
    y, p = [True, True, *[False] * 6], [0.9, 0.1, 0.8, *[0.2] * 5]
    return {"half": thresholds.at(y, p, 0.5, miss_cost=20, false_alarm_cost=1)}


def rows() -> dict[str, object]:
    """Measured: 9 of 10 frauds and 1 of 10 others flagged; where the threshold was chosen 8 of 10 and 2 of 10."""
    flagged = np.repeat([True, False] * 4, [9, 1, 1, 9, 8, 2, 2, 8])  # frauds, then others, of either part
    is_fraud, aside = np.repeat([True, False] * 2, 10), np.repeat([False, True], 20)
    return {"is_fraud": is_fraud, "p_fraud": np.where(flagged, 0.9, 0.1), "aside": aside, "chosen": 0.5}


RARE = 0.002 * 0.9 / (0.002 * 0.9 + 0.998 * 0.1)
WHERE_CHOSEN = 0.002 * 0.8 / (0.002 * 0.8 + 0.998 * 0.2)
CASES = {
    "30.1": Case(
        half,
        right=[750 - 2625, np.float64(-1875.0)],
        wrong=[
            (1875, "not the other way round"),
            (5000 - 2625, "dearer"),
            (2625, "what the model costs"),
            (0, "smaller of the two"),
        ],
    ),
    "30.2": Case(
        rows,
        right=[RARE, round(RARE, 3)],
        wrong=[
            (0.9, "as in these rows"),
            (1 - RARE, "false ones"),
            (WHERE_CHOSEN, "~aside"),
            (0.5, "precision"),
            (1.77, "divide by 100"),
        ],
    ),
}
