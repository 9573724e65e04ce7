"""Fraud messages: texts, e-mails, chats and calls nearly half of them fraud; written for this project and shipped."""

from __future__ import annotations

from slmkit.tasks._shipped import task

TASKS = (
    task(
        "fraud_messages",
        "Fraud messages",
        {"fraud": "fraud", "legitimate": "legitimate"},
        "Decide whether the message is an attempt to defraud its reader or a legitimate message.",
        "message",
        n_rows=979,
        positive="fraud",
    ),
)
