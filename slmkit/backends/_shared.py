"""What backends have in common and no engine is needed for: token rows, batches by length, schedule, stop strings.

Tokenising a prompt with its continuation follows EleutherAI's lm-evaluation-harness (`_encode_pair`), so that
log-likelihoods can be compared with published ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slmkit import catalog
from slmkit.backends import _checks
from slmkit.backends.base import LoRAConfig
from slmkit.errors import InputError

POOLINGS = ("mean", "last")
TRAINS = ("adapter", "weights")
POOL_OF_BATCHES = 50
DIVERGED = 4.0


def check_pooling(pooling: str | None) -> str:
    """Return the pooling asked for, "mean" for None; `InputError` for one that is not known."""
    if pooling is not None and pooling not in POOLINGS:
        raise InputError(f"pooling must be one of {', '.join(POOLINGS)} or None; got {pooling!r}")
    return pooling or "mean"


def check_generation(max_new_tokens: int, temperature: float) -> None:
    """Raise `InputError` for a length below 1 or a temperature below 0."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1; got {max_new_tokens!r}")
    if temperature < 0:
        raise InputError(f"temperature must be 0 (greedy) or above; got {temperature!r}")


def check_training(
    texts: Sequence[str], y: np.ndarray, n_classes: int, config: LoRAConfig, more: Sequence[str] = ()
) -> None:
    """Raise one `InputError` with everything that is wrong with a call of `train_lora`; `more` is known of it."""
    wrong = [*config_problems(config), *more]
    if config.class_weights is not None and (len(config.class_weights) != n_classes or np.ndim(y) != 1):
        wrong.append(f"class_weights must be {n_classes} numbers, for class indices; got {config.class_weights}")
    if len(texts) != len(y) or not len(texts):
        wrong.insert(0, f"texts and y must have the same length, at least 1; got {len(texts)} and {len(y)}")
    elif np.ndim(y) == 2:
        sums = np.sum(y, axis=1) if np.shape(y)[1] == n_classes and np.min(y) >= 0 else np.full(len(y), np.nan)
        if not np.abs(sums - 1).max() <= 1e-6:
            wanted = f"probabilities of {n_classes} classes, shape (n_texts, {n_classes}), that sum to 1 in each row"
            wrong.insert(0, f"y must hold {wanted}; got shape {np.shape(y)}, {np.min(y):.4g} .. {np.max(y):.4g}")
    elif np.min(y) < 0 or np.max(y) >= n_classes:
        wrong.insert(0, f"y must lie in 0 .. {n_classes - 1}; got {np.min(y)} .. {np.max(y)}")
    if wrong:
        raise InputError("; ".join(wrong))


def targets(y: np.ndarray, held_out: Sequence[int], n_classes: int) -> np.ndarray:
    """What each row is to be given, held-out rows last: class indices (n,), or probabilities (n, n_classes) as `y`."""
    known = np.asarray(held_out, dtype=np.int64)
    return np.concatenate([y, np.eye(n_classes)[known] if np.ndim(y) == 2 else known])


def config_problems(config: LoRAConfig) -> list[str]:
    """What is wrong with the settings of a training, in words."""
    names = ("rank", "alpha", "epochs", "learning_rate", "batch_size", "max_length", "max_batch_tokens")
    wrong = [f"{n} must be above 0; got {getattr(config, n)!r}" for n in names if not getattr(config, n) > 0]
    if config.trains not in TRAINS:
        wrong.append(f"trains must be one of {', '.join(TRAINS)}; got {config.trains!r}")
    if config.last_blocks is not None and config.last_blocks < 1:
        wrong.append(f"last_blocks must be at least 1, or None for all; got {config.last_blocks!r}")
    return wrong


def encode(
    tokenizer: Any, texts: Sequence[str], max_length: int | None = None, context: int | None = None
) -> list[list[int]]:
    """Token ids of each text with the tokenizer's special tokens, BOS exactly once, never an empty row.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    texts : sequence of str
        May already begin with BOS, as a rendered chat template does.
    max_length : int or None
        Tokens kept from the beginning.
    context : int or None
        Tokens the model can read: never more are kept, and texts that this cuts are spoken of in the log.
    """
    rows = [(row or [lone_token(tokenizer)])[:max_length] for row in _bare_rows(tokenizer, texts)]
    if context is not None:
        _checks.say_cut(tokenizer, max(map(len, rows), default=0), context, "end")
    return [row[:context] for row in rows]


def count_tokens(tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """Tokens of each text, special ones included; int64, shape (n_texts,)."""
    return np.array([len(ids) for ids in encode(tokenizer, list(texts))], dtype=np.int64)


def _bare_rows(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not len(texts):
        return []
    bos = tokenizer.bos_token_id
    rows = tokenizer(list(texts), padding=False, truncation=False, verbose=False)["input_ids"]
    _checks.check_ids(tokenizer, rows)
    return [row[1:] if bos is not None and row[:2] == [bos, bos] else row for row in rows]


def lone_token(tokenizer: Any) -> int:
    """The token that stands for an empty text: BOS, else EOS, else padding, else id 0."""
    found = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
    return int(next(token for token in found if token is not None))


def end_tokens(tokenizer: Any, configured: int | list[int] | None) -> set[int]:
    """Ids at which a text ends: those of the configuration, the tokenizer's, and what ends a turn in its chat template.

    A chat model that is stored without its generation_config.json would else talk on after its turn.
    """
    named = configured if isinstance(configured, list) else [configured]
    added, template = tokenizer.get_added_vocab(), str(tokenizer.chat_template or "")
    turns = {entry.family.turn_end or "" for entry in catalog.MODELS.values()}
    marks = [added[mark] for mark in turns if mark in added and mark in template]
    return {int(token) for token in (*named, tokenizer.eos_token_id, *marks) if token is not None}


def inert(tokenizer: Any, text: str) -> str:
    """A text with a space inside whatever the tokenizer would read as one of its special tokens.

    So that "<|im_end|>" in what somebody wrote is these characters, and neither ends a turn nor opens another one. The
    same in training and in use.
    """
    added = tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    special |= {t.content for t in added if t.content.strip() and t.content in str(tokenizer.chat_template or "")}
    marks = sorted((mark for mark in special if len(mark) > 1), key=len, reverse=True)
    if not any(mark in text for mark in marks):
        return text
    return re.sub("|".join(map(re.escape, marks)), lambda found: f"{found[0][0]} {found[0][1:]}", text)


def chat_prompt(tokenizer: Any, messages: Sequence[Mapping[str, str]], name: str) -> str:
    """Messages in the model's own template, ready for its answer.

    Where the template takes no system message (Gemma, Mistral), that message opens the first turn of the user.

    Raises `InputError` for a model without template, and for messages that its template refuses.
    """
    if not tokenizer.chat_template:
        raise InputError(f"model {name!r} has no chat template; give it plain text")
    from jinja2.exceptions import TemplateError  # comes with both engines and is not needed without one

    turns = [dict(message) | {"content": inert(tokenizer, message["content"])} for message in messages]
    try:
        return _rendered(tokenizer, turns)
    except TemplateError as error:
        if [turn["role"] for turn in turns[:2]] != ["system", "user"]:
            raise InputError(f"the chat template of {name!r} refuses these messages: {error}") from error
    first = {"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
    return chat_prompt(tokenizer, [first, *turns[2:]], name)


def _rendered(tokenizer: Any, turns: list[dict[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


@dataclass(frozen=True)
class Pair:
    """One continuation after one prompt: what the model reads, and the tokens it must predict at its end."""

    read: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def start(self) -> int:
        """Position in `read` whose output predicts the first target."""
        return len(self.read) - len(self.target)


def pair_rows(
    tokenizer: Any, prompts: Sequence[str], continuations: Sequence[str], max_length: int | None
) -> list[list[Pair]]:
    """Token rows of every prompt with every continuation, shape (n_prompts, n_continuations).

    White space at a prompt's end moves to the continuation; the continuation's ids are what encoding both together has
    beyond the prompt's own ids. A row longer than `max_length` loses its beginning.

    Raises `InputError` for a continuation that is empty.
    """
    if not all(continuations):
        raise InputError("continuations must not be empty strings")
    heads = [prompt.rstrip() for prompt in prompts]
    tails = [prompt[len(head) :] for prompt, head in zip(prompts, heads, strict=True)]
    whole = [head + tail + text for head, tail in zip(heads, tails, strict=True) for text in continuations]
    contexts, both = _bare_rows(tokenizer, heads), _bare_rows(tokenizer, whole)
    width = len(continuations)
    lone = lone_token(tokenizer)
    if max_length is not None:
        _checks.say_cut(tokenizer, max(map(len, both), default=1) - 1, max_length, "beginning")
    return [
        [_pair(contexts[i], both[i * width + j], max_length, lone) for j in range(width)] for i in range(len(prompts))
    ]


def _pair(context: list[int], both: list[int], max_length: int | None, lone: int) -> Pair:
    if len(both) <= len(context):  # the continuation melted into the prompt's last token
        context = both[: min(common_prefix([context, both]), len(both) - 1)]
    target = both[len(context) :]
    row = [*(context or [lone]), *target[:-1]]
    keep = len(row) if max_length is None else max(max_length, len(target))
    return Pair(tuple(row[-keep:]), tuple(target))


Place = tuple[int, int, tuple[int, ...]]  # row, position of the output that predicts the first target, targets


def distinct_reads(pairs: Sequence[Pair], border: int | None = None) -> tuple[list[tuple[int, ...]], list[int]]:
    """Rows that must be read to score all pairs, and for each pair the index of its row.

    What a row's beginning predicts does not depend on its end, so a row that begins another one is not read again: all
    one-token continuations of a prompt cost one row. The exception are rows on both sides of `border` (see `alike`).
    """

    def holds(row: tuple[int, ...], read: tuple[int, ...]) -> bool:
        return row[: len(read)] == read and is_beyond(len(row), border) == is_beyond(len(read), border)

    kept: list[tuple[int, ...]] = []
    for read in sorted({pair.read for pair in pairs}, key=len, reverse=True):
        if not any(holds(longer, read) for longer in kept):
            kept.append(read)
    return kept, [next(i for i, row in enumerate(kept) if holds(row, p.read)) for p in pairs]


def plan_reads(table: Sequence[Sequence[Pair]], border: int | None = None) -> tuple[list[tuple[int, ...]], list[Place]]:
    """The rows to read for all pairs of a table, and each pair's place in them, in the table's order."""
    reads: list[tuple[int, ...]] = []
    places: list[Place] = []
    for pairs in table:
        kept, owners = distinct_reads(pairs, border)
        places += [(len(reads) + owner, pair.start, pair.target) for owner, pair in zip(owners, pairs, strict=True)]
        reads += kept
    return reads, places


def is_beyond(length: int, border: int | None) -> bool:
    """Whether a row of that many tokens is longer than the border, if there is one."""
    return border is not None and length > border


def alike(reads: Sequence[Sequence[int]], max_length: int | None, border: int | None) -> list[list[int]]:
    """Indices of rows that may share their beginning, in groups.

    Rows of `max_length` tokens may have lost their beginning. Rows longer than `border` are read with other rotary
    frequencies from their first token on (LongRoPE), so that what they begin with is not what a short row begins with.
    """
    keys = [(max_length is not None and len(read) >= max_length, is_beyond(len(read), border)) for read in reads]
    return [[i for i, key in enumerate(keys) if key == group] for group in sorted(set(keys))]


def shared_beginning(rows: Sequence[Sequence[int]], starts: Sequence[int], border: int | None) -> int:
    """Tokens with which all rows begin and that can be computed once, at most up to the first start.

    A beginning that is short where the rows are beyond `border` would be read with other rotary frequencies.
    """
    n_shared = min(common_prefix(rows), min(starts)) if len(rows) > 1 else 0
    crossed = not is_beyond(n_shared, border) and any(is_beyond(len(row), border) for row in rows)
    return 0 if crossed else n_shared


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all rows share at their beginning."""
    if not rows:
        return 0
    low, high = min(rows, key=list), max(rows, key=list)
    return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))


def length_batches(
    lengths: Sequence[int], max_tokens: int, max_rows: int = 64, border: int | None = None
) -> list[np.ndarray]:
    """Indices in batches of like length, the longest first, so that too much memory shows at once.

    Parameters
    ----------
    lengths : sequence of int
    max_tokens : int
        Tokens in one batch, padding included. A longer row is a batch of its own.
    max_rows : int
    border : int or None
        Rows longer than this and rows that are not never share a batch (see `alike`).
    """
    batches: list[list[int]] = []
    for index in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable"):
        longest = lengths[batches[-1][0]] if batches else 0
        fits = len(batches[-1]) < max_rows and (len(batches[-1]) + 1) * longest <= max_tokens if batches else False
        if fits and is_beyond(lengths[index], border) == is_beyond(longest, border):
            batches[-1].append(int(index))
        else:
            batches.append([int(index)])
    return [np.array(batch) for batch in batches]


def pad_right(rows: Sequence[Sequence[int]], value: int = 0) -> np.ndarray:
    """Rows of token ids as one int32 array, shape (n_rows, longest); a causal model never looks at the padding."""
    out = np.full((len(rows), max(map(len, rows))), value, dtype=np.int32)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def training_plan(lengths: Sequence[int], config: LoRAConfig) -> list[tuple[int, np.ndarray]]:
    """Epoch number and rows of every optimiser step.

    Each epoch is shuffled, then sorted by length within pools of 50 batches: little padding, still random.
    """
    rng, n = np.random.default_rng(config.seed), len(lengths)
    steps = max(1, round(config.epochs * math.ceil(n / config.batch_size)))
    plan: list[tuple[int, np.ndarray]] = []
    sizes = np.asarray(lengths)
    for epoch in range(math.ceil(config.epochs)):
        order, pool = rng.permutation(n), POOL_OF_BATCHES * config.batch_size
        pools = [order[i : i + pool] for i in range(0, n, pool)]
        ranked = np.concatenate([p[np.argsort(sizes[p], kind="stable")] for p in pools])
        batches = [ranked[i : i + config.batch_size] for i in range(0, n, config.batch_size)]
        plan += [(epoch, batches[i]) for i in rng.permutation(len(batches))]
    return plan[:steps]


def rate_of(step: int, steps: int, config: LoRAConfig) -> float:
    """Learning rate of `step` (0 .. steps - 1): one cycle, or rising by the same factor each step in a range test."""
    if config.lowest_rate is None:
        return one_cycle(step, steps, config.learning_rate)
    return float(config.lowest_rate * (config.learning_rate / config.lowest_rate) ** (step / max(1, steps - 1)))


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether a range test may end: the last loss is no number, or four times the lowest one before it."""
    return not math.isfinite(losses[-1]) or losses[-1] > DIVERGED * min(losses)


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Learning rate of `step` (0 .. steps - 1): linear warm-up over a tenth of the steps, then a cosine to zero."""
    warm_up = max(1, round(0.1 * steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up + 1) / (steps - warm_up + 1)))


@dataclass
class Writing:
    """What is known of a text while it is written."""

    n_tokens: int = 0
    reason: str = "length"


def write(
    tokens: Iterable[int], decode: Callable[[list[int]], str], stop: Sequence[str], max_new_tokens: int, state: Writing
) -> Iterator[str]:
    """Turn token ids into pieces of text, cut before the first stop string.

    A piece is held back while it may be half a character or the beginning of a stop string. `tokens` ends early when
    the model ended the text; `state` then says "stop".
    """
    ids: list[int] = []
    sent, text = 0, ""
    for token in tokens:
        ids.append(token)
        state.n_tokens = len(ids)
        text = decode(ids)
        found = [text.find(s) for s in stop if s and s in text]
        if found:
            state.reason = "stop"
            yield from filter(None, [text[sent : min(found)]])
            return
        safe = _safe_end(text, stop)
        if safe > sent:
            yield text[sent:safe]
            sent = safe
    state.reason = "stop" if len(ids) < max_new_tokens else "length"
    yield from filter(None, [text[sent:]])


def _safe_end(text: str, stop: Sequence[str]) -> int:
    held = len(text) - len(text.rstrip("\ufffd"))
    for s in stop:
        held = max(held, *(k for k in range(len(s)) if text.endswith(s[:k])), 0)
    return len(text) - held
