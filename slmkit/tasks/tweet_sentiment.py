"""TweetEval, sentiment: 59,899 tweets, negative, neutral or positive (Barbieri et al. 2020, from SemEval-2017 Task 4).

Its card asks to comply with Twitter's terms, so that this has to be accepted before it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmkit.assets.sources import HubData
from slmkit.tasks import Task, _hub

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("negative", "neutral", "positive")  # by number
DATA = HubData(
    "tweet_sentiment",
    "cardiffnlp/tweet_eval",
    {"train": "sentiment/train-*", "validation": "sentiment/validation-*", "test": "sentiment/test-*"},
    "b3a375baf0f409c77e6bc7aa35102b7b3534f8be",
)
CARD = """# TweetEval, sentiment
Tweets in English, negative, neutral or positive: train 45,615, validation 2,000, test 12,284.

- Labels are the numbers 0 negative, 1 neutral, 2 positive.
- User names are masked as "@user".
- The card asks to cite the original publication of each of its sets too; for this one: S. Rosenthal, N. Farra,
  P. Nakov: SemEval-2017 Task 4: Sentiment Analysis in Twitter, 2017.
- Whether tweets repeat between the parts was not verified: slmkit removes duplicates when it splits.
- The hub's tag says unknown; the card's text says for this set "Creative Commons Attribution 3.0 Unported License" and
  that all its sets "require complying with Twitter Terms Of Service and Twitter API Terms Of Service". So
  licence: unknown; check with the source before you use it for more than study.
- Hub: cardiffnlp/tweet_eval (sentiment), revision b3a375baf0f409c77e6bc7aa35102b7b3534f8be (named by public code that
  reads these files; not seen on a page of the hub).
"""
TERMS = (
    "Its card asks you to comply with Twitter's terms of service and those of its API, and to name its authors and "
    "those of the original data."
)


def read(data: HubData = DATA) -> pd.DataFrame:
    """All rows in file order, with their part."""
    return _hub.classified(data, "text", "label", NAMES)


TASKS = (
    Task(
        name="tweet_sentiment",
        title="Tweet sentiment (TweetEval)",
        labels=NAMES,
        positive=None,
        instruction="Decide whether the tweet is negative, neutral or positive.",
        label_words={name: name for name in NAMES},
        noun="tweet",
        licence="unknown (hub tag; card text: CC BY 3.0, Twitter terms)",
        source="F. Barbieri, J. Camacho-Collados, L. Espinosa-Anke, L. Neves: TweetEval: Unified Benchmark and "
        "Comparative Evaluation for Tweet Classification, Findings of EMNLP 2020. "
        "https://github.com/cardiffnlp/tweeteval",
        card=CARD,
        read=read,
        n_rows=59_899,
        n_bytes=4_850_000,  # 3.78 MB + 167 kB + 901 kB, as the hub rounds them
        data=DATA,
        terms=TERMS,
    ),
)
