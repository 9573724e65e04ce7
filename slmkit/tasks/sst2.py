"""SST-2: phrases and sentences of film reviews, positive or negative (Socher et al. 2013).

The published test part has only the label -1, so that it is not read: compare on the validation part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmkit.assets.sources import HubData
from slmkit.tasks import Task, _hub

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("negative", "positive")  # by number
DATA = HubData(
    "sst2",
    "stanfordnlp/sst2",
    {"train": "data/train-*", "validation": "data/validation-*"},
    "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb",
    {
        "data/train-00000-of-00001.parquet": "c7921283b75a42e685f50edecb96798607ea0fcbfd0739ee8975f22c12d55f09",
        "data/validation-00000-of-00001.parquet": "fb00fe008f6828f86ba2beda8415a4cf5da0c884f21c5f238c87131b5aa19529",
    },
)
CARD = """# SST-2 (Stanford Sentiment Treebank, two classes)
Phrases and sentences of film reviews in English, negative or positive: train 67,349, validation 872.

- The test part (1,821 rows) has the label -1 in every row, for its labels are hidden: it is not read here.
- Train holds many phrases cut from sentences; the original split has 6,920 full sentences.
- By one third-party count train holds 371 repeated rows and 5 groups of equal texts with different labels.
- Sentences are lower-case and tokenised, and may end with a space; they are given as published.
- The card names no licence, so licence: unknown; check with the source before you use it for more than study.
- Hub: stanfordnlp/sst2, revision 8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb.
"""


def read(data: HubData = DATA) -> pd.DataFrame:
    """All labelled rows in file order, with their part."""
    return _hub.classified(data, "sentence", "label", NAMES)


TASKS = (
    Task(
        name="sst2",
        title="SST-2",
        labels=NAMES,
        positive=None,
        instruction="Decide whether the sentence from a film review is negative or positive.",
        label_words={name: name for name in NAMES},
        noun="sentence",
        licence="unknown (card)",
        source="R. Socher, A. Perelygin, J. Wu, J. Chuang, C. D. Manning, A. Ng, C. Potts: Recursive Deep Models for "
        "Semantic Compositionality Over a Sentiment Treebank, EMNLP 2013. https://nlp.stanford.edu/sentiment/",
        card=CARD,
        read=read,
        n_rows=68_221,
        n_bytes=3_183_271,
        data=DATA,
    ),
)
