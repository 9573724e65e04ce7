"""OPUS-100, German and English: a million sentence pairs to translate (Zhang, Williams, Titov, Sennrich 2020).

The set is named de-en; here the German side is the text and the English side what it should become.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmkit.assets.sources import HubData
from slmkit.tasks import Task, _hub

if TYPE_CHECKING:
    import pandas as pd

DATA = HubData(
    "opus100_de_en",
    "Helsinki-NLP/opus-100",
    {"train": "de-en/train-*", "validation": "de-en/validation-*", "test": "de-en/test-*"},
    "d6bac54864fa58429520d6f7d274e960f3b57e83",
)
CARD = """# OPUS-100, German to English
Sentence pairs in German and English: train 1,000,000, validation 2,000, test 2,000.

- Nobody curated the pairs: subtitles of films, strings of the GNOME desktop, the Bible and more, one after the other;
  many are short and noisy.
- No sentence of train stands in validation or test, filtered on each side and over all language pairs (by exact
  match, as its README reads).
- Train is one file of 116 MB; validation and test have about 0.25 MB each.
- OPUS joins many corpora with terms of their own, and the card names no licence, so licence: unknown; check with the
  source before you use it for more than study.
- Hub: Helsinki-NLP/opus-100 (de-en), revision d6bac54864fa58429520d6f7d274e960f3b57e83, which added these files.
"""


def read(data: HubData = DATA) -> pd.DataFrame:
    """All pairs in file order, with their part."""
    return _hub.paired(data, lambda table: _side(table, "de"), lambda table: _side(table, "en"))


def _side(table: pd.DataFrame, language: str) -> list[str]:
    return [pair[language] for pair in table["translation"]]


TASKS = (
    Task(
        name="opus100_de_en",
        title="OPUS-100, German to English",
        labels=(),
        positive=None,
        instruction="Translate the German sentence into English.",
        label_words={},
        noun="sentence",
        licence="unknown (card)",
        source="B. Zhang, P. Williams, I. Titov, R. Sennrich: Improving Massively Multilingual Neural Machine "
        "Translation and Zero-Shot Translation, ACL 2020; J. Tiedemann: Parallel Data, Tools and Interfaces in OPUS, "
        "LREC 2012. https://opus.nlpl.eu/OPUS-100",
        card=CARD,
        read=read,
        n_rows=1_004_000,
        n_bytes=116_680_890,
        data=DATA,
    ),
)
