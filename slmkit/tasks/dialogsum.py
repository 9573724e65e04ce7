"""DialogSum: dialogues and their summaries (Chen, Liu, Chen, Zhang 2021).

The three CSV files are named one by one, for a fourth one, holdout.csv, lies beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmkit.assets.sources import HubData
from slmkit.tasks import Task, _hub

if TYPE_CHECKING:
    import pandas as pd

DATA = HubData(
    "dialogsum",
    "knkarthick/dialogsum",
    {"train": "train.csv", "validation": "validation.csv", "test": "test.csv"},
    "a968e7aee0602e257935f1321a02e4287f7d5848",
)
CARD = """# DialogSum
Dialogues in English and their summaries: train 12,460, validation 500, test 1,500.

- Speakers are placeholders such as "#Person1#".
- By the counts the test part has 500 dialogues with three summaries each (13,460 dialogues in all): its rows are not
  independent.
- holdout.csv, a fourth file of the repository, is not read here.
- The counts are those of the cards of two copies on the hub.
- Licence: CC BY-NC-SA 4.0, so not for commercial use, and what is made of it under the same licence only. "The
  copyright of dialogue data in DialogSum dataset belongs to users who created them."
- Hub: knkarthick/dialogsum, revision a968e7aee0602e257935f1321a02e4287f7d5848.
"""
TERMS = (
    "You may use it for other than commercial purposes only, must name its authors, and may pass on what you make of "
    "its texts under the same licence only."
)


def read(data: HubData = DATA) -> pd.DataFrame:
    """All dialogues and summaries in file order, with their part."""
    return _hub.paired(data, lambda table: table["dialogue"], lambda table: table["summary"])


TASKS = (
    Task(
        name="dialogsum",
        title="DialogSum",
        labels=(),
        positive=None,
        instruction="Summarise the dialogue.",
        label_words={},
        noun="dialogue",
        licence="CC BY-NC-SA 4.0 (non-commercial)",
        source="Y. Chen, Y. Liu, L. Chen, Y. Zhang: DialogSum: A Real-Life Scenario Dialogue Summarization Dataset, "
        "Findings of ACL-IJCNLP 2021. doi:10.18653/v1/2021.findings-acl.449 https://github.com/cylnlp/dialogsum",
        card=CARD,
        read=read,
        n_rows=14_460,
        n_bytes=13_100_000,  # 11.3 MB + 442 kB + 1.35 MB, as the hub rounds them
        data=DATA,
        terms=TERMS,
    ),
)
