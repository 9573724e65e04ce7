"""Cases of notebook 00's exercises."""

from __future__ import annotations

from exercise_cases import Case
from sample_runs import a_floor, a_run


def runs() -> dict[str, object]:
    floor = a_floor(102, latency_p50_s=0.0008, recall_by_class={"fraud": 0.75, "legitimate": 0.9})
    return {"runs": [floor, a_run("embedding", "minilm"), a_run(latency_p50_s=0.04), a_run(bits=4, latency_p50_s=0.05)]}


CASES = {
    "00.1": Case(
        runs,
        right=[50, 50.4],
        wrong=[
            (0.02, "turn the division round"),
            (0.0392, "difference"),
            (39.2, "difference"),
            (62.5, '"lora" at 16 bits'),
            ("fifty", "without quotes"),
        ],
    ),
    "00.2": Case(
        runs,
        right=[0.25, 0.2499],
        wrong=[
            (0.75, "finds, its recall"),
            (0.15, "all messages"),
            (25, "divide by 100"),
            (0.4, "recall_by_class"),
            (-1, "share"),
        ],
    ),
}
