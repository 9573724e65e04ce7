"""Compliance notes: what an invented bank's sales staff say to clients, by its rule book; written here and shipped."""

from __future__ import annotations

from slmkit.tasks._shipped import task

TASKS = (
    task(
        "compliance_notes",
        "Compliance notes",
        {"needs_review": "review", "permitted": "permitted", "prohibited": "prohibited"},
        "Decide whether the statement of a bank's sales staff is permitted, prohibited or needs review by compliance.",
        "statement",
        n_rows=450,
    ),
)
