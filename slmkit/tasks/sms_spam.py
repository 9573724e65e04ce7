"""SMS Spam Collection: 5574 English text messages, 747 of them spam (Almeida, Hidalgo, Yamakami 2011).

Read from a local mirror by hash, for some copies on the web are another file. Quotes in it are part of the messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmkit.assets.sources import DataFile
from slmkit.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

URL = "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip"
DATA = DataFile(
    "sms_spam/SMSSpamCollection",
    url=URL,
    sha256="7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d",
    member="SMSSpamCollection",
)
CARD = """# SMS Spam Collection v.1
5574 text messages in English: 4827 normal ("ham"), 747 spam, gathered from British and Singaporean sources up to 2011.

- 403 rows are exact duplicates, about 440 after normalisation; split at random, 11 % of the test rows
  also stand in train.
- Spam of that time sells ring tones; today's fraud reads differently. A linear model already reaches 98.5 % and more.
- Licence: CC BY 4.0. Source: UCI machine learning repository, data set 228.
"""


def read() -> pd.DataFrame:
    """All rows in file order, duplicates included."""
    from slmkit import data
    from slmkit.assets import sources

    lines = sources.path(DATA, "sms_spam").read_bytes().decode("utf-8").split("\n")
    rows = [line.split("\t", 1) for line in lines if line]
    return data.finish([text for _, text in rows], [label for label, _ in rows])


TASKS = (
    Task(
        name="sms_spam",
        title="SMS spam",
        labels=("ham", "spam"),
        positive="spam",
        instruction="Decide whether the text message is spam or normal.",
        label_words={"ham": "normal", "spam": "spam"},
        noun="message",
        licence="CC BY 4.0",
        source="T. A. Almeida, J. M. Gomez Hidalgo, A. Yamakami: Contributions to the Study of SMS Spam Filtering, "
        "DocEng 2011. https://archive.ics.uci.edu/dataset/228/sms+spam+collection",
        card=CARD,
        read=read,
        n_rows=5574,
        n_bytes=203_415,
        data=DATA,
    ),
)
