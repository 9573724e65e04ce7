"""AG News: 127,600 news items of four topics, the classification set that Zhang, Zhao and LeCun (2015) made of AG's.

Its card gives it for other than commercial activity, so that this has to be accepted before it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmkit.assets.sources import HubData
from slmkit.tasks import Task, _hub

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("world", "sports", "business", "sci/tech")  # by number
WORDS = {"business": "business", "sci/tech": "technology", "sports": "sports", "world": "world"}
DATA = HubData(
    "ag_news",
    "fancyzhx/ag_news",
    {"train": "data/train-*", "test": "data/test-*"},
    "eb185aade064a813bc0b7f42de02595523103ca4",
    {
        "data/train-00000-of-00001.parquet": "fc508d6d9868594e3da960a8cfeb63ab5a4746598b93428c224397080c1f52ee",
        "data/test-00000-of-00001.parquet": "71de87ec66bc5737752a2502204dfa6d7fe9856ade3ea444dc6317789a4f13fb",
    },
)
CARD = """# AG News
News items in English about the world, sports, business, or science and technology: train 120,000, test 7,600.

- Labels are the numbers 0 World, 1 Sports, 2 Business, 3 Sci/Tech; the authors' own CSV counts from 1.
- There is no validation part: take one from train.
- By one third-party count about 52 % of the rows hold broken HTML entities (" #39;", "quot;"), tags or backslashes
  for lost line breaks; texts are given as published.
- By the same count 348 groups (697 rows) are nearly the same, 32 of the groups span train and test, 55 have different
  labels.
- The card gives it to the academic community "for research purposes [...] and any other non-commercial activity" and
  names no licence, so licence: unknown; check with the source before you use it for more than study.
- Hub: fancyzhx/ag_news, revision eb185aade064a813bc0b7f42de02595523103ca4.
"""
TERMS = "Its card provides it for research and other non-commercial activity only."


def read(data: HubData = DATA) -> pd.DataFrame:
    """All rows in file order, with their part."""
    return _hub.classified(data, "text", "label", NAMES)


TASKS = (
    Task(
        name="ag_news",
        title="AG News",
        labels=tuple(sorted(NAMES)),
        positive=None,
        instruction="Decide whether the news is about the world, sports, business or technology.",
        label_words=WORDS,
        noun="news",
        licence="unknown (card: non-commercial)",
        source="X. Zhang, J. Zhao, Y. LeCun: Character-level Convolutional Networks for Text Classification, NIPS "
        "2015. http://groups.di.unipi.it/~gulli/AG_corpus_of_news_articles.html",
        card=CARD,
        read=read,
        n_rows=127_600,
        n_bytes=19_820_267,
        data=DATA,
        terms=TERMS,
    ),
)
