"""Twitter Financial News, sentiment: 11,931 tweets about finance, bearish, bullish or neutral (zeroshot 2022).

The numbers of the labels are not in the order negative, neutral, positive: 1 is bullish, which some public code misses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmkit.assets.sources import HubData
from slmkit.tasks import Task, _hub

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("bearish", "bullish", "neutral")  # by number
DATA = HubData(
    "financial_tweets",
    "zeroshot/twitter-financial-news-sentiment",
    {"train": "sent_train.csv", "validation": "sent_valid.csv"},  # the tables by topic are another task
)
CARD = """# Twitter Financial News, sentiment
Tweets in English about finance, bearish, bullish or neutral: train 9,543, validation 2,388.

- Labels are the numbers 0 Bearish (negative), 1 Bullish (positive), 2 Neutral.
- There is no test part: compare on the validation part, or split anew.
- The card's own table says 9,938 and 2,486 rows, which fits neither its "11,932 documents" nor the files.
- The tweets were collected through the Twitter API; the licence is what the uploader says.
- Licence: MIT.
- Hub: zeroshot/twitter-financial-news-sentiment, revision main (no full hash of it was seen; the first fetch writes
  down what it got).
"""


def read(data: HubData = DATA) -> pd.DataFrame:
    """All rows in file order, with their part."""
    return _hub.classified(data, "text", "label", NAMES)


TASKS = (
    Task(
        name="financial_tweets",
        title="Financial tweets",
        labels=NAMES,
        positive=None,
        instruction="Decide whether the tweet about finance is bearish, bullish or neutral.",
        label_words={name: name for name in NAMES},
        noun="tweet",
        licence="MIT",
        source="zeroshot: Twitter Financial News (sentiment) version 1.0.0, Hugging Face hub, 2022 (the card gives no "
        "citation). https://huggingface.co/datasets/zeroshot/twitter-financial-news-sentiment",
        card=CARD,
        read=read,
        n_rows=11_931,
        data=DATA,
    ),
)
