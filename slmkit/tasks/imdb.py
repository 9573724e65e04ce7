"""IMDB: 50,000 film reviews, positive or negative (Maas et al. 2011), half of them to train on and half to test on.

The part without labels is left out. "<br />" in a text becomes a line break.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmkit.assets.sources import HubData
from slmkit.tasks import Task, _hub

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("negative", "positive")  # by number; the card calls them neg and pos
DATA = HubData(
    "imdb",
    "stanfordnlp/imdb",
    {"train": "plain_text/train-*", "test": "plain_text/test-*"},
    "e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
    {
        "plain_text/train-00000-of-00001.parquet": "db47d16b5c297cc0dd625e519c81319c24c9149e70e8496de5475f6fa928342c",
        "plain_text/test-00000-of-00001.parquet": "b52e26e2f872d282ffac460bf9770b25ac6f102cda0e6ca7158df98c94e8b3da",
    },
)
CARD = """# IMDB film reviews
Whole film reviews in English, negative or positive: train 25,000, test 25,000.

- Labels are the numbers 0 (neg) and 1 (pos); neutral reviews, 5 and 6 points of 10, are left out of both parts.
- The part "unsupervised" (50,000 rows) has the label -1 in every row: it is not read here.
- Texts hold HTML: "<br />" becomes a line break here, nothing else is changed.
- Train and test have no film in common; up to 30 reviews of one film stand in the same part.
- The first rows seen in train all have one label, so that rows seem sorted: shuffle before you take the head of a file.
- The hub's tag is "other" and no text of it is given, so licence: unknown; check with the source before you use it
  for more than study.
- Hub: stanfordnlp/imdb (plain_text), revision e6281661ce1c48d982bc483cf8a173c1bbeb5d31.
"""


def read(data: HubData = DATA) -> pd.DataFrame:
    """All labelled rows in file order, with their part; "<br />" as line breaks."""
    return _hub.classified(data, lambda table: table["text"].str.replace("<br />", "\n", regex=False), "label", NAMES)


TASKS = (
    Task(
        name="imdb",
        title="IMDB film reviews",
        labels=NAMES,
        positive=None,
        instruction="Decide whether the film review is negative or positive.",
        label_words={name: name for name in NAMES},
        noun="review",
        licence="other (card; no text given)",
        source="A. L. Maas, R. E. Daly, P. T. Pham, D. Huang, A. Y. Ng, C. Potts: Learning Word Vectors for Sentiment "
        "Analysis, ACL-HLT 2011. http://ai.stanford.edu/~amaas/data/sentiment/",
        card=CARD,
        read=read,
        n_rows=50_000,
        n_bytes=41_450_331,
        data=DATA,
    ),
)
