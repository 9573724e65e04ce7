"""Finance sentiment: sentences on invented companies with the traps of the field, written for this project; shipped."""

from __future__ import annotations

from slmkit.tasks._shipped import task

TASKS = (
    task(
        "finance_sentiment",
        "Finance sentiment",
        {"negative": "negative", "neutral": "neutral", "positive": "positive"},
        "Decide whether the sentence is positive, neutral or negative for the company's share price.",
        "sentence",
        n_rows=960,
    ),
)
