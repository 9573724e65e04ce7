"""Dialogues to tune an assistant on, from a file or a frame: the turns before an answer, and the answer.

Rows hold `messages` (turns with role and content, as chat data commonly come), or the columns prompt and answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slmkit import data, splits
from slmkit.errors import InputError, listed
from slmkit.reading import tables

ROLES = ("system", "user", "assistant")
SHIPPED = "domain_dialogues"


@dataclass(frozen=True)
class Dialogue:
    """Turns that end in an answer.

    Attributes
    ----------
    messages : tuple of mapping
        Turns {"role", "content"}, the last one the assistant's.
    group : str
        Dialogues that share it are never split; "" for none.
    """

    messages: tuple[Mapping[str, str], ...]
    group: str = ""

    @property
    def text(self) -> str:
        """What was said before the last answer by others than the assistant: what makes two dialogues the same."""
        return "\n".join(turn["content"] for turn in self.messages[:-1] if turn["role"] != "assistant")

    def answers(self) -> list[tuple[tuple[Mapping[str, str], ...], str]]:
        """Every answer of the assistant, with the turns before it."""
        turns = self.messages
        found = [i for i, turn in enumerate(turns) if turn["role"] == "assistant" and i]
        return [(turns[:i], turns[i]["content"]) for i in found]


def are_in(source: str) -> bool:
    """Whether a name or file holds dialogues rather than labelled texts, by its name or its columns."""
    if source == SHIPPED or not Path(source).is_file():
        return source == SHIPPED
    columns = set(data.table_of(source, guessing=False)[1].columns)
    return "messages" in columns or {"prompt", "answer"} <= columns


def read(path_or_frame: Any) -> list[Dialogue]:
    """Read dialogues.

    Parameters
    ----------
    path_or_frame : str, Path, DataFrame or datasets.Dataset
        Whatever `slmkit.data.read` reads, with a column `messages`, or with the columns prompt and answer; a column
        group says which rows belong together.

    Raises
    ------
    InputError
        No such columns, or rows that are no dialogues: each with its number (from 1) and why.
    """
    where, table, _ = data.table_of(path_or_frame, guessing=False)
    groups = list(map(tables.as_text, table["group"])) if "group" in table else [""] * len(table)
    if "messages" in table:
        turns = [_as_list(cell) for cell in table["messages"]]
    elif {"prompt", "answer"} <= set(table.columns):
        columns = ([tables.as_text(cell).strip() for cell in table[name]] for name in ("prompt", "answer"))
        turns = [_turns(*pair) for pair in zip(*columns, strict=True)]
    else:
        raise InputError(
            f"{where}: dialogues need the column messages, or the columns prompt and answer; got "
            f"{listed(table.columns)}"
        )
    problems = [(number, _problem(row)) for number, row in enumerate(turns, 1)]
    if wrong := [f"row {number}: {what}" for number, what in problems if what]:
        tables.fail(where, wrong)
    return [Dialogue(tuple(_turn(t) for t in row), group) for row, group in zip(turns, groups, strict=True)]


def split(data: Any, *, seed: int, train: int | None = None, test_share: float = 0.2) -> splits.Split:
    """Dialogues to learn from and dialogues held out, as `slmkit.finetune` cuts them.

    Parameters
    ----------
    data : str, Path or DataFrame
        "domain_dialogues", or what `read` reads.
    seed, train, test_share
        See `slmkit.splits.hold_out`: near-copies and groups are never cut in two.

    Returns
    -------
    Split
        Both parts hold the columns text, group and dialogue (a `Dialogue`).
    """
    if isinstance(data, str) and data == SHIPPED:
        from slmkit_data import path

        data = path(f"{SHIPPED}.jsonl")
    if train is not None and train < 1:
        raise InputError(f"train must be at least 1; got {train!r}")
    found = read(data)
    columns = {"text": [d.text for d in found], "group": [d.group for d in found], "dialogue": found}
    return splits.hold_out(pd.DataFrame(columns), seed=seed, train=train, test_share=test_share)


def _turns(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _turn(turn: Mapping[str, Any]) -> dict[str, str]:
    return {"role": turn["role"], "content": turn["content"]}


def _as_list(cell: Any) -> Any:
    return list(cell) if hasattr(cell, "__iter__") and not isinstance(cell, str | Mapping) else cell


def _problem(turns: Any) -> str | None:
    """What keeps turns from being a dialogue, in words."""
    if not isinstance(turns, Sequence) or isinstance(turns, str) or len(turns) < 2:
        return f"messages must be a list of at least 2 turns; got {turns!r:.80}"
    for turn in turns:
        if not isinstance(turn, Mapping) or turn.get("role") not in ROLES:
            return f"a turn needs a role, one of {', '.join(ROLES)}; got {turn!r:.80}"
        if not isinstance(turn.get("content"), str) or not turn["content"].strip():
            return f"a turn needs a content that is not empty; got {turn!r:.80}"
    return None if turns[-1]["role"] == "assistant" else "the last turn must be the assistant's"
