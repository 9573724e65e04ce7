"""Enron spam: 33,716 e-mails, normal or spam (Metsis, Androutsopoulos, Paliouras 2006), subject and body in one text.

The repository also holds a CSV with the same mails, test ones included; only the two files of the split are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmkit.assets.sources import HubData
from slmkit.tasks import Task, _hub

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("ham", "spam")  # by number
DATA = HubData(
    "enron_spam",
    "SetFit/enron_spam",
    {"train": "train.jsonl", "test": "test.jsonl"},
    "1916f66c89d52221ae33eb57d44498b4f3a5df22",
    {
        "train.jsonl": "b846cf15bcad7676c37ea3535622e39e6bff5c9c004f634513e4f9c2951e5f02",
        "test.jsonl": "f07a4cca7bfc1d845d4ff59650e69a0ad31d9b5c0409ddad088219f7fc32bb52",
    },
)
CARD = """# Enron spam
E-mails in English, normal ("ham") or spam: train 31,716, test 2,000; of all 33,716 mails 17,171 are spam.

- A text is the subject, a space and the body, as the column "text" holds them; a body may be empty.
- The parts are one random shuffle of all mails; no step that removes repeated mails was seen, so that some may stand
  in both. How many was not verified: slmkit removes duplicates when it splits.
- enron_spam_data.csv beside the two files holds the same mails, test ones included: it is never read here.
- Texts come from real mailboxes: expect names, addresses and phone numbers.
- The README names no licence, so licence: unknown; check with the source before you use it for more than study.
- Hub: SetFit/enron_spam, revision 1916f66c89d52221ae33eb57d44498b4f3a5df22.
"""


def read(data: HubData = DATA) -> pd.DataFrame:
    """All rows in file order, with their part."""
    return _hub.classified(data, "text", "label", NAMES)


TASKS = (
    Task(
        name="enron_spam",
        title="Enron spam",
        labels=NAMES,
        positive="spam",
        instruction="Decide whether the e-mail is spam or normal.",
        label_words={"ham": "normal", "spam": "spam"},
        noun="e-mail",
        licence="unknown (card)",
        source="V. Metsis, I. Androutsopoulos, G. Paliouras: Spam Filtering with Naive Bayes - Which Naive Bayes?, "
        "CEAS 2006. https://github.com/MWiechmann/enron_spam_data",
        card=CARD,
        read=read,
        n_rows=33_716,
        n_bytes=107_000_000,  # 101 MB + 6.27 MB, as the hub rounds them
        data=DATA,
    ),
)
