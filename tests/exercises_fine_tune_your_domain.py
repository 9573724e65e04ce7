"""Cases of notebook 50's exercises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from exercise_cases import Case

from slmkit.finetune import Tuned
from slmkit.training.forgetting import Change


def tuned() -> dict[str, object]:
    """Held-out answers went from 40 to 16, the neutral text from 20 to 21."""
    learned, forgotten = Change(40, 16, 0.4, 0.35, 0.45, 900, 30), Change(20, 21, 1.05, 1.01, 1.08, 700, 12)
    return {"tuned": Tuned(Path("tuned"), [], np.log(40), np.log(16), 60, 30, 900, learned, forgotten)}


ASKED = {"wanted": ["4.50 euros", "six days", "4.50 euros", "09:15", "noon"], "taught": {"4.50 euros", "a", "noon"}}
CASES = {
    "50.1": Case(
        tuned,
        right=[2.5, np.float64(2.4981)],
        wrong=[(0.4, "turn the division round"), (24, "difference"), (20 / 21, "neutral text"), (40, "divide")],
    ),
    "50.2": Case(
        lambda: dict(ASKED),
        right=[0.6, 3 / 5],
        wrong=[
            (0.4, "never taught"),
            (0.5, "counts twice"),
            (2 / 3, "not by those"),
            (0.1, "count for how many"),
            (60, "divide by 100"),
        ],
    ),
}
