"""Cases of notebook 60's exercises."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from exercise_cases import Case


def students(*gains: tuple[str, float, float]) -> dict[str, object]:
    made = {name: SimpleNamespace(figures={"gain": gain, "p_vs_labels": p}) for name, gain, p in gains}
    return {"students": made}


def right() -> dict[str, object]:
    """Of 200 rows 160, 200 and 150 are right."""
    names = ("guarded", "leaking, with labels", "leaking, texts alone")
    return {"right": {name: np.arange(200) < k for name, k in zip(names, (160, 200, 150), strict=True)}}


CASES = {
    "60.1": Case(
        lambda: students(("word counts", 0.2, 0.001), ("half", 0.1, 0.01), ("whole", 0.3, 0.2), ("flat", 0.0, 1.0)),
        right=["word counts", "Word counts "],
        wrong=[
            ("half", "another one gained more"),
            ("whole", "may be luck"),
            ("flat", "did not gain"),
            ("none", "there is one whose gain"),
            ("teacher", "one of these, in quotes"),
        ],
    ),
    "60.2": Case(
        right,
        right=[20, 20.0, np.float64(20.04)],
        wrong=[
            (-20, "sign"),
            (0.2, "multiply by 100"),
            (-5, "texts alone"),
            (100, "one of the two scores"),
            (13, "the means of"),
        ],
    ),
}
