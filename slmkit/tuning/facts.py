"""What a tuned assistant knows: the share of a fact sheet's values that its answers state, and what they make up.

A question asks for those values of the sheet that its reference answer states and that nothing said before gave away.
Intervals are bootstrapped over groups of dialogues (Efron & Tibshirani 1993), since the answers of one story stand or
fall together; two assistants are compared on the same questions by exchanging them within groups at random (Noreen
1989). Whether a sentence around a right value is right, nothing here can see.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from slmkit import assets, files, metrics
from slmkit.backends.base import Generation, LanguageModel
from slmkit.dialogues import Dialogue
from slmkit.errors import InputError, listed
from slmkit.tuning import values

RESAMPLES = 10_000
Turns = tuple[Mapping[str, str], ...]
Notes = Callable[["Question"], Sequence[str]]


class Embeds(Protocol):
    """What turns texts into vectors: an encoder, or word counts."""

    def embed(self, texts: Sequence[str], /) -> np.ndarray:
        """Shape (n_texts, any width)."""
        ...


@dataclass(frozen=True)
class Question:
    """What is asked of an assistant.

    Attributes
    ----------
    turns : tuple of mapping
        What was said before, the customer last.
    reference : str
        The answer that was given.
    values : tuple of str
        Values of the sheet that a right answer states; none where the desk declines.
    group : str
        Questions that share it are not independent; "" for none.
    """

    turns: Turns
    reference: str
    values: tuple[str, ...]
    group: str = ""

    @property
    def said(self) -> str:
        """All turns before the answer."""
        return "\n".join(turn["content"] for turn in self.turns)


@dataclass(frozen=True)
class FactScore:
    """How right answers are, in shares; intervals at 95 %.

    Attributes
    ----------
    recall, low, high : float
        Share of the values asked for that the answers state.
    n_facts, n_questions : int
        Values asked for, and questions that ask for any.
    all_right : float
        Share of those questions of which every value is stated.
    invented, invented_low, invented_high : float
        Share of all answers with a measure (amount, time, phone number) that stands neither on the sheet nor in what
        was said before.
    n_answers : int
        All answers, those to questions that ask for no value among them.
    """

    recall: float
    low: float
    high: float
    n_facts: int
    n_questions: int
    all_right: float
    invented: float
    invented_low: float
    invented_high: float
    n_answers: int


def sheet_of(sheet: pd.DataFrame) -> pd.DataFrame:
    """A checked fact sheet: the columns fact (a sentence) and value (what an answer that uses it must state)."""
    if missing := [name for name in ("fact", "value") if name not in sheet]:
        raise InputError(
            f"a fact sheet needs the columns fact and value; no {' and no '.join(missing)} among {listed(sheet)}"
        )
    wrong = [
        f"row {number}: the value {row.value!r} does not stand in the fact {row.fact!r}"
        for number, row in enumerate(sheet.itertuples(), 1)
        if not values.states(str(row.fact), str(row.value))
    ]
    if wrong or sheet.empty:
        raise InputError("; ".join(wrong) or "the fact sheet has no rows")
    return sheet


def questions(rows: Iterable[Dialogue], sheet: pd.DataFrame) -> list[Question]:
    """Every answer of some dialogues as a question, with what it asks for.

    Parameters
    ----------
    rows : iterable of Dialogue
    sheet : DataFrame
        Columns fact and value.

    Raises
    ------
    InputError
        A sheet without these columns or with a value that its fact does not state; dialogues that use no value.
    """
    known = list(dict.fromkeys(sheet_of(sheet)["value"]))
    found = [_question(turns, answer, row.group, known) for row in rows for turns, answer in row.answers()]
    if not any(question.values for question in found):
        raise InputError(f"no answer states a value of the fact sheet, as {known[0]!r} (n = {len(found)} answers)")
    return found


def _question(turns: Turns, answer: str, group: str, known: Sequence[str]) -> Question:
    said = "\n".join(turn["content"] for turn in turns)
    asked = tuple(value for value in known if values.states(answer, value) and not values.states(said, value))
    return Question(turns, answer, asked, group)


def ask(
    model: LanguageModel,
    asked: Sequence[Question],
    *,
    notes: Notes | None = None,
    max_new_tokens: int = 96,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Let a model answer, one question at a time, always the likeliest token.

    Parameters
    ----------
    model : LanguageModel
    asked : sequence of Question
    notes : callable or None
        Gives the facts that are put in front of a question, as `nearest` does; None puts none there.
    max_new_tokens : int
        Tokens at which an answer is cut.
    progress : callable or None
        Gets the number of answers so far and of all.

    Returns
    -------
    list of Generation
        `seconds` is all that an answer took, the search for its notes included.
    """
    out = []
    for number, question in enumerate(asked, 1):
        began = time.perf_counter()
        turns = question.turns if notes is None else with_notes(question.turns, notes(question))
        (answer,) = model.generate([model.dialogue_prompt(turns)], max_new_tokens)
        out.append(replace(answer, seconds=time.perf_counter() - began))
        if progress is not None:
            progress(number, len(asked))
    return out


def kept(
    path: Path, asked: Sequence[Question], answer: Callable[[], list[Generation]], *, by: str = ""
) -> list[Generation]:
    """Answers to these questions from a file, or else new ones, which are then written there.

    Parameters
    ----------
    path : Path
        A file (.json); one that holds other answers is written anew.
    asked : sequence of Question
    answer : callable
        Gives one answer a question, in their order; called if there is nothing to be read.
    by : str
        Who answers, in words that change when the assistant does.
    """
    about = {"by": by, "asked": [[dict(turn) for turn in question.turns] for question in asked]}
    if path.is_file():
        told = assets.read_json(path)
        if {name: told.get(name) for name in about} == about:
            return [Generation(**each) for each in told["answers"]]
    found = answer()
    with files.on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, json.dumps({**about, "answers": [asdict(each) for each in found]}, indent=1) + "\n")
    return found


def with_notes(turns: Turns, notes: Sequence[str]) -> Turns:
    """The turns with facts in front of the last one: a system turn is not known to every template."""
    last = turns[-1]
    shown = "\n".join(f"- {note}" for note in notes)
    content = f"Use these facts to answer the question in one or two sentences.\n{shown}\n\nQuestion: {last['content']}"
    return (*turns[:-1], {"role": last["role"], "content": content})


def nearest(encoder: Embeds, facts: Sequence[str], k: int) -> Notes:
    """A search for the `k` facts nearest to all that was said, by the cosine of an encoder's vectors, nearest first."""
    if not 1 <= k <= len(facts):
        raise InputError(f"k must be between 1 and the {len(facts)} facts; got {k}")
    vectors = _unit(encoder.embed(list(facts)))  # (n_facts, hidden)

    def find(question: Question) -> list[str]:
        likeness = vectors @ _unit(encoder.embed([question.said]))[0]
        return [facts[i] for i in np.argsort(-likeness, kind="stable")[:k]]

    return find


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def score(texts: Sequence[str], asked: Sequence[Question], sheet: pd.DataFrame, seed: int = 0) -> FactScore:
    """Score one answer a question.

    Parameters
    ----------
    texts : sequence of str
        Answers, in the order of `asked`.
    asked : sequence of Question
    sheet : DataFrame
        Columns fact and value.
    seed : int
        Of the bootstrap.
    """
    right, wanted = stated(texts, asked)
    n_facts, n_questions = int(wanted.sum()), int((wanted > 0).sum())
    if not n_facts:
        raise InputError(f"none of the {len(asked)} questions asks for a value of the fact sheet")
    facts = [str(fact) for fact in sheet_of(sheet)["fact"]]
    made_up = [bool(values.invented(text, [*facts, q.said])) for text, q in zip(texts, asked, strict=True)]
    hits = int(right.sum())
    low, high = metrics.wilson(hits, n_facts)
    if 0 < hits < n_facts:  # resamples of all or of nothing have no width
        sums = _by_group(asked, right, wanted)  # (n_groups, 2)
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES) @ sums
        low, high = (float(v) for v in np.percentile(drawn[:, 0] / np.maximum(drawn[:, 1], 1), [2.5, 97.5]))
    return FactScore(
        hits / n_facts,
        low,
        high,
        n_facts,
        n_questions,
        float((right == wanted)[wanted > 0].mean()),
        float(np.mean(made_up)),
        *metrics.wilson(sum(made_up), len(made_up)),
        len(made_up),
    )


def stated(texts: Sequence[str], asked: Sequence[Question]) -> tuple[np.ndarray, np.ndarray]:
    """How many values each answer states, and how many it was asked for; int64, shape (n_questions,) each."""
    if len(texts) != len(asked):
        raise InputError(f"one answer a question is needed; got {len(texts)} and {len(asked)}")
    right = [sum(values.states(text, value) for value in q.values) for text, q in zip(texts, asked, strict=True)]
    return np.array(right, dtype=np.int64), np.array([len(q.values) for q in asked], dtype=np.int64)


def compare(a: Sequence[str], b: Sequence[str], asked: Sequence[Question], seed: int = 0) -> dict[str, float]:
    """Compare the answers of two assistants to the same questions.

    Returns
    -------
    dict
        difference (recall of a minus recall of b), its 95 % interval low and high (bootstrap over groups), and p of
        the test that exchanges a and b within groups at random, two-sided.
    """
    (right_a, wanted), (right_b, _) = stated(a, asked), stated(b, asked)
    sums = _by_group(asked, right_a - right_b, wanted)
    total, n_facts = sums.sum(axis=0)
    if not n_facts:
        raise InputError(f"none of the {len(asked)} questions asks for a value of the fact sheet")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES) @ sums
    low, high = np.percentile(drawn[:, 0] / np.maximum(drawn[:, 1], 1), [2.5, 97.5])
    turned = rng.choice((-1, 1), size=(RESAMPLES, len(sums))) @ sums[:, 0]
    p = (1 + np.sum(np.abs(turned) >= abs(total))) / (1 + RESAMPLES)
    return {"difference": float(total / n_facts), "low": float(low), "high": float(high), "p": float(p)}


def _by_group(asked: Sequence[Question], right: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Sums of both over each group of questions that ask for something, shape (n_groups, 2)."""
    names = [q.group or f"\0{i}" for i, q in enumerate(asked)]
    codes = np.asarray(pd.factorize(np.array(names, dtype=object))[0])
    sums = np.stack([np.bincount(codes, weights=each) for each in (right, wanted)], axis=1)
    return sums[sums[:, 1] > 0]


def evaluate_answers(
    model: LanguageModel, rows: Iterable[Dialogue], sheet: pd.DataFrame, **how: Any
) -> tuple[FactScore, list[Generation]]:
    """Let a model answer held-out dialogues and score the answers against a fact sheet.

    Parameters
    ----------
    model : LanguageModel
        Of `slmkit.load`, with or without an adapter.
    rows : iterable of Dialogue
        Of `slmkit.dialogues.split(...)[1]`, so that none was learned.
    sheet : DataFrame
        Columns fact and value.
    **how
        As `ask` takes it.

    Returns
    -------
    score : FactScore
    answers : list of Generation
        In the order of the dialogues.
    """
    asked = questions(rows, sheet)
    answers = ask(model, asked, **how)
    return score([answer.text for answer in answers], asked, sheet), answers
