"""Fraud messages: texts, e-mails, chats and calls written for this project, nearly half of them fraud; shipped with it.

The rows are made up and carry no person's data; `data/fraud_messages.md` says how they were written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmkit.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

CARD = """# Fraud messages
Messages written for this project: attempts to defraud beside honest messages on the same subjects.

- Made up, not collected: good for trying things out and for teaching; a score on them says little about real traffic.
- `group` ties the rows of one story, thread or sender together; they stay on one side of a split.
- Licence: CC BY 4.0. The full card is `fraud_messages.md` beside the rows.
"""


def load() -> pd.DataFrame:
    """All rows, with the column group."""
    from slmkit_data import path

    from slmkit import data

    return data.read(path("fraud_messages.csv"), "text", "label")


TASKS = (
    Task(
        name="fraud_messages",
        title="Fraud messages",
        labels=("fraud", "legitimate"),
        positive="fraud",
        instruction="Decide whether the message is an attempt to defraud its reader or a legitimate message.",
        label_words={"fraud": "fraud", "legitimate": "legitimate"},
        noun="message",
        licence="CC BY 4.0",
        source="Written for slmkit; see the card fraud_messages.md in slmkit_data",
        card=CARD,
        load=load,
    ),
)
