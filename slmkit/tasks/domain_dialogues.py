"""Help-desk dialogues of an invented bank, for tuning an assistant, and the facts they agree with; written and shipped.

As a task the customer's first message is sorted by topic; `dialogues` and `facts` give what tuning needs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from slmkit.tasks._shipped import task

if TYPE_CHECKING:
    import pandas as pd

NAME = "domain_dialogues"
TOPICS = {
    "accounts": "accounts",
    "app": "app",
    "branches_and_contact": "contact",
    "cards": "cards",
    "declined": "other",
    "lending": "lending",
    "savings": "savings",
    "services": "services",
    "transfers": "transfers",
}


def dialogues() -> list[dict[str, Any]]:
    """All dialogues: `messages` (turns with `role` and `content`), `topic`, `facts` (ids) and `group`."""
    from slmkit_data import path

    return [json.loads(line) for line in path(f"{NAME}.jsonl").read_text(encoding="utf-8").splitlines()]


def facts() -> pd.DataFrame:
    """The bank's fact sheet: `fact_id`, `topic`, `fact`, and `value`, which an answer that uses the fact must hold."""
    import pandas as pd
    from slmkit_data import path

    return pd.read_csv(path("larkmoor_facts.csv"), dtype=str, keep_default_na=False)


def read() -> pd.DataFrame:
    """Each customer's first message with the dialogue's topic as its label, and the column group."""
    from slmkit import data

    rows = dialogues()
    texts = [next(turn["content"] for turn in row["messages"] if turn["role"] == "user") for row in rows]
    return data.finish(texts, [row["topic"] for row in rows], [row["group"] for row in rows])


TASKS = (
    task(
        NAME,
        "Help-desk dialogues",
        TOPICS,
        "Decide what the question to the bank's help desk is about: accounts, app, contact, cards, lending, savings, "
        "services, transfers or other.",
        "question",
        n_rows=330,
        read=read,
    ),
)
