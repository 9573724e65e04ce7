"""Prompts with the answers a model is to learn: one form in training and in use, the end of an answer learned too.

A row is a `Pair`: what the model reads (the prompt exactly as `generate` reads it, then the answer), and what it must
predict at its end (the answer, then the token at which `generate` stops). Only these places carry a loss.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from slmkit import prompts as wording
from slmkit.assets import ModelSource
from slmkit.backends import _checks
from slmkit.backends import _shared as shared
from slmkit.backends._shared import Pair
from slmkit.backends.base import LoRAConfig
from slmkit.errors import InputError

log = logging.getLogger(__name__)
PROBE, PROBE_ANSWER = {"role": "user", "content": "Hello"}, "Yes"
SHOWN = 10  # rows named in one warning


def check(prompts: Sequence[str], answers: Sequence[str], config: LoRAConfig, more: Sequence[str] = ()) -> None:
    """Raise one `InputError` with everything that is wrong with a call of `train_completion`; `more` is known of it."""
    wrong = [*shared.config_problems(config), *more]
    if len(prompts) != len(answers) or not len(prompts):
        wrong.append(f"prompts and answers must have the same length, at least 1; got {len(prompts)}, {len(answers)}")
    if empty := [i for i, answer in enumerate(answers) if not answer.strip()]:
        wrong.append(f"answers must not be empty; row {_named(empty)} is")
    if wrong:
        raise InputError("; ".join(wrong))


def prompt(source: ModelSource, tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """What the model reads before it answers: its template, or a plain format for a model without one."""
    if source.chat:
        return shared.chat_prompt(tokenizer, messages, source.name)
    turns = [{**message, "content": shared.inert(tokenizer, message["content"])} for message in messages]
    return wording.dialogue(turns)


def form(tokenizer: Any, chat: bool, ends: set[int]) -> tuple[str, int]:
    """White space between a prompt and its answer, and the token that ends the answer.

    A chat template is asked for both by rendering an answer of its own; a model without one gets a space and EOS.
    The end is always one of `ends`, at which generation stops. `InputError` for a model without any.
    """
    if not ends:
        raise InputError("the model names no token that ends a text, so it cannot learn to end its answers")
    lead, tail = " ", ""
    if chat:
        asked = shared.chat_prompt(tokenizer, [PROBE], "model")
        turns = [PROBE, {"role": "assistant", "content": PROBE_ANSWER}]
        whole = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False))
        before, _, tail = whole.removeprefix(asked).partition(PROBE_ANSWER)
        lead = before if whole.startswith(asked) and not before.strip() else ""
    written = tokenizer(tail.strip(), add_special_tokens=False)["input_ids"] if tail.strip() else []
    candidates = (*written[:1], tokenizer.eos_token_id, *sorted(ends))
    return lead, int(next(token for token in candidates if token in ends))


def pairs(
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    chat: bool,
    ends: set[int],
    max_length: int,
) -> tuple[list[Pair], list[int]]:
    """Token rows of prompts with their answers, and which of them they are.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    prompts, answers : sequence of str, the same number
    chat : bool
        Whether prompts come from the tokenizer's chat template.
    ends : set of int
        Tokens at which generation stops.
    max_length : int
        Tokens read of a row. A longer one loses its prompt's beginning, BOS apart, and never a part of its answer.

    Returns
    -------
    pairs : list of Pair
    kept : list of int
        Positions of their rows; a row whose answer leaves no room for a prompt is left out, and named in the log.
    """
    lead, end = form(tokenizer, chat, ends)
    texts = [lead + shared.inert(tokenizer, answer.strip()) for answer in answers]
    asked = shared.encode(tokenizer, prompts)
    both = shared.encode(tokenizer, [prompt + text for prompt, text in zip(prompts, texts, strict=True)])
    found: dict[int, Pair] = {}
    cut: list[int] = []
    for i, (head, row) in enumerate(zip(asked, both, strict=True)):
        same = row[: len(head)] == head and len(row) > len(head)  # else the answer melted into the prompt's last token
        target = row[len(head) :] if same else tokenizer(texts[i], add_special_tokens=False)["input_ids"]
        bos = head[:1] if head[0] == tokenizer.bos_token_id else []
        room = max_length - len(target)
        if room <= len(bos):
            continue
        if len(head) > room:
            cut.append(i)
            head = [*bos, *head[len(head) - room + len(bos) :]]
        found[i] = Pair((*head, *target), (*target, end))
    _checks.check_ids(tokenizer, [pair.read for pair in found.values()])
    _say(cut, [i for i in range(len(prompts)) if i not in found], max_length)
    return list(found.values()), list(found)


def from_first_words(tokenizer: Any, texts: Sequence[str], max_length: int | None) -> list[Pair]:
    """Each text as a continuation of its first word; `InputError` for a text of one word."""
    parts = [text.strip().partition(" ") for text in texts]
    if short := [i for i, (_, _, rest) in enumerate(parts) if not rest]:
        raise InputError(f"every text must have at least two words; text {_named(short)} has not")
    return [shared.pair_rows(tokenizer, [first], [f" {rest}"], max_length)[0][0] for first, _, rest in parts]


def training_pairs(
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str],
    held_out: tuple[Sequence[str], Sequence[str]] | None = None,
    **how: Any,
) -> tuple[list[Pair], int]:
    """As `pairs`, for training: rows to learn with those held out behind them, and how many are to learn.

    `InputError` when no row of either is left.
    """
    rows = pairs(tokenizer, prompts, answers, **how)[0]
    more = pairs(tokenizer, *held_out, **how)[0] if held_out else []
    if not rows or (held_out and not more):
        which = "held-out row" if rows else "row"
        raise InputError(f"no {which} is left: every answer alone is longer than max_length={how['max_length']} tokens")
    return [*rows, *more], len(rows)


def _say(cut: Sequence[int], left_out: Sequence[int], max_length: int) -> None:
    if cut:
        log.warning("row %s: longer than %d tokens, the prompt loses its beginning", _named(cut), max_length)
    if left_out:
        log.warning("row %s: left out, the answer alone is longer than %d tokens", _named(left_out), max_length)


def _named(rows: Sequence[int]) -> str:
    more = f", ... ({len(rows)} in all)" if len(rows) > SHOWN else ""
    return ", ".join(map(str, rows[:SHOWN])) + more
