"""What a tuning cost elsewhere: the perplexity on a neutral text before and after, over the very same tokens.

The text is shipped and written for this (`data/neutral_text.md`). Passages are resampled in pairs, so the interval says
how sure the change is, not how hard the text is (Efron & Tibshirani 1993, percentile bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slmkit.backends.base import LanguageModel
from slmkit.errors import InputError

TEXT = "neutral_text.txt"
DRAWS = 2000


@dataclass(frozen=True)
class Scored:
    """What a model finds of some texts.

    Attributes
    ----------
    nats : ndarray of float64, shape (n_texts,)
        Log-probability of the scored tokens of each.
    n_tokens : ndarray of int64, shape (n_texts,)
        Tokens scored.
    """

    nats: np.ndarray
    n_tokens: np.ndarray


@dataclass(frozen=True)
class Change:
    """Perplexity on the same texts before and after.

    Attributes
    ----------
    perplexity_before, perplexity_after : float
        exp of the mean cross-entropy a token.
    ratio : float
        After through before: above 1 the texts became less likely.
    ratio_low, ratio_high : float
        95 % interval of the ratio, from a bootstrap over texts; with one text both are the ratio itself.
    n_tokens, n_texts : int
    """

    perplexity_before: float
    perplexity_after: float
    ratio: float
    ratio_low: float
    ratio_high: float
    n_tokens: int
    n_texts: int

    def __str__(self) -> str:
        interval = f"95 % interval {self.ratio_low:.3f} to {self.ratio_high:.3f}"
        n = f"n = {self.n_tokens:,} tokens in {self.n_texts} texts"
        values = f"{self.perplexity_before:.2f} before, {self.perplexity_after:.2f} after"
        return f"{values} (x {self.ratio:.3f}, {interval}; {n})"


def passages() -> list[str]:
    """The passages of the neutral text."""
    from slmkit_data import path

    return path(TEXT).read_text(encoding="utf-8").strip().split("\n\n")


def score(model: LanguageModel, texts: Sequence[str] | None = None) -> Scored:
    """Score texts, each after its first word.

    Parameters
    ----------
    model : LanguageModel
        A decoder.
    texts : sequence of str or None
        Of at least two words each; None takes the neutral text.
    """
    chosen = passages() if texts is None else list(texts)
    if not chosen:
        raise InputError("there must be at least one text to score")
    return Scored(*model.text_loglikelihood(chosen))


def compare(before: Scored, after: Scored, seed: int = 0) -> Change:
    """Perplexities of the same texts, and the interval of their ratio.

    Raises `InputError` when other tokens were scored before than after.
    """
    if not np.array_equal(before.n_tokens, after.n_tokens) or not before.n_tokens.sum():
        raise InputError("before and after must score the same tokens, at least one")
    tokens, rise = before.n_tokens, before.nats - after.nats  # (n,): how much less likely, in nats
    draws = np.random.default_rng(seed).integers(len(tokens), size=(DRAWS, len(tokens)))
    drawn = tokens[draws].sum(axis=1)
    ratios = np.exp(rise[draws].sum(axis=1)[drawn > 0] / drawn[drawn > 0])
    low, high = np.quantile(ratios, [0.025, 0.975])
    n = int(tokens.sum())
    return Change(
        math.exp(-before.nats.sum() / n),
        math.exp(-after.nats.sum() / n),
        math.exp(rise.sum() / n),
        float(low),
        float(high),
        n,
        int((tokens > 0).sum()),
    )
