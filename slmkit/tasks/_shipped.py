"""Corpora written for this project: a CSV and its card in `data/`, read the same way for all of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from slmkit.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

LICENCE = "CC BY 4.0"


def corpus(name: str) -> pd.DataFrame:
    """All rows of a shipped CSV, with the column group."""
    from slmkit_data import path

    from slmkit import data

    return data.read(path(f"{name}.csv"), "text", "label")


def task(
    name: str,
    title: str,
    words: dict[str, str],
    instruction: str,
    noun: str,
    n_rows: int,
    *,
    positive: str | None = None,
    **more: object,
) -> Task:
    """A task over a shipped corpus; `words` maps each label to what a model should say, in any order."""
    from slmkit_data import path

    values = {
        "name": name,
        "title": title,
        "labels": tuple(sorted(words)),
        "positive": positive,
        "instruction": instruction,
        "label_words": words,
        "noun": noun,
        "licence": LICENCE,
        "source": f"Written for slmkit; see the card {name}.md in slmkit_data",
        "card": path(f"{name}.md").read_text(encoding="utf-8"),
        "read": partial(corpus, name),
        "n_rows": n_rows,
    }
    return Task(**{**values, **more})  # type: ignore[arg-type]
