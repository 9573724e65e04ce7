"""Rows that tests of tuning learn from: dialogues, and messages of two labels."""

from __future__ import annotations

import numpy as np
import pandas as pd

ASKED = ["Is this fraud?", "The train is late again. Is it, or will you say that it is not late?", "Call now?", "Hi"]
TOLD = ["Yes, call the bank.", "No.", "Yes.", "Thanks for the flowers, they are lovely."]
GOOD = ["see you at lunch tomorrow", "the train is late again", "thanks for the flowers", "lovely to see you"]
BAD = ["you have won a free prize", "confirm your password now", "claim your prize now", "your card is blocked now"]
TEXTS = [f"{text} {n}" for n in range(4) for pair in zip(GOOD, BAD, strict=True) for text in pair]
LABELS = ["ham", "spam"] * (len(TEXTS) // 2)
WORDS = [
    "desk",
    "river",
    "march",
    "copper",
    "lemon",
    "signal",
    "garden",
    "winter",
    "paper",
    "engine",
    "bridge",
    "coffee",
]


def risen_or_fallen(n: int) -> list[str]:
    """Texts of seven words, of which the last tells every second from the others."""
    rng = np.random.default_rng(0)
    return [" ".join([*rng.permutation(WORDS)[:6], "rose" if i % 2 else "fell"]) for i in range(n)]


def table(n: int = 12) -> pd.DataFrame:
    subjects = (
        "bank",
        "train",
        "parcel",
        "account",
        "flower",
        "lunch",
        "phone",
        "card",
        "letter",
        "price",
        "news",
        "fee",
    )[:n]
    return pd.DataFrame({"prompt": [f"What about {s} number {i}?" for i, s in enumerate(subjects)], "answer": "No."})
