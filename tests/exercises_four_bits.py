"""Cases of notebook 40's exercises."""

from __future__ import annotations

import pandas as pd
from exercise_cases import Case


def cards() -> dict[str, object]:
    sixteen = 269_000_000
    return {"cards": [{"bits": b, "stored_bytes": n, "bytes_16bit": sixteen} for b, n in ((8, 136e6), (4, 71e6))]}


def costs() -> dict[str, object]:
    columns = ["bits", "n_test", "points", "low", "high"]
    rows = [[16, 60, None, None, None], [8, 60, 0.0, -4.2, 4.2], [4, 60, -1.7, -8.1, 5.3]]
    return {"costs": pd.DataFrame(rows, columns=columns)}


CASES = {
    "40.1": Case(
        cards,
        right=[0.264, 71 / 269],
        wrong=[
            (0.25, "name promises"),
            (0.736, "saved"),
            (0.5056, "8 bits"),
            (0.1, "bytes_16bit"),
            (26.4, "divide by 100"),
        ],
    ),
    "40.2": Case(
        costs,
        right=[-8.1, -8.12],
        wrong=[
            (8.1, "sign"),
            (-1.7, "that was seen"),
            (5.3, "best"),
            (-0.081, "hundredths"),
            (-4.2, "lower end"),
            (pd.DataFrame({"low": [1, 2]}), "2 x 1"),
        ],
    ),
}
