"""Exercises of notebook 50: how much likelier held-out answers became, and how many facts could be learned at all."""

from __future__ import annotations

from slmkit.finetune import Tuned
from slmkit.workshop.answers import near, number, share
from slmkit.workshop.exercise import Exercise, Hint


def _factor(answer: object, tuned: Tuned) -> str:
    found, change = number(answer, "the factor"), tuned.learned
    before, after = change.perplexity_before, change.perplexity_after
    if near(found, before / after, 0.01):
        return f"From {before:.1f} to {after:.1f}, on {change.n_tokens:,} tokens that were not learned."
    if near(found, after / before, 0.01):
        raise Hint("that is the part that is left: turn the division round")
    if near(found, before - after, 0.01):
        raise Hint("that is a difference: divide the perplexity before by the one after")
    neutral = tuned.forgotten
    if near(found, neutral.perplexity_before / neutral.perplexity_after, 0.01):
        raise Hint("that is the neutral text: the held-out answers are in tuned.learned")
    raise Hint("tuned.learned has perplexity_before and perplexity_after: divide")


def _taught(answer: object, wanted: list[str], taught: set[str]) -> str:
    found = share(answer, "the share of the values asked for")
    right = [value in taught for value in wanted]
    if near(found, sum(right) / len(right)):
        return f"{sum(right)} of {len(right)}: nobody can state the others, however long it trains."
    if near(found, 1 - sum(right) / len(right)):
        raise Hint("that is the share that was never taught: the rest is asked for")
    if near(found, len(set(wanted) & taught) / len(set(wanted))):
        raise Hint("a value that is asked for twice counts twice: go through `wanted` as it is")
    if near(found, len(set(wanted) & taught) / max(1, len(taught))):
        raise Hint("divide by the number of values asked for, not by those that were taught")
    raise Hint("count for how many entries of `wanted` it holds that they are in `taught`, and divide by their number")


EXERCISES = (
    Exercise(
        "50.1",
        "by what factor the perplexity of held-out answers fell",
        _factor,
        "tuned.learned.perplexity_before / ...",
    ),
    Exercise(
        "50.2",
        "the share of the values asked for that stood in any dialogue learned from",
        _taught,
        "sum(value in taught for value in wanted) counts them",
    ),
)
