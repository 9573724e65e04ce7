"""Cases of notebook 10's exercises."""

from __future__ import annotations

import numpy as np
import pandas as pd
from exercise_cases import Case

from slmkit.splits import Split


def split() -> dict[str, object]:
    """Seven of ten train rows and 12 of 20 test rows are legitimate."""
    labels = ["legitimate"] * 7 + ["fraud"] * 3, ["legitimate"] * 12 + ["fraud"] * 8
    train, test = (pd.DataFrame({"text": [f"row {i}" for i in range(len(y))], "label": y}) for y in labels)
    return {"split": Split(train, test, [])}


CASES = {
    "10.1": Case(
        lambda: {"random": np.float64(0.857), "guarded": 0.821},
        right=[3.6, np.float64(3.61)],
        wrong=[(-3.6, "sign"), (0.036, "multiply by 100"), (4.385, "percent"), (85.7, "less the mean")],
    ),
    "10.2": Case(
        split,
        right=[0.6, np.float64(0.6), pd.Series([0.6])],
        wrong=[
            (0.7, "train rows"),
            (0.4, "another class"),
            (0.5, "dice"),
            (0.1, "most frequent label"),
            (60, "divide by 100"),
            ("legitimate", "without quotes"),
        ],
    ),
}
